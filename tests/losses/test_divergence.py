"""Limits and bounds of the kinds of divergence, unequal vocabularies, blocks."""

import inspect
import math

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from limbeck.errors import InputError
from limbeck.losses import divergence, soft_target_kl
from limbeck.targets import DenseTargets, HeadTargets

torch.manual_seed(0)
STUDENT, TEACHER = torch.randn(2, 50, 8) * 2
TARGETS = DenseTargets(TEACHER)


def kl(kind, temperature=2.0):
    return divergence(STUDENT, TARGETS, kind=kind, temperature=temperature)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_forward_kl_is_soft_target_kl_to_the_bit(temperature):
    expected = soft_target_kl(STUDENT, TEACHER, temperature=temperature)
    assert torch.equal(kl("forward_kl", temperature), expected)


@pytest.mark.parametrize(("beta", "end"), [(1e-6, "forward_kl"), (1 - 1e-6, "reverse_kl")])
def test_normalized_jsd_is_continuous_up_to_the_two_kls(beta, end):
    options = {"kind": "jsd", "temperature": 2.0, "beta": beta, "normalized": True}
    student = STUDENT.clone().requires_grad_()
    value = divergence(student, TARGETS, **options)
    torch.testing.assert_close(value, kl(end), rtol=1e-3, atol=1e-5)
    value.sum().backward()
    other = STUDENT.clone().requires_grad_()
    divergence(other, TARGETS, kind=end, temperature=2.0).sum().backward()
    torch.testing.assert_close(student.grad, other.grad, rtol=1e-2, atol=1e-4)


def test_jsd_tends_to_zero_at_the_ends_and_is_symmetric_in_the_middle():
    for beta in (1e-6, 1 - 1e-6):
        assert divergence(STUDENT, TARGETS, kind="jsd", temperature=1.0, beta=beta).max() < 1e-4
    swapped = divergence(TEACHER, DenseTargets(STUDENT), kind="jsd", temperature=1.0)
    torch.testing.assert_close(swapped, divergence(STUDENT, TARGETS, kind="jsd", temperature=1.0))


def test_jsd_and_tvd_are_bounded():
    far, near = torch.tensor([[1e4, -1e4]]), DenseTargets(torch.tensor([[-1e4, 1e4]]))
    jsd = divergence(far, near, kind="jsd", temperature=1.0)
    assert jsd.item() == pytest.approx(math.log(2))
    assert divergence(far, near, kind="tvd", temperature=1.0).item() == pytest.approx(1)


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd", "tvd"])
def test_unequal_vocabularies_are_compared_over_common_classes(kind):
    wide = torch.cat([TEACHER, torch.full((50, 3), 9.0)], dim=1)
    value = divergence(STUDENT, DenseTargets(wide), kind=kind, temperature=2.0)
    assert torch.equal(value, kl(kind))


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd", "tvd"])
def test_padding_of_minus_infinity_has_no_effect(kind):
    padding = torch.full((50, 3), -math.inf)
    padded = DenseTargets(torch.cat([TEACHER, padding], dim=1))
    value = divergence(torch.cat([STUDENT, padding], 1), padded, kind=kind, temperature=2.0)
    torch.testing.assert_close(value, kl(kind))


def test_disjoint_supports_have_a_large_but_finite_value():
    student = torch.tensor([[0.0, -math.inf]], requires_grad=True)
    value = divergence(
        student, DenseTargets(torch.tensor([[-math.inf, 0.0]])), kind="forward_kl", temperature=1.0
    )
    value.sum().backward()
    assert value.item() > 1e6
    assert value.isfinite().all()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("beta", [0.0, 1.0, -0.5, float("nan")])
def test_a_beta_of_zero_or_one_raises(beta):
    with pytest.raises(InputError, match='"forward_kl" or "reverse_kl"'):
        divergence(STUDENT, TARGETS, kind="jsd", temperature=1.0, beta=beta)


@pytest.mark.parametrize(
    ("settings", "place"),
    [
        ({"beta": 0.5}, "divergence.beta"),
        ({"normalized": True}, "divergence.normalized"),
        ({"kind": "jsd", "temperature": -1.0}, "divergence.temperature"),
    ],
)
def test_settings_without_effect_raise(settings, place):
    with pytest.raises(InputError) as caught:
        divergence(STUDENT, TARGETS, **({"temperature": 1.0} | settings))
    assert [problem.where for problem in caught.value.problems] == [place]


