"""The fused form against the dense one: any block size, any targets, any part of the gradient."""

import inspect
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from limbeck.errors import InputError
from limbeck.losses import cross_entropy, divergence, fused_divergence
from limbeck.targets import DenseTargets, HeadTargets, SampledTargets, TopKTargets

few = settings(max_examples=60, deadline=None)

UNITS, FEATURES, CLASSES = 7, 4, 6
KINDS = [
    {"kind": "forward_kl"},
    {"kind": "reverse_kl"},
    {"kind": "jsd"},
    {"kind": "jsd", "beta": 0.2, "normalized": True},
    {"kind": "tvd"},
]
BLOCKS = [None, 1, 4 * CLASSES * 2, 4 * CLASSES * 3, 2**20]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64).to(dtype)


def head(dtype=torch.float64, classes=CLASSES):
    hidden, weight, bias = (
        drawn(*shape, seed=seed, dtype=dtype).requires_grad_()
        for seed, shape in enumerate([(UNITS, FEATURES), (classes, FEATURES), (classes,)])
    )
    return hidden, weight, bias


def forms(classes=CLASSES, dtype=torch.float64):
    logits = (drawn(UNITS, classes, seed=3) * 2).to(dtype)
    return {
        "dense": DenseTargets(logits),
        "top-k": TopKTargets.of(logits, 2),
        "top-k renormalized": TopKTargets.of(logits, 3, tail="renormalize"),
        "sampled": SampledTargets.draw(logits, draws=4, temperature=2.0, generator=generator()),
        "head": HeadTargets(
            drawn(UNITS, 5, seed=4, dtype=dtype),
            drawn(classes, 5, seed=5, dtype=dtype),
            drawn(classes, seed=6, dtype=dtype),
            softcap=4.0,
        ),
    }


def dense_form(
    hidden,
    weight,
    targets,
    *,
    labels=None,
    label_weight=1.0,
    bias=None,
    softcap=None,
    weights=None,
    reduction="mean",
    block_bytes=None,
    **measure,
):
    """The same, operation by operation, with all logits at once."""
    logits = hidden @ weight.T
    logits = logits if bias is None else logits + bias
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    value = divergence(logits, targets, **measure)
    if labels is not None:
        value = value + label_weight * cross_entropy(logits, labels)
    weights = value.new_ones(len(value)) if weights is None else weights.to(value.dtype)
    total = (value * weights).sum()
    return total / weights.sum() if reduction == "mean" else total


def both(hidden, weight, targets, *, bias=None, **rest):
    """Value and gradients of the fused form and of the dense one."""
    leaves = [x for x in (hidden, weight, bias) if x is not None]
    found = []
    for function in (fused_divergence, dense_form):
        value = function(hidden, weight, targets, bias=bias, **rest)
        found.append((value.detach(), *torch.autograd.grad(value * 3, leaves)))
    return found


@pytest.mark.parametrize("block_bytes", BLOCKS)
@pytest.mark.parametrize("form", forms())
@pytest.mark.parametrize("kind", KINDS)
def test_law_10_fused_equals_dense_for_any_block_size(kind, form, block_bytes):
    hidden, weight, bias = head()
    fused, dense = both(
        hidden,
        weight,
        forms()[form],
        bias=bias,
        labels=torch.arange(UNITS) % CLASSES,
        label_weight=0.3,
        softcap=2.0,
        weights=torch.tensor([0.5, 0, 1, 2, 0, 3, 1]),
        temperature=2.0,
        block_bytes=block_bytes,
        **kind,
    )
    torch.testing.assert_close(fused, dense)


