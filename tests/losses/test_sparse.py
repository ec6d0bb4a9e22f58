"""Targets of some classes: the likeliest against buckets in numpy, the drawn by enumeration."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special
from torch.autograd import gradcheck, gradgradcheck

from limbeck.errors import InputError
from limbeck.losses import divergence
from limbeck.targets import DenseTargets, SampledTargets, TopKTargets

few = settings(max_examples=60, deadline=None)

KINDS = [
    {"kind": "forward_kl"},
    {"kind": "reverse_kl"},
    {"kind": "jsd"},
    {"kind": "jsd", "beta": 0.2, "normalized": True},
    {"kind": "tvd"},
]
TAILS = ["bucket", "renormalize"]


def measure(p, q, kind, beta=0.5, normalized=False):
    """A kind by its definition, of probabilities."""
    if kind == "forward_kl":
        return special.rel_entr(p, q).sum(1)
    if kind == "reverse_kl":
        return special.rel_entr(q, p).sum(1)
    if kind == "tvd":
        return np.abs(p - q).sum(1) / 2
    m = beta * p + (1 - beta) * q
    value = beta * special.rel_entr(p, m).sum(1) + (1 - beta) * special.rel_entr(q, m).sum(1)
    return value / (beta * (1 - beta)) if normalized else value


def likeliest(logits, ids, tail, temperature):
    """Tempered probabilities of the listed classes, and of all others in one."""
    p = special.softmax(logits, axis=1)
    kept = np.take_along_axis(p, ids, axis=1)
    if tail == "bucket":
        rest = p.copy()
        np.put_along_axis(rest, ids, 0, axis=1)
        kept = np.concatenate([kept, rest.sum(1, keepdims=True)], axis=1)
    kept = kept ** (1 / temperature)
    return kept / kept.sum(1, keepdims=True)


def differences(function, at, step=1e-6):
    result = np.zeros_like(at)
    for place in np.ndindex(*at.shape):
        up, down = at.copy(), at.copy()
        up[place] += step
        down[place] -= step
        result[place] = (function(up) - function(down)).sum() / (2 * step)
    return result


def value_and_gradient(student, targets, temperature, **kind):
    leaf = torch.as_tensor(student).clone().requires_grad_()
    value = divergence(leaf, targets, temperature=temperature, **kind)
    value.sum().backward()
    return value.detach(), leaf.grad


def drawn(*shape, scale=2.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, *shape, generator=generator, dtype=torch.float64) * scale


@pytest.fixture(params=["whole", "blocks"])
def blocks(request, monkeypatch):
    if request.param == "blocks":
        monkeypatch.setattr("limbeck.losses._blocks._CACHED", (20, 20))
        monkeypatch.setattr("limbeck.losses._blocks._PLAIN", 0)


@few
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 5),
    st.sampled_from([0.5, 1.0, 4.0]),
    st.sampled_from(TAILS),
    st.sampled_from(KINDS),
)
def test_top_k_against_its_definition(seed, k, temperature, tail, kind):
    student, teacher = np.random.default_rng(seed).normal(size=(2, 3, 6)) * 2
    targets = TopKTargets.of(torch.tensor(teacher), k, tail=tail)
    ids = targets.ids.numpy()

    def definition(logits):
        p, q = (likeliest(x, ids, tail, temperature) for x in (teacher, logits))
        return temperature**2 * measure(p, q, **kind)

    value, gradient = value_and_gradient(student, targets, temperature, **kind)
    np.testing.assert_allclose(value, definition(student), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(gradient, differences(definition, student), rtol=1e-5, atol=1e-7)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("classes", [(6, 6), (8, 6), (6, 8)])
def test_law_11_all_classes_equal_dense(kind, tail, classes):
    student, teacher = drawn(9, 8)
    student, teacher = student[:, : classes[0]], teacher[:, : classes[1]]
    sparse = value_and_gradient(
        student, TopKTargets.of(teacher, classes[1], tail=tail), 2.0, **kind
    )
    dense = value_and_gradient(student, DenseTargets(teacher), 2.0, **kind)
    torch.testing.assert_close(sparse, dense)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0])
def test_top_k_of_equal_logits_is_zero(kind, dtype, scale):
    teacher = drawn(20, 30, scale=scale)[1].to(dtype)
    value, gradient = value_and_gradient(teacher, TopKTargets.of(teacher, 4), 2.0, **kind)
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4
    assert (value >= 0).all()
    assert value.max() < tolerance
    if kind["kind"] != "tvd":  # which has a corner there
        assert gradient.abs().max() < math.sqrt(tolerance) / 4


def test_without_log_tail_the_tail_is_the_rest_to_one():
    student, teacher = drawn(20, 30)
    exact = TopKTargets.of(teacher, 4)
    missing = TopKTargets(exact.ids, exact.log_probabilities, exact.classes)
    torch.testing.assert_close(
        value_and_gradient(student, missing, 2.0), value_and_gradient(student, exact, 2.0)
    )
    sure = TopKTargets(exact.ids, exact.log_probabilities.fill_(-math.log(4)), 30)
    for kind in KINDS:
        value, gradient = value_and_gradient(student, sure, 1.0, **kind)
        assert value.isfinite().all()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_classes_that_the_student_lacks_are_excluded(kind):
    student, _ = drawn(3, 4)
    ids = torch.tensor([[0, 6, 2], [5, 1, 4], [3, 2, 1]])
    logs = torch.tensor([0.5, 0.2, 0.1], dtype=torch.float64).log().expand(3, 3)
    value, gradient = value_and_gradient(student, TopKTargets(ids, logs, 7), 2.0, **kind)
    for element, kept in enumerate(([0, 2], [1], [0, 1, 2])):
        picked = TopKTargets(ids[element, kept][None], logs[element, kept][None], 7)
        # The mass beyond the student's classes is no part of the tail.
        rest = torch.tensor([[0.2]], dtype=torch.float64).log()
        q = student[element].log_softmax(0)
        student_row = q[picked.ids[0]]
        others = [c for c in range(4) if c not in picked.ids[0].tolist()]
        student_row = torch.cat([student_row, q[others].logsumexp(0, keepdim=True)])[None]
        teacher_row = DenseTargets(torch.cat([picked.log_probabilities, rest], dim=1))
        expected = divergence(student_row, teacher_row, temperature=2.0, **kind)
        torch.testing.assert_close(value[element], expected[0])
    assert gradient.isfinite().all()


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tail", TAILS)
def test_top_k_gradients_pass_gradcheck(kind, tail):
    student, teacher = drawn(6, 7)
    targets = TopKTargets.of(teacher[:, :6], 3, tail=tail)

    def value(logits):
        return divergence(logits, targets, temperature=2.0, **kind)

    assert gradcheck(value, (student.requires_grad_(),))
    assert gradgradcheck(value, (student,))


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("power", [1.0, 0.5])
def test_sampled_gradients_pass_gradcheck(kind, power):
    student, teacher = drawn(6, 7)
    chance = torch.Generator().manual_seed(0)
    targets = SampledTargets.draw(
        teacher[:, :6], draws=4, temperature=2.0, proposal_power=power, generator=chance
    )

    def value(logits):
        return divergence(logits, targets, temperature=2.0, **kind)

    assert gradcheck(value, (student.requires_grad_(),))
    assert gradgradcheck(value, (student,))


def outcomes(teacher, draws, temperature, power):
    """Every possible result of so many draws, and how likely it is."""
    classes = teacher.shape[-1]
    logs = (teacher / temperature).log_softmax(0)
    proposal = (logs * power).log_softmax(0)
    ids = torch.tensor(list(itertools.product(range(classes), repeat=draws)))
    chance = proposal[ids].sum(1).exp()
    assert chance.sum().item() == pytest.approx(1)
    counts = torch.ones_like(ids)
    given = None if power == 1 else proposal[ids]
    return chance, SampledTargets(ids, counts, logs[ids], given, temperature, classes)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("draws", [1, 2, 3])
@pytest.mark.parametrize("power", [1.0, 0.5, 2.0])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("extra", [0, 2])
def test_law_11_sampled_targets_are_unbiased(kind, draws, power, temperature, extra):
    teacher, student = drawn(5)[0], drawn(5 + extra, seed=1)[0]
    chance, targets = outcomes(teacher, draws, temperature, power)
    copies = student.expand(len(chance), -1)
    value, gradient = value_and_gradient(copies, targets, temperature, **kind)
    dense = value_and_gradient(student[None], DenseTargets(teacher[None]), temperature, **kind)
    torch.testing.assert_close(chance @ value, dense[0][0])
    torch.testing.assert_close(chance @ gradient, dense[1][0])
    if kind["kind"] != "forward_kl":
        assert (value >= 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_sampled_targets_of_equal_logits_are_zero(kind):
    teacher = drawn(50, 8)[1]
    targets = SampledTargets.draw(teacher, draws=3, generator=torch.Generator().manual_seed(0))
    value, gradient = value_and_gradient(teacher, targets, 1.0, **kind)
    assert value.abs().max() < 1e-12
    if kind["kind"] not in ("forward_kl", "tvd"):  # the latter has a corner there
        assert gradient.abs().max() < 1e-12


def test_forward_kl_gradient_points_to_the_shares_of_the_draws():
    student, teacher = drawn(5, 6)
    targets = SampledTargets.draw(teacher, draws=9, generator=torch.Generator().manual_seed(0))
    _, gradient = value_and_gradient(student, targets, 1.0)
    shares = torch.zeros_like(student).scatter_add(1, targets.ids, targets.counts / 9)
    torch.testing.assert_close(gradient, student.softmax(1) - shares)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["likeliest", "likeliest renormalized", "drawn"])
def test_extreme_logits_and_minus_infinity_are_finite(kind, form):
    student, teacher = (x.clamp(-1e4, 1e4).float() for x in drawn(30, 6, scale=1e4))
    out = torch.rand(30, 6, generator=torch.Generator().manual_seed(0)) < 0.4
    out[:, 0] = False
    for logits in (student, student.masked_fill(out, -math.inf), torch.full((30, 6), -math.inf)):
        for reference in (teacher, teacher.masked_fill(out.roll(1, 1), -math.inf)):
            if form == "drawn":
                chance = torch.Generator().manual_seed(0)
                targets = SampledTargets.draw(
                    reference, draws=4, temperature=2.0, proposal_power=0.5, generator=chance
                )
            else:
                tail = "bucket" if form == "likeliest" else "renormalize"
                targets = TopKTargets.of(reference, 3, tail=tail)
            value, gradient = value_and_gradient(logits, targets, 2.0, **kind)
            assert value.isfinite().all()
            assert gradient.isfinite().all()


def test_nan_is_propagated():
    bad = torch.tensor([[math.nan, 0.0, 0.0]])
    good = torch.zeros(1, 3)
    assert divergence(bad, TopKTargets.of(good, 2), temperature=1.0).isnan().all()
    targets = SampledTargets.draw(good, draws=2, generator=torch.Generator().manual_seed(0))
    assert divergence(bad, targets, temperature=1.0).isnan().all()


def test_gradients_keep_the_type_of_the_logits():
    student, teacher = drawn(4, 6).bfloat16()
    for targets in (TopKTargets.of(teacher, 2), SampledTargets.draw(teacher, draws=3)):
        value, gradient = value_and_gradient(student, targets, 1.0)
        assert value.dtype == torch.float32
        assert gradient.dtype == torch.bfloat16


def test_an_empty_batch_has_no_values():
    empty = torch.zeros(0, 6, requires_grad=True)
    for targets in (TopKTargets.of(empty, 2), SampledTargets.draw(empty, draws=3)):
        value = divergence(empty, targets, temperature=1.0)
        assert value.shape == (0,)
        value.sum().backward()


def test_the_temperature_of_the_draws_is_that_of_the_divergence():
    targets = SampledTargets.draw(torch.zeros(2, 3), draws=2, temperature=2.0)
    with pytest.raises(InputError, match=r"Use the same for sampling: SampledTargets.draw.*=4.0"):
        divergence(torch.zeros(2, 3), targets, temperature=4.0)


@pytest.mark.parametrize("ids", [[[0, -1]], [[0, 3]]])
def test_classes_out_of_range_raise(ids):
    ids, logs = torch.tensor(ids), torch.zeros(1, 2)
    for targets in (TopKTargets(ids, logs, 3), SampledTargets(ids, logs + 1, logs, classes=3)):
        with pytest.raises(InputError, match="classes from 0 to 2"):
            divergence(torch.zeros(1, 3), targets, temperature=1.0)


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (lambda: TopKTargets(torch.tensor([[0, 0]]), torch.full((1, 2), -1.0), 4), "a class twice"),
        (lambda: TopKTargets(torch.tensor([[0, 1]]), torch.tensor([[3.0, 1.0]]), 4), "sum to 22.8"),
        (lambda: TopKTargets(torch.tensor([[0, 4]]), torch.full((1, 2), -1.0), 4), "got 4"),
        (
            lambda: SampledTargets(
                torch.tensor([[0, 7]]), torch.ones(1, 2), torch.full((1, 2), -1.0)
            ),
            "got 7",
        ),
    ],
)
def test_invalid_targets_raise(targets, words):
    with pytest.raises(InputError, match=words):
        divergence(torch.zeros(1, 4), targets(), temperature=1.0)
