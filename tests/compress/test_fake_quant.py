"""Grids and gradients, against float64 NumPy and the papers' formulas."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from limbeck.compress import fake_quant
from limbeck.compress.fake_quant import (
    MOMENTUM,
    BinaryWeight,
    InputQuantizer,
    InputStatistics,
    TernaryWeight,
    UniformWeight,
)
from limbeck.compress.fake_quant_install import install, remove

SEEDS = st.integers(0, 2**31 - 1)
some = settings(max_examples=25, deadline=None)


def drawn(seed: int, *shape: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def on_grid(x, step, zero, low, high):
    """Float64, except that the division is in float32: it decides what is a tie."""
    x, step = np.asarray(x, np.float32), np.asarray(step, np.float32)
    whole = np.clip(np.round(x / step) + zero, low, high)
    return whole, (whole - zero) * step.astype(np.float64)


@some
@given(seed=SEEDS, zero=st.sampled_from([None, 0, 3, 15]), bits=st.integers(2, 8))
def test_rounding_is_to_the_nearest_of_the_grid(seed, zero, bits):
    x, step = drawn(seed, 200, scale=4), torch.tensor(0.37)
    low, high = (0, 2**bits - 1) if zero is not None else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    held = None if zero is None else torch.tensor(float(min(zero, high)))
    found = fake_quant.fake_quantize(x, step, held, low, high)
    _, expected = on_grid(x, step, 0 if held is None else float(held), low, high)
    np.testing.assert_allclose(found.double(), expected, rtol=1e-6)
    assert fake_quant.fake_quantize(torch.zeros(1), step, held, low, high).item() == 0


@some
@given(seed=SEEDS, channels=st.booleans(), zero=st.sampled_from([None, 5.0]))
def test_gradients_are_those_of_lsq(seed, channels, zero):
    x = drawn(seed, 4, 30).requires_grad_()
    step = (0.05 + drawn(seed + 1, 4, 1).abs() if channels else torch.tensor(0.2)).requires_grad_()
    zeros = None if zero is None else torch.full_like(step, zero).requires_grad_()
    low, high = (0, 15) if zeros is not None else (-8, 7)
    upstream = drawn(seed + 2, 4, 30)
    rounded = fake_quant.fake_quantize(x, step, zeros, low, high, share=0.25)
    rounded.backward(upstream)

    counted = (x.detach() / step.detach()).double().numpy()
    g, s = upstream.double().numpy(), step.detach().double().numpy()
    below, above = low - (zero or 0.0), high - (zero or 0.0)
    inside = (counted >= below) & (counted <= above)
    slope = np.where(inside, np.round(counted) - counted, np.clip(counted, below, above))
    axes = (1,) if channels else (0, 1)
    expected = 0.25 * (g * slope).sum(axes, keepdims=channels)
    np.testing.assert_array_equal(x.grad.double().numpy(), np.where(inside, g, 0.0))
    np.testing.assert_allclose(step.grad.double(), expected, rtol=1e-4, atol=1e-4)
    if zeros is not None:
        expected = -0.25 * s * (g * ~inside).sum(axes, keepdims=channels)
        np.testing.assert_allclose(zeros.grad.double(), expected, rtol=1e-4, atol=1e-5)


def test_a_frozen_step_leaves_the_straight_through_gradient_alone():
    x = torch.tensor([-2.0, -0.6, 0.2, 0.9, 1.4], requires_grad=True)
    fake_quant.fake_quantize(x, torch.tensor(0.5), None, -2, 2).sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 1, 0]


@some
@given(seed=SEEDS)
def test_powers_of_two_are_powers_of_two(seed):
    step = drawn(seed, 50, scale=3).exp().requires_grad_()
    found = fake_quant.power_of_two(step)
    mantissa, _ = np.frexp(found.detach().double().numpy())
    assert (mantissa == 0.5).all()
    assert ((found >= step) & (found < 2 * step)).all()
    assert torch.equal(fake_quant.power_of_two(found), found)
    found.sum().backward()
    assert (step.grad == 1).all()


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("per_channel", [True, False])
@some
@given(seed=SEEDS, bits=st.integers(2, 8))
def test_steps_of_weights_span_their_range(symmetric, per_channel, seed, bits):
    weight = drawn(seed, 5, 3, 2, 2) * torch.tensor([0.01, 1, 2, 3, 4]).view(-1, 1, 1, 1)
    settings = {"bits": bits, "per_channel": per_channel, "symmetric": symmetric}
    quantizer = UniformWeight(weight.shape, **settings, reduce_range=False)
    step, zero = quantizer.grid(weight)
    rows = weight.double().numpy().reshape(5 if per_channel else 1, -1)
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    if symmetric:
        expected = np.abs(rows).max(1) / high
        assert zero is None
    else:
        least, most = np.minimum(rows.min(1), 0), np.maximum(rows.max(1), 0)
        expected = (most - least) / (high - low)
        near = np.clip(np.round(low - least / expected), low, high)
        assert np.abs(zero.double().numpy().ravel() - near).max() <= 1  # ties
    expected = np.maximum(
        expected, expected.max() / fake_quant.MAX_RATIO
    )  # of channels nearly zero
    np.testing.assert_allclose(step.double().numpy().ravel(), expected, rtol=1e-5)
    quantised = quantizer(weight)
    for row in quantised.flatten(1) if per_channel else [quantised]:
        assert row.unique().numel() <= 2**bits
    assert (quantizer(torch.where(weight > 0, weight, 0.0))[weight <= 0] == 0).all()
    half = along(step, weight) * (0.501 if symmetric else 1.001)  # the zero point is rounded too
    assert ((quantised - weight).abs() <= half).all()


def along(step, weight):
    return step.view(-1, *[1] * (weight.ndim - 1)) if step.ndim else step


def test_eight_bits_are_limited_to_seven_by_default():
    weight = drawn(0, 4, 64)
    for reduce_range, highest in ((True, 63), (False, 127)):
        quantizer = UniformWeight(weight.shape, bits=8, reduce_range=reduce_range)
        step, _ = quantizer.grid(weight)
        counted = (quantizer(weight) / step.view(-1, 1)).round()
        assert counted.abs().max() == highest


def test_a_learned_step_begins_and_learns_as_in_the_paper():
    weight = drawn(1, 6, 10)
    for per_channel in (True, False):
        quantizer = UniformWeight(weight.shape, bits=3, per_channel=per_channel, learned=True)
        quantizer.fit(weight)
        rows = weight.double().numpy().reshape(6 if per_channel else 1, -1)
        expected = 2 * np.abs(rows).mean(1) / np.sqrt(3)
        begun = quantizer.step.detach().double().numpy().ravel()
        np.testing.assert_allclose(begun, expected, rtol=1e-6)

        upstream = drawn(2, 6, 10)
        quantizer(weight).backward(upstream)
        counted = rows / begun[:, None]
        inside = (counted >= -4) & (counted <= 3)
        slope = np.where(inside, np.round(counted) - counted, np.clip(counted, -4, 3))
        products = upstream.double().numpy().reshape(rows.shape) * slope
        learned = products.sum(1) / np.sqrt(rows.shape[1] * 3)
        np.testing.assert_allclose(quantizer.step.grad.double().ravel(), learned, rtol=1e-4)


def test_learned_offsets_of_inputs_follow_lsq_plus():
    quantizer = InputQuantizer(bits=4, learned=True)
    quantizer.fit(InputStatistics(least=-1.0, most=2.0, mean=0.5))
    assert (quantizer.step.item(), quantizer.offset.item()) == pytest.approx((0.2, -1.0))
    x = torch.tensor([[-3.0, 0.33, 5.0, 7.0]], requires_grad=True)
    upstream = torch.tensor([[1.0, 10.0, 100.0, 1000.0]])
    quantizer(x).backward(upstream)
    share = 1 / np.sqrt(4 * 15)
    assert x.grad.tolist() == [[0, 10, 0, 0]]
    # Outside the range x becomes s · l + β or s · h + β; inside, s · round(x / s).
    assert quantizer.offset.grad.item() == pytest.approx(share * 1101, rel=1e-5)
    expected = share * (1 * 0 + 10 * (2 - 0.33 / 0.2) + 1100 * 15)
    assert quantizer.step.grad.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("make", [UniformWeight, TernaryWeight])
def test_learned_steps_stay_above_zero_and_can_come_back(make):
    bits = {"bits": 4} if make is UniformWeight else {}
    quantizer = make((2, 8), learned=True, **bits)
    with torch.no_grad():
        quantizer.step.fill_(-0.3)
    weight = drawn(0, 2, 8)
    step, _ = quantizer.grid(weight)
    assert (step > 0).all()
    rounded = quantizer(weight)
    assert rounded.isfinite().all()
    rounded.backward(weight)
    assert (quantizer.step.grad != 0).all()


@some
@given(seed=SEEDS, per_channel=st.booleans())
def test_ternary_weights_are_those_of_the_paper(seed, per_channel):
    weight = drawn(seed, 3, 40)
    rows = weight.double().numpy().reshape(3 if per_channel else 1, -1)
    expected = np.empty_like(rows)
    for row, made in zip(rows, expected, strict=True):
        delta = 0.7 * np.abs(row).mean()
        alpha = np.abs(row)[np.abs(row) > delta].mean()
        made[:] = alpha * np.sign(row) * (np.abs(row) > delta)
    fixed = TernaryWeight(weight.shape, per_channel=per_channel)
    np.testing.assert_allclose(fixed(weight).double().numpy().reshape(rows.shape), expected, 1e-5)
    learned = TernaryWeight(weight.shape, per_channel=per_channel, learned=True)
    learned.fit(weight)
    assert torch.allclose(learned(weight), fixed(weight))  # it begins there


def test_ternary_gradients():
    weight = drawn(3, 2, 20).requires_grad_()
    upstream = drawn(4, 2, 20)
    TernaryWeight(weight.shape)(weight).backward(upstream)
    assert torch.equal(weight.grad, upstream)

    learned = TernaryWeight(weight.shape, per_channel=False, learned=True)
    learned.fit(weight)
    learned(weight).backward(upstream)
    w, g = weight.detach().double().numpy(), upstream.double().numpy()
    alpha, delta = learned.step.item(), learned.threshold.item()
    three = np.sign(w) * (np.abs(w) > delta)
    inside = np.abs(w) < 2 * delta
    assert learned.step.grad.item() == pytest.approx((g * three).sum(), rel=1e-4)
    # d/dΔ of α · w / 2Δ, rounding taken as nothing.
    expected = -(g * inside * alpha * w / (2 * delta**2)).sum()
    assert learned.threshold.grad.item() == pytest.approx(expected, rel=1e-4)


@some
@given(seed=SEEDS, per_channel=st.booleans())
def test_binary_weights_are_those_of_the_paper(seed, per_channel):
    weight = drawn(seed, 3, 2, 5).requires_grad_()
    quantizer = BinaryWeight(weight.shape, per_channel=per_channel)
    rows = weight.detach().double().numpy().reshape(3 if per_channel else 1, -1)
    expected = np.sign(rows) * np.abs(rows).mean(1, keepdims=True)
    found = quantizer(weight)
    np.testing.assert_allclose(found.detach().double().numpy().reshape(rows.shape), expected, 1e-5)
    found.sum().backward()
    assert (weight.grad == 1).all()


def test_masked_weights_stay_zero_and_do_not_count_in_a_binary_mean():
    weight = torch.tensor([[3.0, 0.0, -1.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert BinaryWeight(weight.shape)(weight).tolist() == [[2, 0, -2, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("powers_of_two", [True, False])
def test_every_grid_of_weights_that_are_all_zero_is_finite(powers_of_two):
    weight = torch.zeros(3, 4)
    for made in (
        UniformWeight(weight.shape, bits=4, powers_of_two=powers_of_two),
        UniformWeight(weight.shape, bits=4, symmetric=False, powers_of_two=powers_of_two),
        UniformWeight(weight.shape, bits=4, learned=True, powers_of_two=powers_of_two),
        TernaryWeight(weight.shape, powers_of_two=powers_of_two),
        BinaryWeight(weight.shape, powers_of_two=powers_of_two),
    ):
        made.fit(weight)
        step, _ = made.grid(weight)
        assert (step > 0).all()
        assert torch.equal(made(weight), weight)


@some
@given(seed=SEEDS, bits=st.integers(4, 8), symmetric=st.booleans())
def test_inputs_lie_on_their_grid_and_zero_is_on_it(seed, bits, symmetric):
    x = drawn(seed, 8, 20, scale=2)
    quantizer = InputQuantizer(bits=bits, symmetric=symmetric).eval()
    quantizer.fit(InputStatistics(x.min().item(), x.max().item(), x.abs().mean().item()))
    rounded = quantizer(x)
    assert rounded.unique().numel() <= 2**bits
    step, zero = quantizer.grid()
    assert ((rounded - x).abs() <= step * (0.501 if symmetric else 1.001)).all()
    counted = rounded / step + (0 if zero is None else zero)
    assert torch.allclose(counted, counted.round(), atol=1e-3)
    assert quantizer(torch.zeros(1, 1)).item() == 0
    whole = quantizer.as_rounding()
    assert torch.equal(whole(x), rounded)  # the exported operator, bit for bit


def test_a_range_of_inputs_follows_training_and_stays_in_evaluation():
    quantizer = InputQuantizer(bits=8)
    quantizer.fit(InputStatistics(least=-1.0, most=1.0, mean=0.5))
    x = torch.tensor([[-3.0, 5.0]])
    quantizer.eval()(x)
    assert (quantizer.least.item(), quantizer.most.item()) == (-1, 1)
    quantizer.train()(x)
    expected = (-1 - 2 * MOMENTUM, 1 + 4 * MOMENTUM)
    assert (quantizer.least.item(), quantizer.most.item()) == pytest.approx(expected)


def test_half_precision_inputs_are_rounded_in_single_precision():
    x = drawn(0, 4, 30).bfloat16()
    quantizer = InputQuantizer(bits=8).eval()
    quantizer.fit(InputStatistics(-3.0, 3.0, 1.0))
    assert torch.equal(quantizer(x), quantizer(x.float()).bfloat16())


def test_a_bias_is_a_multiple_of_both_steps_and_keeps_its_gradient():
    torch.manual_seed(0)
    layer = nn.Linear(5, 3)
    install(layer, weight={"grid": "uniform", "bits": 4}, input={"bits": 6})
    layer.input_quantizer.fit(InputStatistics(0.0, 1.0, 0.5))
    weight = layer.parametrizations.weight.original.detach().double().numpy()
    steps = np.abs(weight).max(1) / 7 * (1 / 63)
    counted = layer.bias.detach().double().numpy() / steps
    np.testing.assert_allclose(counted, np.round(counted), atol=1e-2)
    original = layer.parametrizations.bias.original
    assert ((layer.bias - original).abs().detach().numpy() <= 0.501 * steps).all()
    layer.bias.sum().backward()
    assert original.grad.tolist() == [1, 1, 1]


def test_quantisers_are_removed_completely_and_copies_keep_them():
    torch.manual_seed(0)
    layer = nn.Linear(5, 3)
    x, plain = drawn(0, 4, 5), copy.deepcopy(layer)
    install(layer, weight={"grid": "ternary"}, input={"bits": 4})
    rounded, other = layer.eval()(x), copy.deepcopy(layer)
    assert not torch.allclose(rounded, plain(x))
    remove(layer)
    assert type(layer) is nn.Linear
    assert torch.equal(layer(x), plain(x))
    assert layer.state_dict().keys() == plain.state_dict().keys()
    assert torch.equal(other(x), rounded)
    # A copy's bias is counted in the copy's own steps.
    install(layer, weight={"grid": "uniform", "bits": 8}, input={"bits": 8})
    other = copy.deepcopy(layer).eval()
    before = layer.eval()(x)
    other.input_quantizer.fit(InputStatistics(0.0, 100.0, 1.0))
    assert torch.equal(layer(x), before)
    assert not torch.equal(other.bias, layer.bias)


def test_inputs_given_by_name_are_rounded_too():
    layer = nn.Linear(3, 2)
    install(layer, weight={"grid": "binary"}, input={"bits": 4})
    x = drawn(0, 2, 3)
    assert torch.equal(layer.eval()(input=x), layer(x))
