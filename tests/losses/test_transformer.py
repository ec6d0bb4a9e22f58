"""Attention and hidden states: drawn inputs against the definitions, masks, extremes."""

import importlib.util
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck import losses
from limbeck.errors import InputError

few = settings(max_examples=25, deadline=None)
PATH = Path(__file__).parent / "trials" / "transformer.py"
SPEC = importlib.util.spec_from_file_location("transformer_trials", PATH)
definitions = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(definitions)

DEFINITION = {
    "attention_kl": definitions.attention_kl,
    "attention_mse": definitions.attention_mse,
    "embedding_mse": definitions.mean_squares,
    "hidden_cosine": definitions.hidden_cosine,
    "hidden_mse": definitions.mean_squares,
    "minilm_relation": definitions.minilm_relation,
}
HIDDEN = ["embedding_mse", "hidden_cosine", "hidden_mse"]
sizes = st.integers(1, 4)
seeds = st.integers(0, 2**32 - 1)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def softmax(scores):
    return torch.tensor(scores).softmax(-1).numpy()


def differences(function, at, step):
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


def agree(name, student, teacher, *, step=1e-4, **keywords):
    """Hold value and gradient to the definition."""
    value, gradient = slope(
        lambda s: losses.find(name)(s, torch.tensor(teacher), **keywords), torch.tensor(student)
    )
    reference = partial(DEFINITION[name], **keywords)
    np.testing.assert_allclose(value, reference(student, teacher), rtol=1e-8, atol=1e-10)
    slopes = differences(lambda moved: reference(moved, teacher), student, step)
    np.testing.assert_allclose(gradient, slopes, rtol=0, atol=1e-6 * np.abs(slopes).max() + 1e-9)


def slope(loss, student):
    """Return the value and the gradient of a loss of one argument."""
    leaf = student.detach().clone().requires_grad_()
    value = loss(leaf)
    value.sum().backward()
    return value.detach(), leaf.grad


@few
@given(seeds, sizes, sizes, sizes, st.integers(2, 4), st.booleans())
def test_attention_kl(seed, samples, heads, queries, keys, per_element):
    shape = (samples, heads, keys) if per_element else (samples, heads, queries, keys)
    student, teacher = 0.8 * softmax(0.5 * normal(seed, 2, *shape)) + 0.2 / keys
    agree("attention_kl", student, teacher, step=1e-5)
    agree("attention_kl", student, teacher, step=1e-5, heads="mean")


@few
@given(seeds, sizes, sizes, sizes, sizes)
def test_attention_mse(seed, samples, heads, queries, keys):
    student, teacher = normal(seed, 2, samples, heads, queries, keys)
    student[..., 0], teacher[0] = -1e4, -101.0
    agree("attention_mse", student, teacher)


@few
@given(seeds, sizes, sizes, st.integers(2, 5), st.booleans(), st.sampled_from(HIDDEN))
def test_hidden_states(seed, samples, tokens, features, pooled, name):
    shape = (samples, features) if pooled else (samples, tokens, features)
    student, teacher = normal(seed, 2, *shape)
    agree(name, student + np.sign(student), teacher)


