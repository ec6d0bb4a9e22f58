"""Relations between samples, places and layers against their definitions on drawn inputs."""

import importlib.util
import inspect
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from limbeck import losses
from limbeck.errors import InputError
from limbeck.losses import relations

few = settings(max_examples=25, deadline=None)


def load(name):
    path = Path(__file__).parent / "trials" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"references_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


references = load("relation")
OF_SAMPLES = {
    "rkd_distance": [{}, {"similarity": "kl", "temperature": 0.5}],
    "rkd_angle": [{}, {"similarity": "kl", "temperature": 2.0}],
    "similarity_preserving": [{}],
    "correlation_congruence": [{}, {"kernel": "bilinear"}, {"gamma": 2.0, "order": 5}],
    "pkt": [{}],
}
FORMS = [
    pytest.param(name, form, id=f"{name}-{place}")
    for name, forms in OF_SAMPLES.items()
    for place, form in enumerate(forms)
]


def seeds():
    return st.integers(0, 2**32 - 1)


@st.composite
def sides(draw):
    """Features of one to six samples; either side has a width of its own."""
    rng, samples = np.random.default_rng(draw(seeds())), draw(st.integers(1, 6))
    scale = draw(st.sampled_from([0.01, 1.0, 100.0]))
    shape, width = draw(st.sampled_from([(2,), (5,), (2, 1, 3)])), draw(st.integers(2, 6))
    return rng.normal(size=(samples, *shape)) * scale, rng.normal(size=(samples, width)) * scale


@st.composite
def maps(draw):
    """Maps of one to three samples; either side has a number of channels and a size of its own."""
    rng, samples = np.random.default_rng(draw(seeds())), draw(st.integers(1, 3))
    shapes = [(samples, *(draw(st.integers(1, 4)) for _ in range(3))) for _ in range(2)]
    return [rng.normal(size=shape) for shape in shapes]


def value_and_gradient(loss, student, teacher):
    leaf = torch.tensor(student, requires_grad=True)
    value = loss(leaf, torch.tensor(teacher))
    assert value.shape == ()
    value.backward()
    return value.item(), leaf.grad.numpy()


def differences(function, at):
    """Central differences of fourth order, steps in proportion to each row."""
    largest = np.abs(at).reshape(len(at), -1).max(axis=1)
    steps = 1e-5 * np.maximum(largest, 1e-3 * max(largest.max(), 1e-3))

    def moved(place, by):
        other = at.copy()
        other[place] += by
        return function(other)

    result = np.zeros_like(at)
    for place in np.ndindex(*at.shape):
        step = steps[place[0]]
        near = moved(place, step) - moved(place, -step)
        far = moved(place, 2 * step) - moved(place, -2 * step)
        result[place] = (8 * near - far) / (12 * step)
    return result


def agree(loss, reference, student, teacher):
    value, gradient = value_and_gradient(loss, student, teacher)
    expected = reference(student, teacher)
    assert value == pytest.approx(expected, rel=1e-9, abs=1e-12)
    slopes = differences(lambda at: reference(at, teacher), student)
    # Finite differences are inexact for gradients far smaller than the value.
    floor = 1e-5 * (abs(expected) + 1e-6) / np.abs(student).max()
    np.testing.assert_allclose(
        gradient, slopes, rtol=1e-6, atol=1e-6 * np.abs(slopes).max() + floor
    )


@pytest.mark.parametrize(("name", "form"), FORMS)
@few
@given(drawn=sides())
def test_relations_of_samples(name, form, drawn):
    # Between two rows of the same direction, or against each other, a cosine has a kink: within
    # a step of it, differences are inexact.
    assume(farthest_from_parallel(drawn[0]) > 1e-5)
    reference = partial(getattr(references, name), **form)
    agree(partial(losses.find(name), **form), reference, *drawn)


def farthest_from_parallel(rows):
    """The least of 1 - |cosine| over all pairs of rows."""
    flat = rows.reshape(len(rows), -1)
    element = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    pairs = np.abs(element @ element.T)[np.triu_indices(len(rows), 1)]
    return 1 - pairs.max(initial=0.0)


@pytest.mark.parametrize("normalized", [False, True])
@few
@given(drawn=maps())
def test_relations_of_positions(normalized, drawn):
    form = {"normalized": normalized}
    reference = partial(references.spatial_correlation, **form)
    agree(partial(losses.spatial_correlation, **form), reference, *drawn)


