"""Losses over features: drawn shapes against the definitions, variants, extremes, wrong input."""

import importlib.util
import inspect
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch.autograd import gradcheck, gradgradcheck

from limbeck import losses
from limbeck.errors import InputError
from limbeck.losses.features import batch_norm_margin

_spec = importlib.util.spec_from_file_location(
    "feature_trials", Path(__file__).parent / "trials" / "feature.py"
)
definitions = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(definitions)

few = settings(max_examples=25, deadline=None)

# Every form, by the shapes that it takes: `same` is one shape of any kind, `maps` two maps whose
# channels and sizes may differ, `channels` two maps of as many channels.
FORMS = {
    "fitnet_hint": ("same", [{}, {"norm": "l1"}, {"norm": "huber"}]),
    "attention_transfer": ("maps", [{}, {"norm": "sum"}, {"power": 1.0}, {"power": 4.0}]),
    "gram": ("channels", [{}, {"scale": "sum"}]),
    "activation_boundary": ("same", [{}, {"margin": 0.2}, {"variant": "margin"}]),
    "neuron_selectivity": ("maps", [{}, {"kernel": "linear"}]),
    "factor_transfer": ("maps", [{}, {"distance": "l2"}, {"power": 1.5}]),
    "variational_information": ("same", [{"variance": 0.3}, {"variance": 4.0}]),
    "overhaul": ("same", [{"margin": 0.0}, {"margin": -0.7}]),
    "review_kd": ("same", [{}]),
}
CASES = [
    pytest.param(name, form, id=f"{name}-{place}")
    for name, (_, forms) in FORMS.items()
    for place, form in enumerate(forms)
]


@st.composite
def shapes(draw, kind):
    """Shapes of a student's and a teacher's features."""
    samples = draw(st.integers(1, 3))

    def shape(axes):
        return [draw(st.integers(1, 6)) for _ in range(axes)]

    if kind == "same":
        student = shape(draw(st.integers(1, 3)))
        return (samples, *student), (samples, *student)
    axes = draw(st.integers(2, 3))
    student, teacher = shape(axes), shape(axes)
    if kind == "channels":
        place = 0 if axes == 3 else 1
        teacher[place] = student[place]
    return (samples, *student), (samples, *teacher)


def value_and_gradient(loss, student):
    leaf = torch.tensor(student, requires_grad=True)
    value = loss(leaf)
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach().numpy(), gradient.numpy()


def differences(function, at, direction, step=1e-6):
    """The slope along a direction."""
    up, down = (function(at + sign * step * direction).sum() for sign in (1, -1))
    return (up - down) / (2 * step)


