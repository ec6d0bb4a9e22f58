"""The maths of low rank against numpy in float64: errors, forms, moments, choice of ranks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from limbeck.compress.changes.factors import apply, pair
from limbeck.compress.low_rank import RIDGE, Moment, decompose, matrix, moments
from limbeck.compress.low_rank_plan import Cost, approximate, by_budget, by_energy, residual_energy
from limbeck.compress.method import CalibrationContext, CompressError
from limbeck.errors import InputError
from limbeck.export.standalone import changed_architecture

sizes = st.integers(1, 12)
seeds = st.integers(0, 2**32 - 1)


def drawn(seed: int, *shape: int) -> torch.Tensor:
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return made * torch.logspace(0, -2, shape[-1], dtype=torch.float64)


def product(found, rank):
    first, second = found.factors(rank)
    return (second @ first).numpy()


@given(sizes, sizes, seeds, st.data())
@settings(max_examples=50, deadline=None)
def test_the_error_is_that_of_the_discarded_singular_values(rows, columns, seed, data):
    rank = data.draw(st.integers(1, min(rows, columns)))
    weight = drawn(seed, rows, columns)
    values = np.linalg.svd(weight.numpy(), compute_uv=False)
    found = decompose(weight)
    error = np.linalg.norm(weight.numpy() - product(found, rank))
    assert error == pytest.approx(
        np.sqrt((values[rank:] ** 2).sum()), rel=1e-9, abs=1e-9 * values[0]
    )
    np.testing.assert_allclose(found.energies.sqrt(), values, atol=2e-8 * values[0])
    first, second = found.factors(rank)
    np.testing.assert_allclose(first.norm(dim=1), second.norm(dim=0), rtol=1e-6)


def test_a_rank_below_the_arithmetic_counts_as_zero():
    weight = drawn(0, 20, 3).float() @ drawn(1, 3, 30).float()
    assert int((decompose(weight.double()).energies > 1e-12).sum()) == 3
    assert by_energy(residual_energy(decompose(weight.double()).energies.numpy()), 1 - 1e-9) == 3


@given(sizes, sizes, seeds, st.sampled_from(["inputs", "outputs"]), st.data())
@settings(max_examples=50, deadline=None)
def test_the_whitened_error_is_that_of_the_whitened_singular_values(
    rows, columns, seed, side, data
):
    rank = data.draw(st.integers(1, min(rows, columns)))
    weight, inputs = drawn(seed, rows, columns), drawn(seed + 1, 40, columns)
    seen = inputs.T @ inputs / 40
    if side == "outputs":
        moment = Moment("outputs", weight @ seen @ weight.T)
    else:
        moment = Moment("inputs", seen)
    ridge = RIDGE * (weight @ seen @ weight.T).trace() / weight.square().sum()
    values, vectors = np.linalg.eigh((seen + ridge * torch.eye(columns)).numpy())
    root = vectors * np.sqrt(values) @ vectors.T
    expected = np.linalg.svd(weight.numpy() @ root, compute_uv=False)
    cut_down = product(decompose(weight, moment), rank)
    error = np.linalg.norm((weight.numpy() - cut_down) @ root)
    tail = np.sqrt((expected[rank:] ** 2).sum())
    assert error == pytest.approx(tail, rel=1e-5, abs=1e-8 * expected[0])
    plain = product(decompose(weight), rank)
    whitened, plain_error = (
        np.linalg.norm(inputs.numpy() @ (weight.numpy() - other).T) for other in (cut_down, plain)
    )
    assert whitened <= plain_error * (1 + 1e-9) + 1e-9 * expected[0]


@pytest.mark.parametrize("shape", [(4, 9), (9, 4)])
def test_inputs_that_never_vary_break_nothing(shape):
    weight = drawn(0, *shape)
    for seen in (torch.zeros(shape[1], shape[1]), torch.ones(shape[1], shape[1])):
        found = decompose(weight, Moment("inputs", seen.double()))
        np.testing.assert_allclose(product(found, min(shape)), weight, atol=1e-9)
    dead = decompose(torch.zeros(shape))
    assert not dead.energies.any()
    assert not product(dead, 2).any()
    assert by_energy(residual_energy(dead.energies.numpy()), 1.0) == 1


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(CompressError, match="not finite"):
        decompose(torch.tensor([[1.0, float("nan")]]))


def convolution(data, kind: type[nn.Module]) -> nn.Module:
    axes = 2 if kind is nn.Conv2d else 1
    sides = st.tuples(*[st.integers(1, 3)] * axes)
    kernel, dilation = data.draw(sides), data.draw(sides)
    named = data.draw(st.sampled_from(["", "same", "valid"]))
    mode = data.draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    return kind(
        data.draw(st.integers(1, 3)),
        data.draw(st.integers(1, 4)),
        kernel,
        stride=1 if named == "same" else data.draw(sides),
        padding=named or data.draw(st.tuples(*[st.integers(0, 2)] * axes)),
        dilation=dilation,
        padding_mode=mode,
        bias=data.draw(st.booleans()),
        dtype=torch.float64,
    )


@given(st.sampled_from(["channel 1", "channel 2", "spatial 2"]), st.data())
@settings(max_examples=60, deadline=None)
def test_two_convolutions_of_full_rank_equal_one(which, data):
    form, axes = which.split()
    layer = convolution(data, nn.Conv2d if axes == "2" else nn.Conv1d)
    weight = matrix(layer.weight, form)
    images = torch.randn(2, layer.in_channels, *[9, 8][: int(axes)], dtype=torch.float64)
    full = min(weight.shape)
    with torch.no_grad():
        two = approximate(layer, form, decompose(weight), full)
        torch.testing.assert_close(two(images), layer(images), rtol=1e-9, atol=1e-9)
    assert [rows.shape for rows in two.state_dict().values()] == [
        rows.shape for rows in pair(layer, full, form).state_dict().values()
    ]


@pytest.mark.parametrize("form", ["linear", "channel", "spatial", "embedding"])
def test_the_layers_hold_the_best_matrix(form):
    """The error of the two layers as one weight is that of the singular values."""
    torch.manual_seed(0)
    place = {"dtype": torch.float64}
    if form == "linear":
        layer, inputs = nn.Linear(7, 5, **place), torch.eye(7, **place)
    elif form == "embedding":
        layer, inputs = nn.Embedding(7, 5, **place), torch.arange(7)
    else:
        layer = nn.Conv2d(2, 5, (3, 4), padding=(2, 3), **place)
        inputs = torch.zeros(2, 2, 1, 1, **place)
        inputs[0, 0] = inputs[1, 1] = 1  # its output is the kernel itself
    found = decompose(matrix(layer.weight, form))
    values = np.linalg.svd(matrix(layer.weight, form).detach().numpy(), compute_uv=False)
    for rank in (1, 2, 4):
        with torch.no_grad():
            error = (approximate(layer, form, found, rank)(inputs) - layer(inputs)).norm()
        assert float(error) == pytest.approx(np.sqrt((values[rank:] ** 2).sum()), rel=1e-9)


def test_two_layers_are_of_the_layers_kind():
    layer = nn.Embedding(6, 4, padding_idx=2, dtype=torch.bfloat16).requires_grad_(False).eval()
    first, second = approximate(layer, "embedding", decompose(layer.weight.T), 2)
    assert first.padding_idx == 2
    assert second.bias is None
    assert not first.weight[2].any()
    assert {rows.dtype for rows in (first.weight, second.weight)} == {torch.bfloat16}
    assert not any(part.training or part.weight.requires_grad for part in (first, second))


@pytest.mark.parametrize(
    ("layer", "form", "shape"),
    [
        (nn.Linear(3, 5), "linear", (6, 4, 3)),
        (nn.Linear(5, 3), "linear", (6, 5)),
        (nn.Conv2d(1, 12, 3, padding=1, padding_mode="reflect"), "channel", (6, 1, 5, 5)),
        (nn.Conv2d(4, 3, 2, stride=2), "channel", (6, 4, 5, 5)),
        (nn.Conv1d(1, 9, 3, dilation=2), "channel", (6, 1, 9)),
        (nn.Conv2d(3, 4, 3, padding=1), "spatial", (6, 3, 5, 5)),
    ],
)
def test_moments_are_those_of_the_inputs_of_the_layer(layer, form, shape):
    torch.manual_seed(0)
    model, images = nn.Sequential(layer).double(), torch.randn(shape, dtype=torch.float64)
    batches = [{"x": part} for part in images.split(4)]
    context = CalibrationContext(lambda: iter(batches), lambda net, b: net(b["x"]), None, None, 0)
    moment = moments(model, {"0": form}, context)["0"]
    weight = matrix(layer.weight, form).detach()
    if form == "linear":
        columns = images.flatten(0, -2)
    elif form == "spatial":
        padded = torch.nn.functional.pad(images, (0, 0, 1, 1))
        columns = padded.unfold(2, 3, 1).permute(0, 2, 3, 1, 4).flatten(3).flatten(0, 2)
    elif images.ndim == 3:
        columns = torch.stack([images[..., at : at + 5] for at in (0, 2, 4)], -1)
        columns = columns.permute(0, 2, 1, 3).flatten(2).flatten(0, 1)
    else:
        mode = "reflect" if layer.padding_mode == "reflect" else "constant"
        padded = torch.nn.functional.pad(images, [layer.padding[0]] * 4, mode=mode)
        columns = torch.nn.functional.unfold(padded, layer.kernel_size, stride=layer.stride)
        columns = columns.transpose(1, 2).flatten(0, 1)
    seen = columns.T @ columns / len(columns)
    assert moment.side == ("outputs" if len(weight) <= weight.shape[1] else "inputs") or (
        form == "spatial"
    )
    expected = seen if moment.side == "inputs" else weight @ seen @ weight.T
    torch.testing.assert_close(moment.values, expected)


def test_without_samples_there_are_no_moments():
    context = CalibrationContext(lambda: iter([]), lambda net, b: net(b["x"]), None, None, 0)
    with pytest.raises(InputError, match="no batch"):
        moments(nn.Sequential(nn.Linear(2, 2)), {"0": "linear"}, context)


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=9), st.floats(0.01, 1))
def test_the_smallest_rank_that_keeps_the_energy(energies, share):
    falling = np.sort(np.array(energies))[::-1]
    rank = by_energy(residual_energy(falling), share)
    kept = falling.cumsum() / falling.sum()
    assert kept[rank - 1] >= share - 1e-9
    assert rank == 1 or kept[rank - 2] < share + 1e-9


@given(st.integers(1, 3), seeds)
@settings(max_examples=60, deadline=None)
def test_a_budget_is_met_with_the_least_loss(count, seed):
    """Against every choice there is, wherever saving one more unit begins to cost more."""
    random = np.random.default_rng(seed)
    costs, losses = {}, {}
    for path in "abc"[:count]:
        rows, columns = random.integers(1, 9, 2)
        full = int(min(rows, columns))
        costs[path] = Cost(int(rows * columns), int(rows + columns), full)
        losses[path] = residual_energy(np.sort(random.random(full) ** 3)[::-1])
    able = {path: cost for path, cost in costs.items() if cost.most}

    def sums(ranks):
        saved = sum(costs[path].dense - rank * costs[path].each for path, rank in ranks.items())
        return saved, sum(losses[path][rank - 1] for path, rank in ranks.items())

    every = [
        sums({path: rank for path, rank in zip(able, ranks, strict=True) if rank})
        for ranks in itertools.product(*(range(cost.most + 1) for cost in able.values()))
    ]
    for saving, least in lower_hull(every)[1:]:
        ranks = by_budget(costs, losses, saving)
        saved, loss = sums(ranks)
        assert saved >= saving
        assert loss <= least + 1e-12
        assert all(1 <= rank <= costs[path].most for path, rank in ranks.items())
    for saving in range(1, max(every)[0] + 1):
        assert sums(by_budget(costs, losses, saving))[0] >= saving


def lower_hull(points):
    """The corners of the line below all points, from nothing saved to the most."""
    corners = []
    for x, y in sorted(points):
        while len(corners) > 1 and (corners[-1][1] - corners[-2][1]) * (x - corners[-2][0]) >= (
            y - corners[-2][1]
        ) * (corners[-1][0] - corners[-2][0]):
            corners.pop()
        if not corners or x > corners[-1][0]:
            corners.append((x, y))
    return corners


def test_a_change_builds_the_structure_of_the_present_layers():
    net = nn.Sequential(nn.Conv2d(3, 8, (3, 5), stride=(2, 1), padding=(1, 2), bias=False))
    apply(net, layers={"0": {"rank": 2, "form": "spatial"}})
    assert {name: tuple(rows.shape) for name, rows in net.state_dict().items()} == {
        "0.0.weight": (2, 3, 3, 1),
        "0.1.weight": (8, 2, 1, 5),
    }
    assert net(torch.zeros(1, 3, 8, 9)).shape == (1, 8, 4, 9)
    apply(net, layers={"0.1": {"rank": 1, "form": "channel"}})
    assert set(net.state_dict()) == {"0.0.weight", "0.1.0.weight", "0.1.1.weight"}


def test_the_shipped_code_of_a_change_needs_only_torch():
    change = {"kind": "factors", "layers": {"0": {"rank": 1, "form": "linear"}}}
    text = changed_architecture("build = None", [change], "limbeck.compress.changes")
    imports = [line.split()[1] for line in text.splitlines() if line.lstrip().startswith("from ")]
    assert set(imports) == {"__future__", "collections.abc", "typing", "torch"}