@few
@given(
    st.sampled_from(KINDS),
    st.sampled_from(sorted(forms())),
    st.sampled_from(["mean", "sum"]),
    st.sampled_from([None, 1, 50, 2**20]),
    st.sampled_from([None, 0.7]),
    st.booleans(),
    st.lists(st.sampled_from([0.0, 0.5, 2.0]), min_size=UNITS, max_size=UNITS),
    st.sampled_from([4, 6, 8]),
)
def test_any_settings_equal_the_dense_form(
    kind, form, reduction, block_bytes, softcap, labelled, weights, classes
):
    hidden, weight, bias = head(classes=classes)
    fused, dense = both(
        hidden,
        weight,
        forms()[form],
        bias=bias if labelled else None,
        labels=torch.arange(UNITS) % classes if labelled else None,
        weights=torch.tensor([*weights[:-1], 1.0]),
        reduction=reduction,
        softcap=softcap,
        temperature=2.0,
        block_bytes=block_bytes,
        **kind,
    )
    torch.testing.assert_close(fused, dense)


@pytest.mark.parametrize("form", forms())
def test_nested_blocks_have_no_effect(form, monkeypatch):
    monkeypatch.setattr("limbeck.losses._blocks._CACHED", (2 * CLASSES, 2 * CLASSES))
    hidden, weight, _ = head()
    labels = torch.arange(UNITS) % CLASSES
    fused, dense = both(hidden, weight, forms()[form], temperature=2.0, labels=labels)
    torch.testing.assert_close(fused, dense)


def test_elements_of_weight_zero_may_have_any_values():
    hidden, weight, _ = head()
    targets = forms()["dense"]
    kept = torch.tensor([0, 2, 3])
    weights = torch.zeros(UNITS).index_fill(0, kept, 1.0)
    labels = torch.full((UNITS,), -100).index_fill(0, kept, 2)
    spoiled = torch.where(weights[:, None] > 0, hidden, math.nan)
    changed = DenseTargets(torch.where(weights[:, None] > 0, targets.logits, math.nan))
    value = fused_divergence(
        spoiled, weight, changed, temperature=2.0, weights=weights, labels=labels
    )
    value.backward()
    expected = dense_form(
        hidden[kept], weight, targets.take(kept), temperature=2.0, labels=labels[kept]
    )
    torch.testing.assert_close(value, expected)
    assert weight.grad.isfinite().all()
    # The NaN came in through torch.where, which keeps it from what it left out.
    assert not hidden.grad[weights == 0].any()


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_without_weights_the_value_is_zero(reduction):
    hidden, weight, bias = head()
    nothing = torch.zeros(UNITS)
    value = fused_divergence(
        hidden,
        weight,
        forms()["dense"],
        bias=bias,
        temperature=2.0,
        weights=nothing,
        reduction=reduction,
    )
    value.backward()
    assert value.item() == 0
    assert not any(x.grad.any() for x in (hidden, weight, bias))


def test_an_empty_batch_is_zero():
    hidden, weight, _ = head()
    value = fused_divergence(
        hidden[:0], weight, DenseTargets(torch.zeros(0, CLASSES)), temperature=2.0
    )
    value.backward()
    assert value.item() == 0
    assert not weight.grad.any()


def test_boolean_weights_are_a_mask():
    hidden, weight, _ = head()
    mask = torch.arange(UNITS) < 3
    fused, dense = both(hidden, weight, forms()["dense"], temperature=2.0, weights=mask)
    torch.testing.assert_close(fused, dense)


@pytest.mark.parametrize("trained", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 0, 0)])
def test_only_trained_tensors_have_a_gradient(trained):
    parts = [x.detach().requires_grad_(bool(t)) for x, t in zip(head(), trained, strict=True)]
    hidden, weight, bias = parts
    value = fused_divergence(hidden, weight, forms()["dense"], bias=bias, temperature=2.0)
    assert value.requires_grad == any(trained)
    if any(trained):
        value.backward()
    assert [x.grad is not None for x in parts] == [bool(t) for t in trained]


