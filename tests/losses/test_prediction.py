"""Losses over predictions: drawn inputs against the trials' definitions, identities, extremes."""

import importlib.util
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from limbeck import losses

few = settings(max_examples=30, deadline=None)
PATH = Path(__file__).parent / "trials" / "prediction.py"
SPEC = importlib.util.spec_from_file_location("prediction_trials", PATH)
definitions = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(definitions)

OUT = -math.inf
PER_UNIT = ("dkd", "standardized_kl", "ttm", "wttm")


@st.composite
def drawn(draw, elements=(1, 5), scales=(0.3, 1.0, 5.0)):
    """Draw logits of student and teacher, labels and a temperature."""
    shape = draw(st.integers(*elements)), draw(st.integers(2, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    student, teacher = rng.normal(size=(2, *shape)) * draw(st.sampled_from(scales))
    temperature = draw(st.sampled_from([1.0, 2.0, 4.0, 10.0]))
    return student, teacher, rng.integers(shape[1], size=shape[0]), temperature


def differences(function, at, step=1e-4):
    """Differences over four points: their error is of the order of step to the fourth."""
    result = np.zeros_like(at)
    for place in np.ndindex(*at.shape):
        total = 0.0
        for factor, weight in ((1, 8), (-1, -8), (2, -1), (-2, 1)):
            moved = at.copy()
            moved[place] += factor * step
            total += weight * float(np.sum(function(moved)))
        result[place] = total / (12 * step)
    return result


def agree(name, student, teacher, **keywords):
    """Hold value and gradient to the definition."""
    leaf = torch.tensor(student, requires_grad=True)
    given = {
        key: torch.tensor(value) if isinstance(value, np.ndarray) else value
        for key, value in keywords.items()
    }
    value = losses.find(name)(leaf, torch.tensor(teacher), **given)
    value.sum().backward()
    reference = partial(getattr(definitions, name), **keywords)
    np.testing.assert_allclose(value.detach(), reference(student, teacher), rtol=1e-8, atol=1e-10)
    slopes = differences(lambda moved: reference(moved, teacher), student)
    np.testing.assert_allclose(leaf.grad, slopes, rtol=0, atol=1e-6 * np.abs(slopes).max() + 1e-9)


def slope(loss, student):
    """Return the value and the gradient of a loss of one argument."""
    leaf = student.detach().clone().requires_grad_()
    value = loss(leaf)
    value.sum().backward()
    return value.detach(), leaf.grad


@few
@given(drawn(), st.sampled_from([(1.0, 8.0), (0.0, 1.0), (2.5, 0.0)]))
def test_dkd(given_logits, weights):
    student, teacher, labels, temperature = given_logits
    alpha, beta = weights
    agree("dkd", student, teacher, labels=labels, alpha=alpha, beta=beta, temperature=temperature)


@few
@given(drawn())
def test_ttm_and_wttm(given_logits):
    student, teacher, _, temperature = given_logits
    agree("ttm", student, teacher, temperature=temperature)
    agree("wttm", student, teacher, temperature=temperature)


@few
@given(drawn(), st.sampled_from([0, 1]))
def test_standardized_kl(given_logits, correction):
    student, teacher, _, temperature = given_logits
    assume(student.std(axis=1).min() > 0.05)  # dividing by less, differences are too coarse
    agree("standardized_kl", student, teacher, correction=correction, temperature=temperature)


@few
@given(drawn(elements=(3, 6), scales=(0.5, 1.0, 2.0)), st.sampled_from([(2.0, 2.0), (1.0, 0.0)]))
def test_dist(given_logits, weights):
    student, teacher, _, temperature = given_logits
    agree("dist", student, teacher, temperature=temperature, beta=weights[0], gamma=weights[1])


@few
@given(drawn(), st.sampled_from([(1.0, 1.0, 1.0), (0.0, 3.0, 1.0), (1.0, 0.0, 2.0)]))
def test_mlkd(given_logits, weights):
    student, teacher, _, temperature = given_logits
    names = dict(zip(("instance", "batch", "classes"), weights, strict=True))
    agree("mlkd", student, teacher, temperatures=[temperature, 3.0], **names)


@few
@given(drawn(), st.booleans())
def test_soft_target_kl_is_dkd_with_its_own_weights(given_logits, ruled_out):
    student, teacher, labels, temperature = given_logits
    student, teacher, labels = map(torch.tensor, (student, teacher, labels))
    if ruled_out:
        student[:, 0], teacher[:, -1] = OUT, OUT
        labels = torch.where(labels == 0, student.shape[1] - 1, labels)
    whole = losses.soft_target_kl(student, teacher, temperature=temperature)
    parts = [
        losses.dkd(student, teacher, labels=labels, alpha=a, beta=b, temperature=temperature)
        for a, b in ((1.0, 0.0), (0.0, 1.0))
    ]
    conditioned = teacher.masked_fill(student == OUT, OUT)
    right = (conditioned / temperature).softmax(1).gather(1, labels[:, None]).squeeze(1)
    if conditioned.isfinite().any(1).all():
        torch.testing.assert_close(parts[0] + (1 - right) * parts[1], whole)


def test_dkd_without_other_classes_is_zero():
    for logits in (torch.tensor([[3.0], [-2.0]]), torch.tensor([[3.0, OUT], [-2.0, OUT]])):
        loss = partial(losses.dkd, labels=torch.tensor([0, 0]))
        value, gradient = slope(lambda s, loss=loss, t=logits: loss(s, t), logits)
        assert torch.equal(value, torch.zeros(2))
        assert torch.equal(gradient, torch.zeros_like(logits))


def test_dkd_excludes_the_target_class_for_any_logit():
    rest = torch.tensor([[0.0, 1.0]])
    for size in (-1e4, 0.0, 5e3, 1e4):  # a mask of -1000 would leave the class in
        logits = torch.cat([torch.full((1, 1), size), rest], dim=1)
        other = torch.cat([torch.full((1, 1), -size), 2 * rest], dim=1)
        value = losses.dkd(
            logits, other, labels=torch.tensor([0]), alpha=0.0, beta=1.0, temperature=1.0
        )
        expected = losses.soft_target_kl(rest, 2 * rest, temperature=1.0)
        torch.testing.assert_close(value, expected)


def test_dkd_of_a_teacher_with_the_target_class_only():
    teacher, student = torch.tensor([[1.0, OUT, OUT]]), torch.tensor([[1.0, 0.5, 0.0]])
    loss = partial(losses.dkd, labels=torch.tensor([0]), temperature=1.0)
    value, gradient = slope(lambda s: loss(s, teacher), student)
    torch.testing.assert_close(value, losses.cross_entropy(student, torch.tensor([0])))
    torch.testing.assert_close(gradient, student.softmax(1) - torch.tensor([[1.0, 0.0, 0.0]]))


def test_ttm_is_zero_at_the_softened_teacher():
    teacher = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for loss in (losses.ttm, losses.wttm):
        value, gradient = slope(lambda s, f=loss: f(s, teacher, temperature=4.0), teacher / 4 + 1)
        assert value.abs().max() < 1e-14
        assert gradient.abs().max() < 1e-14
        assert (loss(teacher, teacher, temperature=4.0) > 0).all()


def test_the_weight_of_wttm_is_between_one_and_the_number_of_classes():
    student = torch.tensor([[1.0, 2.0, 0.0, 0.5]])
    for teacher, factor in ((torch.tensor([[1e4, 0.0, 0.0, 0.0]]), 1.0), (torch.zeros(1, 4), 2.0)):
        both = [f(student, teacher, temperature=2.0) for f in (losses.wttm, losses.ttm)]
        torch.testing.assert_close(both[0], factor * both[1])


def test_temperature_one_against_soft_target_kl():
    student, teacher = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0))
    expected = losses.soft_target_kl(student, teacher, temperature=1.0)
    for loss in (losses.ttm, losses.wttm):
        torch.testing.assert_close(loss(student, teacher, temperature=1.0), expected)