@few
@given(seeds(), st.tuples(*[st.integers(1, 4)] * 6), st.tuples(*[st.integers(1, 4)] * 4))
def test_relations_of_layers(seed, shape, sizes):
    rng = np.random.default_rng(seed)
    channels, places = shape[:2], (shape[2:4], shape[4:6], sizes[:2], sizes[2:])
    student, teacher = (
        [rng.normal(size=(2, c, *size)) for c, size in zip(channels, pair, strict=True)]
        for pair in (places[:2], places[2:])
    )
    leaves = [torch.tensor(one, requires_grad=True) for one in student]
    value = losses.fsp(leaves, [torch.tensor(one) for one in teacher])
    assert value.item() == pytest.approx(references.fsp(student, teacher), rel=1e-9)
    value.backward()
    for place, leaf in enumerate(leaves):

        def with_other(at, place=place):
            return references.fsp(
                [at if i == place else one for i, one in enumerate(student)], teacher
            )

        slopes = differences(with_other, student[place])
        np.testing.assert_allclose(leaf.grad.numpy(), slopes, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_equal_samples_and_zeros_have_a_finite_gradient(name, form):
    torch.manual_seed(0)
    teacher = torch.randn(5, 4)
    student = torch.randn(5, 3)
    student[1] = student[0]
    student[2] = 0
    value, gradient = value_and_gradient(
        partial(losses.find(name), **form), student.double().numpy(), teacher.double().numpy()
    )
    expected = getattr(references, name)(student.double().numpy(), teacher.double().numpy(), **form)
    assert value == pytest.approx(expected, rel=1e-9)
    assert np.abs(gradient).max() < 10  # neither NaN nor one divided by almost nothing


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_one_sample_has_no_relations(name, form):
    student = torch.randn(1, 3, requires_grad=True)
    value = losses.find(name)(student, torch.randn(1, 4), **form)
    value.backward()
    assert value.abs() < 1e-6
    assert student.grad.abs().max() < 1e-6


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_nan_is_propagated(name, form):
    student = torch.randn(3, 2)
    student[0, 0] = torch.nan
    assert losses.find(name)(student, torch.randn(3, 2), **form).isnan()


@pytest.mark.parametrize("name", ["similarity_preserving", "pkt"])
def test_closed_form_gradients_pass_gradcheck(name):
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 4, 3, generator=generator, dtype=torch.float64)
    student.requires_grad_()

    def value(features):
        return losses.find(name)(features, teacher)

    assert gradcheck(value, (student,))
    assert gradgradcheck(value, (student,))


def test_distances_are_exact_far_from_zero():
    torch.manual_seed(0)
    student, teacher = torch.randn(6, 4), torch.randn(6, 4)
    far = (64 * student).round() / 64 + 4096  # a shift that float32 holds exactly
    near = far - 4096
    for loss in (losses.rkd_distance, losses.rkd_angle):
        torch.testing.assert_close(loss(far, teacher), loss(near, teacher), rtol=1e-6, atol=0)