def test_no_gradient_is_computed_without_requires_grad(monkeypatch):
    def refuse(self, rows, slope):
        raise AssertionError

    monkeypatch.setattr("limbeck.losses._fused.Head.accumulate", refuse)
    hidden, weight, _ = head()
    with torch.no_grad():
        value = fused_divergence(hidden, weight, forms()["dense"], temperature=2.0)
    torch.testing.assert_close(value, dense_form(hidden, weight, forms()["dense"], temperature=2.0))


def test_no_gradient_reaches_the_teacher():
    hidden, weight, _ = head()
    for targets in (forms()["dense"], forms()["head"]):
        tensors = [x.requires_grad_() for x in vars(targets).values() if torch.is_tensor(x)]
        fused_divergence(hidden, weight, targets, temperature=2.0).backward()
        assert all(x.grad is None for x in tensors)


def test_backward_may_run_twice():
    hidden, weight, _ = head()
    value = fused_divergence(hidden, weight, forms()["dense"], temperature=2.0)
    (2 * value).backward(retain_graph=True)
    first = weight.grad.clone(), hidden.grad.clone()
    value.backward()
    torch.testing.assert_close(weight.grad, first[0] * 1.5)
    torch.testing.assert_close(hidden.grad, first[1] * 1.5)


def test_two_uses_in_one_graph_add_up():
    hidden, weight, _ = head()
    a, b = forms()["dense"], forms()["top-k"]
    found = []
    for function in (fused_divergence, dense_form):
        first = function(hidden, weight, a, temperature=2.0)
        total = 0.5 * first + function(hidden.tanh(), weight, b, temperature=3.0) * first
        found.append((total, *torch.autograd.grad(total, (hidden, weight))))
    torch.testing.assert_close(*found)


def test_tied_weights_have_both_gradients():
    torch.manual_seed(0)
    embedding = nn.Embedding(CLASSES, FEATURES, dtype=torch.float64)
    tokens, found = torch.arange(UNITS) % CLASSES, []
    for function in (fused_divergence, dense_form):
        value = function(
            embedding(tokens).tanh(), embedding.weight, forms()["dense"], temperature=2.0
        )
        found.append((value, *torch.autograd.grad(value, embedding.weight)))
    torch.testing.assert_close(*found)


def test_a_second_derivative_raises():
    hidden, weight, _ = head()
    value = fused_divergence(hidden, weight, forms()["dense"], temperature=2.0)
    [first] = torch.autograd.grad(value, hidden, create_graph=True)
    with pytest.raises(InputError, match="got 'a second derivative'"):
        first.sum().backward()


@pytest.mark.parametrize("form", forms())
def test_half_precision_is_close_and_keeps_its_types(form):
    hidden, weight, bias = head(torch.bfloat16)
    value = fused_divergence(
        hidden, weight, forms(dtype=torch.bfloat16)[form], bias=bias, temperature=2.0
    )
    value.backward()
    assert value.dtype == torch.float32
    exact = [x.detach().double().requires_grad_() for x in (hidden, weight, bias)]
    targets = forms(dtype=torch.bfloat16)[form]
    if form == "head":
        targets = HeadTargets(
            targets.hidden.double(), targets.weight.double(), targets.bias.double(), 4.0
        )
    expected = dense_form(*exact[:2], targets, bias=exact[2], temperature=2.0)
    expected.backward()
    torch.testing.assert_close(value.double(), expected, rtol=0.02, atol=0.01)
    for leaf, reference in zip((hidden, weight, bias), exact, strict=True):
        assert leaf.grad.dtype == torch.bfloat16
        torch.testing.assert_close(leaf.grad.double(), reference.grad, rtol=0.05, atol=0.02)


def test_many_half_precision_blocks_add_up_in_float32():
    elements = 600
    hidden = torch.ones(elements, 1, dtype=torch.bfloat16)
    weight = torch.tensor([[0.0], [0.0]], dtype=torch.bfloat16, requires_grad=True)
    targets = DenseTargets(torch.tensor([[2.0, 0.0]]).expand(elements, 2))
    fused_divergence(
        hidden, weight, targets, temperature=1.0, reduction="sum", block_bytes=8
    ).backward()
    expected = elements * (0.5 - torch.sigmoid(torch.tensor(2.0)))
    assert weight.grad[0].item() == pytest.approx(expected.item(), rel=5e-3)


