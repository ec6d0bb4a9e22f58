"""Values and gradients against float64 definitions on drawn inputs."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from limbeck import losses
from limbeck.targets import DenseTargets

few = settings(max_examples=60, deadline=None)

NOTHING = -np.inf


@st.composite
def pairs(draw, ruled_out=False):
    """Two arrays of logits of one shape, a temperature, and labels."""
    elements, classes = draw(st.integers(1, 4)), draw(st.integers(2, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = draw(st.sampled_from([0.01, 1.0, 10.0, 300.0]))
    student, teacher = rng.normal(size=(2, elements, classes)) * scale
    if ruled_out:
        for logits in (student, teacher):
            out = rng.random((elements, classes)) < 0.3
            out[:, 0] = False
            logits[out] = NOTHING
    temperature = draw(st.sampled_from([0.5, 1.0, 2.0, 4.0, 10.0]))
    return student, teacher, temperature, rng.integers(classes, size=elements)


def value_and_gradient(function, student):
    leaf = torch.tensor(student, requires_grad=True)
    value = function(leaf)
    value.sum().backward()
    return value.detach().numpy(), leaf.grad.numpy()


def kl(a, b):
    """KL(softmax(a) ‖ softmax(b)) by its definition, with logarithms that do not underflow."""
    p = special.softmax(a, axis=1)
    with np.errstate(invalid="ignore"):
        ratio = special.log_softmax(a, axis=1) - special.log_softmax(b, axis=1)
    return np.where(p > 0, p * np.where(p > 0, ratio, 0), 0).sum(1)


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-10)


@few
@given(pairs())
def test_soft_target_kl(drawn):
    student, teacher, temperature, _ = drawn
    p, q = (special.softmax(x / temperature, axis=1) for x in (teacher, student))
    value, gradient = value_and_gradient(
        lambda s: losses.soft_target_kl(s, torch.tensor(teacher), temperature=temperature), student
    )
    close(value, temperature**2 * kl(teacher / temperature, student / temperature))
    close(gradient, temperature * (q - p))


@few
@given(pairs(ruled_out=True))
def test_forward_kl_conditions_the_teacher_on_the_students_support(drawn):
    student, teacher, temperature, _ = drawn
    conditioned = np.where(student == NOTHING, NOTHING, teacher)
    p, q = (special.softmax(x / temperature, axis=1) for x in (conditioned, student))
    value, gradient = value_and_gradient(
        lambda s: losses.soft_target_kl(s, torch.tensor(teacher), temperature=temperature), student
    )
    close(value, temperature**2 * kl(conditioned / temperature, student / temperature))
    close(gradient, temperature * (q - p))


@few
@given(pairs(ruled_out=True))
def test_reverse_kl_conditions_the_student_on_the_teachers_support(drawn):
    student, teacher, temperature, _ = drawn
    conditioned = np.where(teacher == NOTHING, NOTHING, student)
    q = special.softmax(conditioned / temperature, axis=1)
    expected = kl(conditioned / temperature, teacher / temperature)
    with np.errstate(invalid="ignore"):
        logs = special.log_softmax(conditioned / temperature, axis=1)
        logs -= special.log_softmax(teacher / temperature, axis=1)
    slope = temperature * q * np.where(q > 0, logs - expected[:, None], 0)
    value, gradient = value_and_gradient(
        lambda s: losses.divergence(
            s, DenseTargets(torch.tensor(teacher)), kind="reverse_kl", temperature=temperature
        ),
        student,
    )
    close(value, temperature**2 * expected)
    close(gradient, slope)


@few
@given(pairs(ruled_out=True), st.sampled_from([0.1, 0.5, 0.7]), st.booleans())
def test_jsd(drawn, beta, normalized):
    student, teacher, temperature, _ = drawn
    p, q = (special.softmax(x / temperature, axis=1) for x in (teacher, student))
    m = beta * p + (1 - beta) * q
    expected = beta * special.rel_entr(p, m).sum(1) + (1 - beta) * special.rel_entr(q, m).sum(1)
    scale = temperature**2 / (beta * (1 - beta) if normalized else 1)
    value, _ = value_and_gradient(
        lambda s: losses.divergence(
            s,
            DenseTargets(torch.tensor(teacher)),
            kind="jsd",
            temperature=temperature,
            beta=beta,
            normalized=normalized,
        ),
        student,
    )
    np.testing.assert_allclose(value, scale * expected, rtol=1e-7, atol=1e-9)


@few
@given(pairs())
def test_cross_entropy_and_label_smoothing(drawn):
    student, _, _, labels = drawn
    logs, q = special.log_softmax(student, axis=1), special.softmax(student, axis=1)
    for smoothing in (0.0, 0.1, 0.5):
        targets = (1 - smoothing) * np.eye(q.shape[1])[labels] + smoothing / q.shape[1]
        value, gradient = value_and_gradient(
            lambda s, e=smoothing: losses.label_smoothing(s, torch.tensor(labels), smoothing=e),
            student,
        )
        close(value, -(targets * logs).sum(1))
        close(gradient, q - targets)
    value, gradient = value_and_gradient(
        lambda s: losses.cross_entropy(s, torch.tensor(labels)), student
    )
    close(value, special.logsumexp(student, axis=1) - student[np.arange(len(labels)), labels])
    close(gradient, q - np.eye(q.shape[1])[labels])


@few
@given(pairs(ruled_out=True))
def test_logit_mse_excludes_classes_of_minus_infinity(drawn):
    student, teacher, _, _ = drawn
    squares = np.ma.masked_invalid(student) - np.ma.masked_invalid(teacher)
    value, gradient = value_and_gradient(
        lambda s: losses.logit_mse(s, torch.tensor(teacher)), student
    )
    close(value, (squares**2).mean(1).filled(0))
    close(gradient, (2 * squares / squares.count(1)[:, None]).filled(0))


@pytest.mark.parametrize("shape", [(3, 5), (3, 4, 5), (3, 4, 2, 2)])
def test_fitnet_hint(shape):
    student, teacher = np.random.default_rng(0).normal(size=(2, *shape))
    value, gradient = value_and_gradient(
        lambda s: losses.fitnet_hint(s, torch.tensor(teacher)), student
    )
    close(value, [np.mean((s - t) ** 2) for s, t in zip(student, teacher, strict=True)])
    close(gradient, 2 * (student - teacher) / student[0].size)


@few
@given(pairs())
def test_half_precision_is_computed_in_float32(drawn):
    student, teacher, temperature, labels = drawn
    for half in (torch.bfloat16, torch.float16):
        s, t = (torch.tensor(x).clamp(-6e4, 6e4).to(half) for x in (student, teacher))
        y = torch.tensor(labels)
        for value, expected in (
            (
                losses.soft_target_kl(s, t, temperature=temperature),
                losses.soft_target_kl(s.float(), t.float(), temperature=temperature),
            ),
            (losses.cross_entropy(s, y), losses.cross_entropy(s.float(), y)),
            (losses.logit_mse(s, t), losses.logit_mse(s.float(), t.float())),
        ):
            assert value.dtype == torch.float32
            assert torch.equal(value, expected)


def test_large_temperatures_approach_half_the_mean_square_of_centred_logits():
    student, teacher = torch.randn(2, 4, 7, dtype=torch.float64)
    difference = student - teacher
    expected = (difference - difference.mean(1, keepdim=True)).square().mean(1) / 2
    value = losses.soft_target_kl(student, teacher, temperature=1e4)
    torch.testing.assert_close(value, expected, rtol=1e-3, atol=0)