def test_rkd_is_invariant_to_translation_scale_and_rotation():
    torch.manual_seed(0)
    teacher = torch.randn(6, 4, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q
    student = 3 * teacher @ turn + 7
    assert losses.rkd_distance(student, teacher) < 1e-20
    assert losses.rkd_angle(student, teacher) < 1e-20


@pytest.mark.parametrize("form", OF_SAMPLES["rkd_angle"])
@pytest.mark.parametrize("limit", [1, 200, 2**24])
def test_angles_in_blocks_equal_the_whole(form, limit, monkeypatch):
    torch.manual_seed(0)
    student, teacher = (
        torch.randn(7, 3, dtype=torch.float64),
        torch.randn(7, 5, dtype=torch.float64),
    )
    reference = references.rkd_angle(student.numpy(), teacher.numpy(), **form)
    _, expected = value_and_gradient(
        partial(losses.rkd_angle, **form), student.numpy(), teacher.numpy()
    )
    monkeypatch.setattr(relations, "_BLOCK", limit)
    value, gradient = value_and_gradient(
        partial(losses.rkd_angle, **form), student.numpy(), teacher.numpy()
    )
    assert value == pytest.approx(reference, rel=1e-12)
    np.testing.assert_allclose(gradient, expected, rtol=1e-10, atol=1e-14)


def test_drawn_triplets_are_unbiased():
    torch.manual_seed(0)
    student, teacher = torch.randn(6, 4), torch.randn(6, 4)
    drawn = losses.rkd_angle(student, teacher, triplets=200_000)
    torch.testing.assert_close(drawn, losses.rkd_angle(student, teacher), rtol=0.02, atol=0)


def test_drawn_pairs_are_close():
    torch.manual_seed(0)
    student, teacher = torch.randn(6, 4), torch.randn(6, 4)
    drawn = losses.rkd_distance(student, teacher, pairs=200_000)
    torch.testing.assert_close(drawn, losses.rkd_distance(student, teacher), rtol=0.02, atol=0)


@pytest.mark.parametrize(("loss", "drawn"), [("rkd_distance", "pairs"), ("rkd_angle", "triplets")])
def test_draws_are_reproducible_by_generator(loss, drawn):
    student, teacher = torch.randn(9, 4, requires_grad=True), torch.randn(9, 4)

    def value(seed):
        generator = torch.Generator().manual_seed(seed)
        return losses.find(loss)(student, teacher, generator=generator, **{drawn: 20})

    state = torch.get_rng_state()
    assert value(1) == value(1) != value(2)
    assert torch.equal(torch.get_rng_state(), state)
    value(1).backward()
    assert student.grad.isfinite().all()


def test_draws_of_equal_samples_only_are_finite():
    student = torch.zeros(3, 2, requires_grad=True)
    for loss in (partial(losses.rkd_distance, pairs=5), partial(losses.rkd_angle, triplets=5)):
        value = loss(student, torch.randn(3, 2))
        assert torch.autograd.grad(value, student)[0].isfinite().all()


def test_correlation_of_samples_and_of_positions_differ():
    torch.manual_seed(0)
    maps = torch.randn(4, 3, 2, 2)
    turned = maps.flip(1)  # another order of channels: the same for both
    assert losses.spatial_correlation(maps, turned) < 1e-9
    assert losses.correlation_congruence(maps, turned) < 1e-9
    moved = maps.clone()
    moved[0] = maps[0].flip(-1)  # other places in one sample
    assert losses.spatial_correlation(moved, maps) > 1
    assert losses.correlation_congruence(moved, maps) > 1e-4
    swapped = maps.clone()
    swapped[0] = -maps[0]  # within the sample nothing changes
    assert losses.spatial_correlation(swapped, maps) < 1e-9
    assert losses.correlation_congruence(swapped, maps) > 1e-4


def test_pkt_is_not_negative_but_for_rounding():
    torch.manual_seed(0)
    for scale in (1e-4, 1.0):
        teacher = torch.randn(32, 8)
        student = teacher + scale * torch.randn(32, 8)
        assert losses.pkt(student, teacher) > -1e-9
    opposite = torch.tensor([[1.0], [-1.0], [-1.0]], requires_grad=True)
    value = losses.pkt(opposite, torch.tensor([[1.0], [1.0], [-1.0]]))
    assert value > 0
    assert torch.autograd.grad(value, opposite)[0].isfinite().all()


def call(name, *args, **kwargs):
    """Call the function itself, below the shape checks that the test session puts around it."""
    return inspect.unwrap(losses.find(name))(*args, **kwargs)


ROWS, MAPS = torch.zeros(2, 3), torch.zeros(2, 3, 4, 4)
WRONG = [
    *(
        wrong
        for name in OF_SAMPLES
        for wrong in (
            (name, ROWS, torch.zeros(3, 3), {}, "teacher", "as many samples"),
            (name, ROWS.long(), ROWS, {}, "student", "floating-point"),
            (name, ROWS, ROWS.long(), {}, "teacher", "floating-point"),
            (name, torch.zeros(2), ROWS, {}, "student", "[samples, ...]"),
            (name, torch.zeros(2, 0), ROWS, {}, "student", "at least one feature"),
        )
    ),
    ("rkd_distance", ROWS, ROWS, {"similarity": "hubert"}, "similarity", "huber, kl"),
    ("rkd_angle", ROWS, ROWS, {"temperature": 0.0}, "temperature", "above 0"),
    ("rkd_distance", ROWS, ROWS, {"pairs": 0}, "pairs", "at least 1"),
    ("rkd_angle", ROWS, ROWS, {"triplets": 2.0}, "triplets", "at least 1"),
    ("rkd_angle", ROWS, ROWS, {"triplets": 2, "similarity": "kl"}, "triplets", "only with"),
    ("correlation_congruence", ROWS, ROWS, {"kernel": "rbf"}, "kernel", "gaussian, bilinear"),
    ("correlation_congruence", ROWS, ROWS, {"gamma": 0}, "gamma", "above 0"),
    ("correlation_congruence", ROWS, ROWS, {"order": 0}, "order", "at least 1"),
    ("spatial_correlation", ROWS, MAPS, {}, "student", "height, width"),
    ("spatial_correlation", MAPS, MAPS[:1], {}, "teacher", "as many samples"),
    ("spatial_correlation", MAPS, MAPS.long(), {}, "teacher", "floating-point"),
    ("fsp", [MAPS], [MAPS], {}, "student", "two layers"),
    ("fsp", MAPS, [MAPS, MAPS], {}, "student", "two layers"),
    ("fsp", [MAPS, MAPS], [MAPS, ROWS], {}, "teacher.1", "height, width"),
    ("fsp", [MAPS, MAPS], [MAPS, MAPS[:, :2]], {}, "teacher.1", "channels"),
    ("fsp", [MAPS, MAPS[:1]], [MAPS, MAPS], {}, "student", "as many samples"),
]


@pytest.mark.parametrize(("name", "student", "teacher", "form", "place", "allowed"), WRONG)
def test_invalid_input_raises(name, student, teacher, form, place, allowed):
    with pytest.raises(InputError) as caught:
        call(name, student, teacher, **form)
    [problem] = caught.value.problems
    assert problem.where == f"{name}.{place}"
    assert allowed in problem.allowed