@pytest.mark.parametrize("correction", [0, 1])
def test_standardized_kl_is_invariant_to_scale_and_offset(correction):
    teacher = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    value = losses.standardized_kl(7 * teacher - 3, teacher, correction=correction)
    assert value.max() < 1e-12
    assert (losses.standardized_kl(-teacher, teacher, correction=correction) > 0.1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("level", [0.0, 0.1, 7.3, 1e4])
def test_constant_logits_have_no_score_and_no_gradient(dtype, level):
    teacher = torch.tensor([[2.0, 1.0, 0.0]], dtype=dtype)
    flat = torch.full((1, 3), level, dtype=dtype)
    value, gradient = slope(lambda s: losses.standardized_kl(s, teacher), flat)
    uniform = losses.soft_target_kl(torch.zeros_like(flat), _scores(teacher), temperature=2.0)
    torch.testing.assert_close(value, uniform)
    assert not gradient.any()
    assert torch.equal(losses.standardized_kl(flat, flat), torch.zeros(1, dtype=dtype))
    assert torch.equal(losses.standardized_kl(flat[:, :1], flat[:, :1]), value * 0)


def _scores(logits):
    return (logits - logits.mean(1, keepdim=True)) / logits.std(1, keepdim=True)


@pytest.mark.parametrize("name", PER_UNIT)
def test_classes_of_minus_infinity_on_both_sides_have_no_effect(name):
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 4, 5, dtype=torch.float64, generator=generator)
    settings = {"labels": torch.tensor([0, 1, 4, 2])} if name == "dkd" else {}
    loss = partial(losses.find(name), temperature=3.0, **settings)
    padding = torch.full((4, 2), OUT, dtype=torch.float64)
    wide = torch.cat([teacher, padding], dim=1)
    value, gradient = slope(lambda s: loss(s, wide), torch.cat([student, padding], dim=1))
    expected, narrow = slope(lambda s: loss(s, teacher), student)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient[:, :5], narrow)
    assert not gradient[:, 5:].any()