@pytest.mark.parametrize("form", ["dense", "head"])
def test_autocast_has_half_precision_products_and_float32_gradients(form):
    hidden, weight, bias = head(torch.float32)
    targets = forms(dtype=torch.float32)[form]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = fused_divergence(hidden, weight, targets, bias=bias, temperature=2.0)
    value.backward()
    assert value.dtype == torch.float32
    expected = dense_form(hidden, weight, targets, bias=bias, temperature=2.0)
    gradients = torch.autograd.grad(expected, (hidden, weight, bias))
    assert value.item() == pytest.approx(expected.item(), rel=0.02)
    for leaf, reference in zip((hidden, weight, bias), gradients, strict=True):
        assert leaf.grad.dtype == torch.float32
        torch.testing.assert_close(leaf.grad, reference, rtol=0.05, atol=0.02)


def test_extreme_hidden_states_are_finite():
    hidden, weight, bias = (x.detach().float().mul(1e4).requires_grad_() for x in head())
    for kind in KINDS:
        value = fused_divergence(
            hidden, weight, forms()["dense"], bias=bias, temperature=1.0, **kind
        )
        gradients = torch.autograd.grad(value, (hidden, weight, bias))
        assert value.isfinite()
        assert all(g.isfinite().all() for g in gradients)


H, W, D = torch.zeros(2, 4), torch.zeros(3, 4), DenseTargets(torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("arguments", "changes", "place"),
    [
        ((H.long(), W, D), {}, "hidden"),
        ((H[0], W, D), {}, "hidden"),
        ((H, W[:, :3], D), {}, "weight"),
        ((H, W.double(), D), {}, "weight"),
        ((H, W, DenseTargets(torch.zeros(3, 3))), {}, "targets"),
        ((H, W, torch.zeros(2, 3)), {}, "targets"),
        ((H, W, D), {"temperature": 0.0}, "temperature"),
        ((H, W, D), {"kind": "forward"}, "kind"),
        ((H, W, D), {"beta": 0.5}, "beta"),
        ((H, W, D), {"bias": torch.zeros(2)}, "bias"),
        ((H, W, D), {"softcap": -1.0}, "softcap"),
        ((H, W, D), {"weights": torch.zeros(3)}, "weights"),
        ((H, W, D), {"weights": torch.tensor([1.0, -1.0])}, "weights"),
        ((H, W, D), {"reduction": "none"}, "reduction"),
        ((H, W, D), {"block_bytes": 0}, "block_bytes"),
        ((H, W, D), {"labels": torch.tensor([0, 3])}, "labels"),
        ((H, W, D), {"labels": torch.tensor([0])}, "labels"),
        ((H, W, D), {"labels": torch.tensor([0.0, 1.0])}, "labels"),
    ],
)
def test_invalid_input_raises(arguments, changes, place):
    with pytest.raises(InputError) as caught:
        inspect.unwrap(fused_divergence)(*arguments, **({"temperature": 1.0} | changes))
    assert [problem.where for problem in caught.value.problems] == [f"fused_divergence.{place}"]


@pytest.mark.parametrize("name", forms())
def test_in_inference_mode_the_value_is_the_same(name):
    hidden, weight, bias = (one.detach() for one in head())
    targets = forms()[name]
    temperature = targets.temperature if isinstance(targets, SampledTargets) else 2.0
    value = fused_divergence(hidden, weight, targets, temperature=temperature, bias=bias)
    with torch.inference_mode():
        again = fused_divergence(hidden, weight, targets, temperature=temperature, bias=bias)
    assert torch.equal(value, again)