@few
@given(seeds, sizes, sizes, st.sampled_from([1, 2, 3]))
def test_minilm_relation(seed, samples, tokens, heads):
    student, teacher = normal(seed, samples, tokens, 6), normal(seed + 1, samples, tokens, 12)
    agree("minilm_relation", student, teacher, heads=heads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_padded_keys_of_probability_zero_have_no_effect(dtype):
    student, teacher = torch.tensor([[[[0.75, 0.25]]], [[[0.5, 0.5]]]]).to(dtype)
    padding = torch.zeros(1, 1, 2, dtype=dtype)
    wide = [torch.cat([x[None], padding[None]], dim=-1) for x in (student, teacher)]
    value, gradient = slope(lambda s: losses.attention_kl(s, wide[1]), wide[0])
    expected, narrow = slope(lambda s: losses.attention_kl(s, teacher[None]), student[None])
    assert torch.equal(value, expected)
    assert torch.equal(gradient[..., :2], narrow)
    assert not gradient[..., 2:].any()


def test_attention_that_underflows_on_the_students_side_is_finite():
    scores = torch.tensor([[[300.0, 0.0, -5.0, 100.0]]])
    teacher = torch.tensor([[[0.0, 0.5, 0.25, 0.25]]])
    value, gradient = slope(lambda s: losses.attention_kl(s.softmax(-1), teacher), scores)
    assert value.isfinite().all()
    assert gradient.isfinite().all()
    for tiny in (1e-38, 1e-42, 0.0):
        student = torch.tensor([[[1.0, tiny]]])
        value, gradient = slope(lambda s: losses.attention_kl(s, teacher[..., 1:3]), student)
        assert value.isfinite().all()
        assert gradient.isfinite().all()


def test_attention_kl_is_at_its_minimum_where_the_attention_is_the_teachers():
    scores, other = torch.randn(2, 3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    teacher = scores.double().softmax(-1)
    value, gradient = slope(
        lambda s: losses.attention_kl(s.softmax(-1), teacher), scores.double() + 3
    )
    assert value.max() < 1e-14
    assert gradient.abs().max() < 1e-14
    assert (losses.attention_kl(other.double().softmax(-1), teacher) > 0).all()
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        near = (scores + 1e-3 * other).softmax(-1).to(dtype)
        assert losses.attention_kl(near, scores.softmax(-1).to(dtype)).min() >= 0


def test_different_numbers_of_heads_raise_or_are_averaged():
    student, teacher = torch.full((2, 2, 3, 4), 0.25), torch.full((2, 6, 3, 4), 0.25)
    with pytest.raises(InputError, match="one shape"):
        losses.attention_kl(student, teacher)
    assert torch.equal(losses.attention_kl(student, teacher, heads="mean"), torch.zeros(2))


@pytest.mark.parametrize("masked", [-100.0, -1e4, -math.inf, torch.finfo(torch.float32).min])
def test_scores_of_padded_keys_count_as_zero(masked):
    student, teacher = torch.randn(2, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    expected = losses.attention_mse(student * 1, teacher)
    for tensor in (student, teacher):
        tensor[..., 3] = masked
    value, gradient = slope(lambda s: losses.attention_mse(s, teacher), student)
    kept = (student[..., :3] - teacher[..., :3]).square().sum((1, 2, 3)) / 48
    torch.testing.assert_close(value, kept)
    assert (value < expected).all()
    assert not gradient[..., 3].any()


MASK = torch.tensor([[True, True, False], [True, False, False], [False, False, False]])


def inputs(name, generator=None):
    """Return three samples of three tokens, of which six in all are padding."""
    generator = generator or torch.Generator().manual_seed(0)
    shape = (3, 2, 3, 3) if name.startswith("attention") else (3, 3, 4)
    tensors = torch.randn(2, *shape, dtype=torch.float64, generator=generator)
    return tuple(tensors.softmax(-1) if name == "attention_kl" else tensors)


@pytest.mark.parametrize("name", DEFINITION)
def test_padding_has_no_effect(name):
    student, teacher = inputs(name)
    settings = {"heads": 2} if name == "minilm_relation" else {}
    loss = partial(losses.find(name), **settings)
    value, gradient = slope(lambda s: loss(s, teacher, mask=MASK), student)
    kept = {0: slice(0, 2), 1: slice(0, 1)}
    for sample, tokens in kept.items():
        rows = [x[sample : sample + 1, ..., tokens, :] for x in (student, teacher)]
        if name == "attention_mse":
            rows = [x[..., tokens] for x in rows]
        torch.testing.assert_close(value[sample : sample + 1], loss(*rows))
    assert value[2] == 0
    padding = ~MASK.reshape(3, *[1] * (student.ndim - 3), 3, 1).expand_as(student)
    assert not gradient[padding].any()
    spoilt = student.masked_fill(padding, 1e3 if name == "minilm_relation" else math.inf)
    again, same = slope(lambda s: loss(s, teacher, mask=MASK), spoilt)
    torch.testing.assert_close(again, value)
    assert same.isfinite().all()
    torch.testing.assert_close(same, gradient)
    everything = torch.ones_like(MASK)
    torch.testing.assert_close(loss(student, teacher, mask=everything), loss(student, teacher))


@pytest.mark.parametrize("name", HIDDEN)
def test_pooled_states_have_no_tokens_to_mask(name):
    student, teacher = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    loss = losses.find(name)
    assert torch.equal(loss(student, teacher, mask=MASK), loss(student, teacher))
    with pytest.raises(InputError, match="mask"):  # tokens in a row: the mask is of another shape
        loss(student, teacher, mask=MASK[:2])


def test_states_of_zeros_have_a_cosine_of_zero():
    some, zero = torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2)
    for student, teacher in ((zero, some), (some, zero), (zero, zero)):
        value, gradient = slope(lambda s, t=teacher: losses.hidden_cosine(s, t), student)
        assert value.item() == pytest.approx(1)
        assert not gradient.any()


def test_cosine_distance_is_from_zero_to_two_for_any_length():
    states = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        same = losses.hidden_cosine(states.to(dtype), 3 * states.to(dtype))
        assert same.min() >= 0
        assert same.max() < 1e-2 if dtype != torch.float32 else same.max() < 1e-6
    torch.testing.assert_close(losses.hidden_cosine(states, -states), torch.full((50,), 2.0))
    expected = 1 - torch.nn.functional.cosine_similarity(states, states.flip(0))
    torch.testing.assert_close(losses.hidden_cosine(states, states.flip(0)), expected)


def test_relations_of_tokens_are_invariant_to_rotation():
    student, teacher = inputs("minilm_relation")
    turn = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q
    assert losses.minilm_relation(teacher @ turn, teacher, heads=1).max() < 1e-14
    value = losses.minilm_relation(student @ turn, teacher, heads=1)
    torch.testing.assert_close(value, losses.minilm_relation(student, teacher, heads=1))


def test_relations_keep_their_precision_under_autocast():
    student, teacher = torch.randn(2, 2, 5, 8, generator=torch.Generator().manual_seed(0))
    expected = losses.minilm_relation(student, teacher, heads=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(losses.minilm_relation(student, teacher, heads=2), expected)


@pytest.mark.parametrize("name", DEFINITION)
def test_empty_batches_and_samples_without_tokens(name):
    settings = {"heads": 2} if name == "minilm_relation" else {}
    loss = partial(losses.find(name), **settings)
    student, teacher = (x[:0] for x in inputs(name))
    value, gradient = slope(lambda s: loss(s, teacher), student)
    assert value.shape == (0,)
    assert gradient.shape == student.shape
    assert loss(student, teacher, mask=MASK[:0]).shape == (0,)
    without = [x[..., :0, :] for x in inputs(name)]
    assert torch.equal(loss(*without), torch.zeros(3, dtype=torch.float64))


def test_a_teacher_outside_the_students_support_is_finite():
    student = torch.tensor([0.0, 0.0, 1.0]).reshape(1, 1, 1, 3).requires_grad_()
    for little in (1.4e-45, 1e-40, 1e-38, 1e-30):
        teacher = torch.tensor([0.0, 1.0, little]).reshape(1, 1, 1, 3)
        value = losses.attention_kl(student, teacher)
        assert value.isfinite().all()
        assert torch.autograd.grad(value.sum(), student)[0].isfinite().all()


@pytest.mark.parametrize("loss", [losses.attention_kl, losses.attention_mse])
def test_attention_without_heads_raises(loss):
    nothing = torch.rand(5, 0, 3, 3)
    with pytest.raises(InputError, match="at least one head"):
        loss(nothing, nothing)