@pytest.mark.parametrize("name", PER_UNIT)
def test_the_teacher_is_conditioned_on_the_students_support(name):
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 4, 5, generator=generator)
    student[:, 3] = OUT
    settings = {"labels": torch.tensor([0, 1, 4, 2])} if name == "dkd" else {}
    loss = partial(losses.find(name), temperature=3.0, **settings)
    conditioned = teacher.masked_fill(student == OUT, OUT)
    torch.testing.assert_close(loss(student, teacher), loss(student, conditioned))


@pytest.mark.parametrize("name", ["dkd", "standardized_kl"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_divergences_are_never_negative(name, dtype):
    generator = torch.Generator().manual_seed(0)
    teacher, noise = torch.randn(2, 200, 10, generator=generator)
    settings = {"labels": torch.zeros(200, dtype=torch.long)} if name == "dkd" else {}
    for size in (0.0, 1e-4, 1e-2, 10.0):
        student = (teacher + size * noise).to(dtype)
        assert losses.find(name)(student, teacher.to(dtype), **settings).min() >= 0


def test_dist_is_zero_at_the_teacher_and_scales_with_the_square_of_temperature():
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 6, 4, dtype=torch.float64, generator=generator)
    assert losses.dist(teacher, teacher).item() < 1e-14
    softened = losses.dist(student, teacher, temperature=3.0)
    torch.testing.assert_close(softened, 9 * losses.dist(student / 3, teacher / 3))


def test_dist_of_one_unit_has_no_relation_within_classes():
    student, teacher = torch.tensor([[1.0, 0.0, 2.0]]), torch.tensor([[2.0, 0.5, 3.0]])
    value, gradient = slope(lambda s: losses.dist(s, teacher, beta=0.0, gamma=3.0), student)
    assert value.item() == pytest.approx(3)
    assert not gradient.any()
    value, gradient = slope(lambda s: losses.dist(s, teacher), student)
    assert value > 2
    assert gradient.isfinite().all()


@pytest.mark.parametrize("level", [0.0, 0.1, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_constant_student_has_a_bounded_gradient(level, dtype):
    teacher = torch.randn(8, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    flat = torch.full((8, 7), level, dtype=dtype)
    for student in (flat, flat[:, :1].expand(8, 7) + torch.arange(7)):  # all elements alike
        value, gradient = slope(lambda s: losses.dist(s, teacher), student)
        assert value.isfinite()
        assert gradient.abs().max() < 10
    value, gradient = slope(lambda s: losses.dist(s, teacher), flat)
    assert value.item() == pytest.approx(4)
    assert not gradient.any()


def test_a_class_of_negligible_probability_has_little_effect_on_dist():
    student, teacher = torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(0))
    student[:, 0] -= 30
    teacher[:, 0] -= 30
    value = losses.dist(student, teacher, beta=0.0, gamma=1.0)
    columns = tuple(x.softmax(1)[:, 1:].double().numpy().T for x in (student, teacher))
    rest = [np.corrcoef(a, b)[0, 1] for a, b in zip(*columns, strict=True)]
    assert value.item() == pytest.approx(1 - sum(rest) / 4, abs=1e-5)


@pytest.mark.parametrize("name", ["dkd", "dist"])
def test_closed_form_gradients_pass_gradcheck(name):
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    settings = {"labels": torch.tensor([0, 3, 1])} if name == "dkd" else {}
    loss = partial(losses.find(name), temperature=2.0, **settings)
    student.requires_grad_()
    assert gradcheck(lambda s: loss(s, teacher), (student,))
    assert gradgradcheck(lambda s: loss(s, teacher), (student,))


def test_mlkd_is_a_sum_over_temperatures_and_levels():
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 6, 4, dtype=torch.float64, generator=generator)
    whole = losses.mlkd(student, teacher)
    levels = ({"batch": 0.0, "classes": 0.0}, {"instance": 0.0, "classes": 0.0})
    levels += ({"instance": 0.0, "batch": 0.0},)
    single = [
        losses.mlkd(student, teacher, temperatures=[t], **only)
        for t in (2.0, 3.0, 4.0, 5.0, 6.0)
        for only in levels
    ]
    torch.testing.assert_close(torch.stack(single).sum(), whole)
    one_by_one = losses.soft_target_kl(student, teacher, temperature=2.0).mean()
    torch.testing.assert_close(single[0], one_by_one)
    assert losses.mlkd(teacher, teacher).item() == 0


@pytest.mark.parametrize("name", ["dist", "mlkd"])
def test_an_empty_batch_is_zero_with_a_gradient(name):
    value, gradient = slope(lambda s: losses.find(name)(s, torch.zeros(0, 3)), torch.zeros(0, 3))
    assert value.shape == ()
    assert value == 0
    assert gradient.shape == (0, 3)


@pytest.mark.parametrize("scale", [1.0, 6.0])
def test_dist_with_the_published_epsilon(scale):
    rng = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 16, 20, generator=rng, dtype=torch.float64) * scale
    student.requires_grad_()

    def pearson(a, b):
        a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
        return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-8)

    q, p = student.softmax(1), teacher.softmax(1)
    published = 4 - 2 * pearson(q, p).mean() - 2 * pearson(q.T, p.T).mean()
    actual = losses.dist(student, teacher, epsilon=1e-8)
    torch.testing.assert_close(actual, published)
    torch.testing.assert_close(
        *(torch.autograd.grad(value, student)[0] for value in (actual, published)),
        rtol=1e-8,
        atol=0,
    )