@pytest.mark.parametrize(("name", "form"), CASES)
@few
@given(data=st.data())
def test_value_and_gradient_equal_the_definition(name, form, data):
    student_shape, teacher_shape = data.draw(shapes(FORMS[name][0]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    scale = data.draw(st.sampled_from([0.1, 1.0, 5.0]))
    student, teacher = (
        rng.normal(size=student_shape) * scale,
        rng.normal(size=teacher_shape) * scale,
    )
    loss, definition = losses.find(name), getattr(definitions, name)
    value, gradient = value_and_gradient(lambda s: loss(s, torch.tensor(teacher), **form), student)
    reference = partial(definition, teacher=teacher, **form)
    expected = reference(student)
    np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-12 * (1 + scale**4))
    direction = rng.normal(size=student_shape) * scale
    slope = differences(reference, student, direction)
    size = np.abs(gradient * direction).sum() + np.abs(expected).sum()
    assert abs((gradient * direction).sum() - slope) <= 1e-6 * max(size, 1e-6)


@pytest.mark.parametrize("distance", ["l1", "l2"])
@pytest.mark.parametrize("shape", [(3, 5), (3, 4, 5), (3, 4, 2, 3)])
def test_whole_factors_are_compared_by_their_directions(distance, shape):
    student, teacher = np.random.default_rng(0).normal(size=(2, *shape))
    form = {"form": "factor", "distance": distance}
    value = losses.factor_transfer(torch.tensor(student), torch.tensor(teacher), **form)
    np.testing.assert_allclose(value, definitions.factor_transfer(student, teacher, **form))
    louder = losses.factor_transfer(torch.tensor(100 * student), torch.tensor(teacher), **form)
    torch.testing.assert_close(louder, value)


@pytest.mark.parametrize("shape", [(4, 3), (4, 5, 3), (4, 3, 2, 2)])
def test_one_variance_per_channel_has_a_gradient(shape):
    """Its best value is the mean squared error of the channel."""
    student, teacher = torch.randn(2, *shape, dtype=torch.float64)
    axis = 2 if len(shape) == 3 else 1
    others = [place for place in range(len(shape)) if place != axis]
    variance = (student - teacher).square().mean(others).requires_grad_()
    value = losses.variational_information(student, teacher, variance=variance)
    (slope,) = torch.autograd.grad(value.sum(), variance)
    assert slope.abs().max() < 1e-12
    expected = definitions.variational_information(
        student.numpy(), teacher.numpy(), variance=variance.detach().numpy()
    )
    np.testing.assert_allclose(value.detach(), expected)
    smaller = losses.variational_information(student, teacher, variance=variance / 2)
    assert torch.autograd.grad(smaller.sum(), variance)[0].max() < 0


def test_a_margin_has_no_gradient():
    student = torch.randn(2, 3, 2, 2, requires_grad=True)
    margin = torch.full((3,), -0.5, requires_grad=True)
    losses.overhaul(student, torch.randn(2, 3, 2, 2), margin=margin).sum().backward()
    assert margin.grad is None


@few
@given(st.floats(0.01, 3.0), st.floats(-4.0, 2.5))
def test_batch_norm_margins_are_means_of_negative_values(deviation, mean):
    weight, bias = torch.tensor([deviation, -deviation]).double(), torch.tensor([mean] * 2).double()
    margin = batch_norm_margin(weight, bias)
    if stats.norm.cdf(-mean / deviation) > 1e-3:
        expected = stats.truncnorm.mean(-np.inf, -mean / deviation, loc=mean, scale=deviation)
    else:
        expected = -3 * deviation
    np.testing.assert_allclose(margin, [expected] * 2, rtol=1e-6)


def test_batch_norm_margins_of_channels_that_are_constant():
    margin = batch_norm_margin(torch.zeros(3), torch.tensor([-2.0, 0.0, 2.0]))
    assert margin.tolist() == [-2.0, 0.0, 0.0]
    with pytest.raises(InputError, match="two tensors"):
        inspect.unwrap(batch_norm_margin)(torch.zeros(3), torch.zeros(2))


def test_the_scales_are_those_of_the_benchmark():
    """Means over features or places where it takes means, sums where it takes sums."""
    student, teacher = torch.randn(2, 4, 8, 6, 6, dtype=torch.float64)
    mean_map = losses.attention_transfer(student, teacher)
    torch.testing.assert_close(
        losses.attention_transfer(student, teacher, norm="sum"), 36 * mean_map
    )
    gatys, total = losses.gram(student, teacher), losses.gram(student, teacher, scale="sum")
    torch.testing.assert_close(total, gatys * 4 * 8**2 * 36**2)
    for loss in (partial(losses.overhaul, margin=-1.0), losses.activation_boundary):
        twice = loss(torch.cat([student, student], 1), torch.cat([teacher, teacher], 1))
        torch.testing.assert_close(twice, 2 * loss(student, teacher))
    for loss in (losses.fitnet_hint, losses.review_kd, losses.attention_transfer):
        twice = loss(torch.cat([student, student], 1), torch.cat([teacher, teacher], 1))
        torch.testing.assert_close(twice, loss(student, teacher))


def test_the_margin_form_moves_neurons_off_the_other_side():
    """Downhill from anywhere on the wrong side is towards the teacher's."""
    student = torch.linspace(-5, -0.01, 50, dtype=torch.float64).unsqueeze(1).requires_grad_()
    teacher = torch.full((50, 1), 2.0, dtype=torch.float64)
    loss = partial(losses.activation_boundary, variant="margin")
    assert (torch.autograd.grad(loss(student, teacher).sum(), student)[0] < 0).all()
    assert (torch.autograd.grad(loss(-student, -teacher).sum(), student)[0] < 0).all()
    nowhere = torch.zeros(1, 1, requires_grad=True)
    loss(nowhere, torch.ones(1, 1)).sum().backward()
    assert nowhere.grad < 0


@pytest.mark.parametrize("power", [2.0, 3.0])
def test_attention_has_a_second_derivative(power):
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 2, 3, 2, 2, generator=generator, dtype=torch.float64)
    student.requires_grad_()

    def value(features):
        return losses.attention_transfer(features, teacher, power=power)

    assert gradcheck(value, (student,))
    assert gradgradcheck(value, (student,))