# The rows are gone through in blocks, and gradients are written out.

KINDS = [
    {"kind": "forward_kl"},
    {"kind": "reverse_kl"},
    {"kind": "jsd"},
    {"kind": "jsd", "beta": 0.2, "normalized": True},
    {"kind": "tvd"},
]


def drawn(*shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(2, *shape, generator=generator, dtype=torch.float64) * 2).to(dtype)


@pytest.fixture(params=["whole", "blocks"])
def blocks(request, monkeypatch):
    if request.param == "blocks":
        monkeypatch.setattr("limbeck.losses._blocks._CACHED", (20, 20))
        monkeypatch.setattr("limbeck.losses._blocks._PLAIN", 0)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("settings", KINDS)
@pytest.mark.parametrize("classes", [(5, 5), (7, 5), (5, 7)])
def test_gradients_of_both_orders_pass_gradcheck(settings, classes):
    student, teacher = drawn(9, 7)
    student, teacher = student[:, : classes[0]].clone().requires_grad_(), teacher[:, : classes[1]]

    def value(logits):
        return divergence(logits, DenseTargets(teacher), temperature=2.0, **settings)

    assert gradcheck(value, (student,))
    assert gradgradcheck(value, (student,))


@pytest.mark.parametrize("settings", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blocks_equal_the_whole(settings, dtype, monkeypatch):
    student, teacher = drawn(23, 11, dtype=dtype)
    found = []
    for small, size in ((2**18, 2**18), (0, 2**18), (0, 1), (0, 22), (0, 100)):
        monkeypatch.setattr("limbeck.losses._blocks._CACHED", (size, size))
        monkeypatch.setattr("limbeck.losses._blocks._PLAIN", small)
        leaf = student.clone().requires_grad_()
        value = divergence(leaf, DenseTargets(teacher), temperature=3.0, **settings)
        value.square().sum().backward()
        assert value.dtype == torch.float32
        assert leaf.grad.dtype == dtype
        found.append((value, leaf.grad))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])


@pytest.mark.parametrize("settings", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_tensor_of_logit_size_is_saved(settings, dtype):
    student, teacher = drawn(260, 4096, dtype=dtype)
    student.requires_grad_()
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        divergence(student, DenseTargets(teacher), temperature=2.0, **settings)
    for given in (student, teacher):
        kept.pop(given.untyped_storage().data_ptr(), None)
    assert sum(kept.values()) <= 16 * len(student)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("settings", KINDS)
def test_head_targets_equal_dense_targets(settings):
    hidden, weight = drawn(6, 4)[0], drawn(8, 4, seed=1)[0]
    targets = HeadTargets(hidden.requires_grad_(), weight.requires_grad_(), weight[:, 0], 3.0)
    logits = 3 * torch.tanh((hidden @ weight.T + weight[:, 0]) / 3)
    for classes in (5, 8, 9):
        found = []
        for form in (targets, DenseTargets(logits.detach())):
            student = drawn(6, classes, seed=2)[0].requires_grad_()
            value = divergence(student, form, temperature=2.0, **settings)
            value.sum().backward()
            found.append((value, student.grad))
        torch.testing.assert_close(*found)
    assert hidden.grad is None
    assert weight.grad is None


def test_head_targets_under_autocast():
    student, hidden = drawn(6, 4, dtype=torch.float32)
    weight, found = drawn(4, 4, seed=1)[0].float(), []
    for enabled in (False, True):
        leaf = student.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            value = divergence(leaf, HeadTargets(hidden, weight), temperature=2.0)
        value.sum().backward()
        found.append((value, leaf.grad))
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_logits_may_be_a_view():
    student = drawn(1, 5)[0].requires_grad_()
    value = divergence(student.expand(4, 5), DenseTargets(drawn(4, 5)[1]), temperature=1.0)
    value.sum().backward()
    assert student.grad.isfinite().all()


def test_saved_tensors_must_not_change():
    student, teacher = drawn(3, 5)
    value = divergence(student.requires_grad_(), DenseTargets(teacher), temperature=1.0)
    teacher.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.sum().backward()


@pytest.mark.parametrize("targets", [TEACHER, None, "teacher"])
def test_other_targets_raise(targets):
    with pytest.raises(InputError, match="DenseTargets, TopKTargets"):
        inspect.unwrap(divergence)(STUDENT, targets, temperature=1.0)