def test_both_forms_of_neuron_selectivity_agree():
    """Through the channels' products or the places', whichever are fewer."""
    for channels, side in ((9, 2), (4, 4), (2, 5)):
        student = np.random.default_rng(1).normal(size=(2, channels, side, side))
        teacher = np.random.default_rng(2).normal(size=(2, 3, side, side))
        value = losses.neuron_selectivity(torch.tensor(student), torch.tensor(teacher))
        np.testing.assert_allclose(value, definitions.neuron_selectivity(student, teacher))


def test_review_kd_of_one_pair_or_several():
    student, teacher = ([torch.randn(3, 2, s, s) for s in (8, 4, 1)] for _ in range(2))
    each = [losses.review_kd(s, t) for s, t in zip(student, teacher, strict=True)]
    torch.testing.assert_close(losses.review_kd(student, teacher), sum(each))
    torch.testing.assert_close(losses.review_kd(tuple(student[:1]), teacher[:1]), each[0])
    torch.testing.assert_close(each[2], losses.fitnet_hint(student[2], teacher[2]))
    vectors = [layer.flatten(1) for layer in (student[2], teacher[2])]
    torch.testing.assert_close(losses.review_kd(*vectors), each[2])


@pytest.mark.parametrize(("name", "form"), CASES)
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(name, form, half):
    student, teacher = torch.randn(2, 3, 4, 6, 6).to(half)
    loss = partial(losses.find(name), **form)
    value = loss(student, teacher)
    assert value.dtype == torch.float32
    assert torch.equal(value, loss(student.float(), teacher.float()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(loss(student.float(), teacher.float()), value)


@pytest.mark.parametrize(("name", "form"), CASES)
@pytest.mark.parametrize("dead", ["both", "student", "teacher", "a channel", "equal", "one"])
def test_zero_features_are_finite(name, form, dead):
    student, teacher = torch.randn(2, 3, 4, 4, 4)
    if dead in ("both", "student"):
        student = torch.zeros_like(student)
    if dead in ("both", "teacher"):
        teacher = torch.zeros_like(teacher)
    if dead == "a channel":
        student[:, 0], teacher[:, 0] = 0, 0
    if dead == "equal":
        student = teacher.clone()
    if dead == "one":
        student, teacher = student[:1, :1, :1, :1], teacher[:1, :1, :1, :1]
    leaf = student.clone().requires_grad_()
    value = losses.find(name)(leaf, teacher, **form)
    assert value.isfinite().all()
    value.sum().backward()
    assert leaf.grad.isfinite().all()


def call(name, *args, **kwargs):
    """Call the function itself, below the shape checks that the test session puts around it."""
    return inspect.unwrap(losses.find(name))(*args, **kwargs)


MAPS = torch.zeros(2, 3, 4, 4)
WRONG = [
    ("fitnet_hint", MAPS, MAPS, {"norm": "l3"}, "norm", "l2, l1, huber"),
    ("fitnet_hint", MAPS.long(), MAPS, {}, "student", "floating-point"),
    ("fitnet_hint", MAPS, MAPS[:1], {}, "teacher", "one shape"),
    ("fitnet_hint", MAPS[:, :0], MAPS[:, :0], {}, "student", "at least one feature"),
    ("attention_transfer", MAPS, MAPS, {"power": 0.5}, "power", "from 1"),
    ("attention_transfer", MAPS, MAPS, {"power": "2"}, "power", "from 1"),
    ("attention_transfer", MAPS, MAPS, {"norm": "avg"}, "norm", "mean, sum"),
    ("attention_transfer", MAPS[:, :, 0, 0], MAPS, {}, "student", "[samples, channels, height"),
    ("attention_transfer", MAPS, MAPS[:, :, 0], {}, "teacher", "of one layout"),
    ("attention_transfer", MAPS, MAPS[:1], {}, "teacher", "the same samples"),
    ("attention_transfer", MAPS, MAPS[:, :, :0], {}, "teacher", "none but the samples' of size 0"),
    ("gram", MAPS, MAPS[:, :2], {}, "teacher", "as many channels"),
    ("gram", MAPS, MAPS, {"scale": "gaty"}, "scale", "gatys, sum"),
    ("activation_boundary", MAPS, MAPS[:, :2], {}, "teacher", "one shape"),
    ("activation_boundary", MAPS, MAPS, {"margin": 0.0}, "margin", "above 0"),
    ("activation_boundary", MAPS, MAPS, {"margin": None}, "margin", "above 0"),
    ("activation_boundary", MAPS, MAPS, {"variant": "hing"}, "variant", "hinge, margin"),
    ("neuron_selectivity", MAPS, MAPS.long(), {}, "teacher", "floating-point"),
    ("neuron_selectivity", MAPS, MAPS, {"kernel": "poly"}, "kernel", "polynomial, linear"),
    ("factor_transfer", MAPS, MAPS, {"form": "paper"}, "form", "map, factor"),
    ("factor_transfer", MAPS, MAPS, {"distance": "l0"}, "distance", "l1, l2"),
    ("factor_transfer", MAPS, MAPS[:, :2], {"form": "factor"}, "teacher", "one shape"),
    ("variational_information", MAPS, MAPS, {"variance": 0.0}, "variance", "above 0"),
    ("variational_information", MAPS, MAPS, {"variance": "1"}, "variance", "above 0"),
    (
        "variational_information",
        MAPS,
        MAPS,
        {"variance": torch.ones(2)},
        "variance",
        "one number per channel",
    ),
    ("overhaul", MAPS, MAPS, {"margin": 0.1}, "margin", "at most 0"),
    ("overhaul", MAPS, MAPS, {"margin": torch.zeros(5, 5)}, "margin", "one number per channel"),
    ("overhaul", MAPS, MAPS[:, :, :2], {"margin": 0.0}, "teacher", "one shape"),
    ("review_kd", MAPS, MAPS[:, :2], {}, "teacher", "one shape"),
    ("review_kd", [MAPS], [MAPS, MAPS], {}, "teacher", "as many layers"),
    ("review_kd", [], [], {}, "teacher", "as many layers"),
    ("review_kd", [MAPS, MAPS[:1]], [MAPS, MAPS[:1]], {}, "student", "same samples"),
    ("review_kd", MAPS[0, 0, 0], MAPS[0, 0, 0], {}, "student", "[samples, d]"),
]


@pytest.mark.parametrize(("name", "student", "teacher", "form", "place", "allowed"), WRONG)
def test_invalid_input_raises(name, student, teacher, form, place, allowed):
    with pytest.raises(InputError) as caught:
        call(name, student, teacher, **form)
    [problem] = caught.value.problems
    assert problem.where == f"{name}.{place}"
    assert allowed in problem.allowed


@pytest.mark.parametrize(("name", "form"), CASES)
def test_an_empty_batch_has_no_values(name, form):
    empty = torch.zeros(0, 3, 4, 4, requires_grad=True)
    value = losses.find(name)(empty, torch.zeros(0, 3, 4, 4), **form)
    assert value.shape == (0,)
    value.sum().backward()
    assert empty.grad.shape == empty.shape
