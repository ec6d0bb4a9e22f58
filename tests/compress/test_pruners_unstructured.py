"""Masks of unstructured pruning, against numpy, float64 references and the formulas."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from four_nets import NETS, subject
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from limbeck.compress import masked_weights as masks
from limbeck.compress.changes.masks import mask_of
from limbeck.compress.mask_schedule import RankedMask, SoftMask, count_of, cubic, smallest
from limbeck.compress.method import CompressError
from limbeck.compress.pruners import PRUNERS
from limbeck.compress.pruners.magnitude import Magnitude
from limbeck.compress.pruners.movement import Movement
from limbeck.compress.pruners.random import Random
from limbeck.compress.pruners.semi_structured import SemiStructured, largest
from limbeck.errors import InputError

WORK = subject("cnn").work
METHODS = {
    "magnitude": Magnitude,
    "random": Random,
    "movement": Movement,
    "semi_structured": SemiStructured,
}


def net(seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3)
    ).to(dtype)


def zeros_of(model):
    """Return where weights are masked, flat and in the order of the model."""
    return {
        path: torch.cat([~mask_of(one).mask.flatten() for one in found.values()]).numpy()
        for path, found in masks.masked_weights(model).items()
    }


def all_of(found):
    return np.concatenate(list(found.values()))


def dense_weights(model):
    """The weights of every layer that is masked by itself, flat, in float64."""
    return {
        path: np.concatenate(
            [
                getattr(layer, name).detach().double().numpy().ravel()
                for name in masks.weights_of(layer)
            ]
        )
        for path, layer in model.named_modules()
        if isinstance(layer, masks.KINDS)
    }


def plan_of(model):
    (plan,) = [part for part in model.modules() if isinstance(part, masks.Plan)]
    return plan


def test_the_registry_knows_the_methods():
    for name, method in METHODS.items():
        assert PRUNERS.load(name) is method


# -- ranking --------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=80)
@given(st.lists(st.lists(st.integers(-3, 3), min_size=1, max_size=9), min_size=1), st.data())
def test_the_smallest_are_those_that_a_stable_sort_puts_first(parts, data):
    scores = [torch.tensor(part, dtype=torch.float32) for part in parts]
    flat = np.concatenate([np.array(part, float) for part in parts])
    count = data.draw(st.integers(0, len(flat)))
    expected = np.zeros(len(flat), bool)
    expected[np.argsort(flat, kind="stable")[:count]] = True
    assert np.array_equal(torch.cat(smallest(scores, count)).numpy(), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_ranking_in_every_precision(dtype):
    scores = torch.tensor([[3, -torch.inf], [1, 2]], dtype=dtype)
    assert smallest([scores], 2)[0].tolist() == [[False, True], [True, False]]


# -- magnitude, one shot --------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("method", [Magnitude, Random])
def test_the_sparsity_is_reached_exactly(method, scope, name):
    sub = subject(name)
    before = dense_weights(sub.model)
    changed = method(sparsity=0.77, scope=scope).transform(sub.model, sub.work)
    zeros = zeros_of(sub.model)
    assert list(zeros) == list(before) == list(changed.change["layers"])
    total = sum(map(len, before.values()))
    if scope == "global":
        assert all_of(zeros).sum() == round(0.77 * total)
        assert f"{round(0.77 * total):,} of {total:,} weights" in changed.what
    else:
        for path, found in zeros.items():
            assert found.sum() == round(0.77 * len(found)), path
    after = dense_weights(sub.model)
    assert all(np.array_equal(after[path], before[path] * ~zeros[path]) for path in before)
    assert masks.total_sparsity(sub.model) == all_of(zeros).mean()


@settings(deadline=None, max_examples=25)
@given(
    st.floats(0.02, 0.98),
    st.sampled_from(["global", "layer"]),
    st.integers(0, 1000),
)
def test_magnitude_keeps_the_largest(sparsity, scope, seed):
    model = net(seed)
    before = dense_weights(model)
    groups = [list(before)] if scope == "global" else [[path] for path in before]
    Magnitude(sparsity=sparsity, scope=scope).transform(model, WORK)
    zeros = zeros_of(model)
    for group in groups:
        size = np.abs(np.concatenate([before[path] for path in group]))
        expected = np.zeros(len(size), bool)
        expected[np.argsort(size, kind="stable")[: round(sparsity * len(size))]] = True
        assert np.array_equal(np.concatenate([zeros[path] for path in group]), expected)


def test_among_equal_weights_the_first_go():
    model = nn.Sequential(nn.Linear(4, 2, bias=False), nn.Linear(2, 2, bias=False))
    for layer in model:
        nn.init.constant_(layer.weight, -0.5)
    Magnitude(sparsity=0.5).transform(model, WORK)
    assert all_of(zeros_of(model)).tolist() == [True] * 6 + [False] * 6


def test_layers_are_chosen_and_left():
    model = net()
    changed = Magnitude(sparsity=0.5, layers=["[02]"], skip=["2"]).transform(model, WORK)
    assert changed.change == {"kind": "masks", "layers": {"0": ["weight"]}}
    assert list(masks.sparsity_of(model)) == ["0"]


def test_an_embedding_is_taken_where_it_is_named():
    sub = subject("lstm")
    Magnitude(sparsity=0.5, layers=["embedding"]).transform(sub.model, sub.work)
    assert masks.sparsity_of(sub.model) == {"embedding": 0.5}


def test_biases_are_never_masked():
    sub = subject("lstm")
    Magnitude(sparsity=0.9).transform(sub.model, sub.work)
    names = [n for found in masks.masked_weights(sub.model).values() for n in found]
    assert not [name for name in names if "bias" in name]
    assert {"weight_ih_l0", "weight_hh_l0"} <= set(names)


def test_an_emptied_layer_and_an_untouched_one_are_named():
    model = net()
    with torch.no_grad():
        model[0].weight.mul_(1e-3)
        model[4].weight.add_(torch.sign(model[4].weight))
    changed = Magnitude(sparsity=0.6).transform(model, WORK)
    assert any("all weights of 0 are masked" in note for note in changed.notes)
    assert any("no weight was masked in 4" in note for note in changed.notes)


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5, math.nan, math.inf, "much"])
@pytest.mark.parametrize("method", [Magnitude, Random, Movement])
def test_a_sparsity_outside_of_0_and_1_is_refused(method, sparsity):
    with pytest.raises(ValidationError, match="sparsity"):
        method(sparsity=sparsity)


@pytest.mark.parametrize(
    ("method", "wrong"),
    [
        (Magnitude, {"sparsity": 0.5, "begin": 0.6, "end": 0.4}),
        (Magnitude, {"sparsity": 0.5, "initial": 0.6}),
        (Magnitude, {"sparsity": 0.5, "scop": "layer"}),
        (Movement, {}),
        (Movement, {"sparsity": 0.5, "threshold": "soft"}),
        (Movement, {"score": "distance", "threshold": "soft"}),
        (Movement, {"sparsity": 0.5, "begin": 0.6, "end": 0.4}),
        (SemiStructured, {"n": 4, "m": 4}),
        (SemiStructured, {"n": 0}),
    ],
)
def test_settings_that_do_not_go_together_are_refused(method, wrong):
    with pytest.raises(ValidationError):
        method(**wrong)


@pytest.mark.parametrize(
    "method",
    [Magnitude(sparsity=0.5, layers=["hiden"]), SemiStructured(skip=["hiden"])],
    ids=["layers", "skip"],
)
def test_a_layer_that_is_not_there_is_refused_with_the_nearest(method):
    sub = subject("cnn")
    for step in (method.check, method.transform):
        with pytest.raises(InputError, match='did you mean "hidden"'):
            step(sub.model, sub.work)


@pytest.mark.parametrize("method", [Magnitude, Random, Movement])
def test_nothing_to_do_is_an_error(method):
    sub = subject("cnn")
    for step in (method(sparsity=0).check, method(sparsity=0).transform):
        with pytest.raises(CompressError, match="nothing would be pruned"):
            step(sub.model, sub.work)
    with pytest.raises(CompressError, match="no layer of"):
        method(sparsity=0.5).check(nn.Sequential(nn.ReLU()), sub.work)
    assert masks.masked_weights(sub.model) == {}


# -- one pruning after another --------------------------------------------------------------------


@pytest.mark.parametrize(
    "second",
    [Magnitude(sparsity=0.8), Magnitude(sparsity=0.8, scope="layer"), Random(sparsity=0.8)],
)
@pytest.mark.parametrize("name", NETS)
def test_a_second_pruning_goes_on_from_the_first(second, name):
    sub = subject(name)
    Random(sparsity=0.5, scope="layer").transform(sub.model, sub.work)
    before = zeros_of(sub.model)
    second.transform(sub.model, sub.work)
    after = zeros_of(sub.model)
    assert all((after[path] >= before[path]).all() for path in before)
    total = len(all_of(after))
    assert abs(all_of(after).sum() - round(0.8 * total)) <= (
        len(after) if second.scope == "layer" else 0
    )


def test_less_or_as_much_as_there_is_is_refused():
    model = net()
    Magnitude(sparsity=0.6).transform(model, WORK)
    before = zeros_of(model)
    for method in (Magnitude(sparsity=0.3), Movement(sparsity=0.3)):
        for step in (method.check, method.transform):
            with pytest.raises(InputError, match=r"got 0.3; allowed: at least 0\.6.*only grow"):
                step(model, WORK)
    with pytest.raises(InputError, match="sparsity of 0"):
        Magnitude(sparsity=0.1, scope="layer").transform(model, WORK)
    with pytest.raises(CompressError, match="nothing would be pruned"):
        Magnitude(sparsity=0.6).transform(model, WORK)
    assert all(np.array_equal(zeros_of(model)[path], before[path]) for path in before)


# -- random ---------------------------------------------------------------------------------------


def test_chance_follows_the_seed_and_not_the_weights():
    first, again, other = net(0), net(1), net(0)
    Random(sparsity=0.5).transform(first, WORK)
    Random(sparsity=0.5).transform(again, WORK)
    Random(sparsity=0.5).transform(other, type(WORK)(**{**vars(WORK), "seed": 1}))
    assert np.array_equal(all_of(zeros_of(first)), all_of(zeros_of(again)))
    assert not np.array_equal(all_of(zeros_of(first)), all_of(zeros_of(other)))


# -- N:M ------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 5), st.integers(1, 3), st.data())
def test_n_of_m_are_the_largest_of_each_group(m, groups, data):
    n = data.draw(st.integers(1, m - 1))
    kernel = data.draw(st.sampled_from([(), (3,), (2, 2)]))
    scores = torch.randint(0, 4, (3, m * groups, *kernel)).float()
    keep = largest(scores, n, m).numpy()
    rows = np.moveaxis(scores.numpy(), 1, -1).reshape(-1, m)
    kept = np.moveaxis(keep, 1, -1).reshape(-1, m)
    for row, found in zip(rows, kept, strict=True):
        expected = np.ones(m, bool)
        expected[np.argsort(row, kind="stable")[: m - n]] = False
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("name", NETS)
def test_every_group_of_four_has_two_zeros(name):
    sub = subject(name)
    sizes = {
        path: getattr(layer, masks.weights_of(layer)[0]).shape[1]
        for path, layer in sub.model.named_modules()
        if isinstance(layer, masks.KINDS)
    }
    changed = SemiStructured().transform(sub.model, sub.work)
    found = masks.masked_weights(sub.model)
    assert set(found) == {path for path, size in sizes.items() if size % 4 == 0}
    for path in set(sizes) - set(found):
        assert any(note.startswith(path) for note in changed.notes)
    for path, weights in found.items():
        for weight in weights.values():
            groups = mask_of(weight).mask.movedim(1, -1).unflatten(-1, (-1, 4))
            assert (groups.sum(-1) == 2).all(), path
    assert masks.total_sparsity(sub.model) == 0.5


def test_n_of_m_after_another_mask_and_where_there_is_nothing_to_do():
    sub = subject("vit")
    Magnitude(sparsity=0.3).transform(sub.model, sub.work)
    before = zeros_of(sub.model)
    SemiStructured().transform(sub.model, sub.work)
    after = zeros_of(sub.model)
    assert all((after[path] >= before[path]).all() for path in before)
    for weights in masks.masked_weights(sub.model).values():
        for weight in weights.values():
            if weight.original.shape[1] % 4 == 0:
                groups = mask_of(weight).mask.movedim(1, -1).unflatten(-1, (-1, 4))
                assert (groups.sum(-1) <= 2).all()
    with pytest.raises(CompressError, match="at most 2"):
        SemiStructured().transform(sub.model, sub.work)
    with pytest.raises(CompressError, match="not a multiple of 4"):
        SemiStructured().check(nn.Sequential(nn.Linear(5, 4)), sub.work)


# -- masks that grow ------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    st.floats(0, 0.5), st.floats(0.51, 1), st.floats(0, 1), st.floats(0, 0.5), st.floats(0.5, 0.99)
)
def test_the_cubic_is_that_of_zhu_and_gupta(begin, end, progress, initial, final):
    t = min(max((progress - begin) / (end - begin), 0.0), 1.0)
    expected = final + (initial - final) * (1 - t) ** 3
    model = net()
    Magnitude(sparsity=final, initial=initial, schedule="cubic", begin=begin, end=end).transform(
        model, WORK
    )
    plan = plan_of(model)
    assert isinstance(plan, RankedMask)
    assert plan.sparsity(progress) == pytest.approx(expected, abs=1e-12)
    assert cubic(progress, begin=begin, end=end) == pytest.approx(1 - (1 - t) ** 3, abs=1e-12)
    assert plan.sparsity(1.0) == final


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("variant", ["magnitude", "distance", "gradient"])
def test_masks_follow_the_schedule_at_every_step(variant, scope):
    options = {"sparsity": 0.9, "scope": scope, "begin": 0.2, "end": 0.8}
    method = (
        Magnitude(schedule="cubic", **options)
        if variant == "magnitude"
        else Movement(score=variant, **options)
    )
    model = net()
    method.transform(model, WORK)
    plan, optimizer = plan_of(model), torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    before = {path: np.zeros(0, bool) for path in zeros_of(model)}
    x, y = torch.randn(32, 6), torch.randint(3, (32,))
    for progress in np.linspace(0, 1, 21):
        plan.advance(float(progress))
        zeros = zeros_of(model)
        t = min(max((progress - 0.2) / 0.6, 0), 1)
        share = 0.9 * (1 - (1 - t) ** 3) if t < 1 else 0.9
        for group in [list(zeros)] if scope == "global" else [[path] for path in zeros]:
            found = np.concatenate([zeros[path] for path in group])
            assert abs(found.sum() - share * len(found)) <= 0.5 + 1e-9
        if variant != "gradient":
            assert all((zeros[p] >= before[p]).all() for p in zeros if len(before[p]))
        before = zeros
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    for path, found in zeros_of(model).items():
        if scope == "layer":
            assert found.sum() == round(0.9 * len(found)), path
    assert scope == "layer" or all_of(zeros_of(model)).sum() == round(0.9 * (48 + 40 + 15))


def test_growth_by_magnitude_and_by_distance_against_numpy():
    for variant in ("magnitude", "distance"):
        model = net()
        start = dense_weights(model)
        method = (
            Magnitude(sparsity=0.6, schedule="cubic")
            if variant == "magnitude"
            else Movement(sparsity=0.6, score="distance")
        )
        method.transform(model, WORK)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        moved = {p: w - start[p] * (variant == "distance") for p, w in dense_weights(model).items()}
        plan_of(model).advance(1.0)
        size = np.abs(all_of(moved))
        expected = np.zeros(len(size), bool)
        expected[np.argsort(size)[: round(0.6 * len(size))]] = True
        assert np.array_equal(all_of(zeros_of(model)), expected)


def by_hand(model, x, y, rate, counts):
    """Movement pruning of Sanh et al. written out in float64: weights, scores and masks."""
    layers = [(layer.weight.detach().clone(), layer.bias.detach().clone()) for layer in model[::2]]
    scores = [torch.zeros_like(weight) for weight, _ in layers]
    for count in counts:
        flat = torch.cat([score.flatten() for score in scores]).numpy()
        mask = np.ones(len(flat))
        mask[np.argsort(flat, kind="stable")[:count]] = 0
        sizes = [score.numel() for score in scores]
        cut = torch.from_numpy(mask).split(sizes)
        masked = [
            (weight * part.view_as(weight)).requires_grad_()
            for (weight, _), part in zip(layers, cut, strict=True)
        ]
        biases = [bias.clone().requires_grad_() for _, bias in layers]
        h = x
        for weight, bias in zip(masked, biases, strict=True):
            h = F.linear(h if h is x else h.relu(), weight, bias)
        F.cross_entropy(h, y).backward()
        for i, (weight, bias) in enumerate(layers):
            through = masked[i].grad
            scores[i] = scores[i] - rate * through * weight
            layers[i] = (
                weight - rate * through * cut[i].view_as(weight),
                bias - rate * biases[i].grad,
            )
    return layers, scores


def test_the_score_of_movement_is_minus_the_sum_of_weight_times_gradient():
    model = net(dtype=torch.float64)
    x, y = torch.randn(32, 6, dtype=torch.float64), torch.randint(3, (32,))
    total, rate = 103, 0.1
    progresses = [0.0, 0.1, 0.2, 0.4, 0.6, 0.8]
    counts = [
        count_of(0.7 * (1 - (1 - min(p / 0.75, 1)) ** 3), total)
        if p < 0.75
        else count_of(0.7, total)
        for p in progresses
    ]
    layers, scores = by_hand(model, x, y, rate, counts)
    Movement(sparsity=0.7, begin=0.0, end=0.75).transform(model, WORK)
    plan, optimizer = plan_of(model), torch.optim.SGD(model.parameters(), rate)
    seen = []
    for progress in progresses:
        plan.advance(progress)
        seen.append(all_of(zeros_of(model)))
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert [zeros.sum() for zeros in seen] == counts
    found = [weights["weight"] for weights in masks.masked_weights(model).values()]
    for weight, score, (expected, _) in zip(found, scores, layers, strict=True):
        torch.testing.assert_close(weight.original.detach(), expected, rtol=1e-10, atol=1e-12)
        held = mask_of(weight).scores.detach().view_as(score)
        torch.testing.assert_close(held, score, rtol=1e-10, atol=1e-12)


def test_what_movement_masked_may_come_back_but_not_what_was_masked_before():
    model = net()
    Magnitude(sparsity=0.3).transform(model, WORK)
    before = all_of(zeros_of(model))
    Movement(sparsity=0.6, begin=0.0).transform(model, WORK)
    found = [w for weights in masks.masked_weights(model).values() for w in weights.values()]
    ever = np.zeros_like(before)
    for seed in range(2):
        torch.manual_seed(seed)
        for weight in found:
            nn.init.normal_(mask_of(weight).scores)
        plan_of(model).advance(1.0)
        zeros = all_of(zeros_of(model))
        assert zeros.sum() == round(0.6 * len(zeros))
        assert (zeros >= before).all()
        came_back = ever & ~zeros
        ever |= zeros
    assert came_back.any()


def test_the_soft_threshold_and_its_penalty():
    model = net(dtype=torch.float64)
    method = Movement(threshold="soft", tau=0.2, penalty=7.0, gain=2.0, begin=0.0, end=0.5)
    change = method.transform(model, WORK).change
    assert change["growth"]["tau"] == 0.2
    plan = plan_of(model)
    assert isinstance(plan, SoftMask)
    found = [w for weights in masks.masked_weights(model).values() for w in weights.values()]
    for weight in found:
        nn.init.normal_(mask_of(weight).scores)
    scores = np.concatenate([mask_of(weight).scores.detach().numpy() for weight in found])
    probability = 1 / (1 + np.exp(-2.0 * scores))
    for progress in (0.0, 0.125, 0.5, 0.9):
        plan.advance(progress)
        rise = 1 - (1 - min(progress / 0.5, 1)) ** 3
        assert np.array_equal(all_of(zeros_of(model)), probability <= 0.2 * rise)
        value = masks.penalty(model)
        assert value.item() == pytest.approx(7.0 * rise * probability.mean(), rel=1e-6)
        for parameter in model.parameters():
            parameter.grad = None
        value.backward()
        slope = 7.0 * rise * 2.0 * probability * (1 - probability) / len(scores)
        grad = np.concatenate([mask_of(weight).scores.grad.numpy() for weight in found])
        np.testing.assert_allclose(grad, slope, rtol=1e-6, atol=1e-15)


def test_the_penalty_draws_weights_below_the_threshold():
    shares = []
    for strength in (1e-3, 10.0):
        model = net()
        Movement(threshold="soft", penalty=strength, begin=0.0, end=0.5).transform(model, WORK)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
        x = torch.randn(64, 6)
        y = (x[:, 0] > 0).long()
        for step in range(60):
            plan_of(model).advance(step / 60)
            (F.cross_entropy(model(x), y) + masks.penalty(model)).backward()
            optimizer.step()
            optimizer.zero_grad()
        shares.append(masks.total_sparsity(model))
    assert shares[0] < shares[1]


def test_masks_that_took_everything_are_an_error():
    model = net()
    Movement(threshold="soft").transform(model, WORK)
    for weights in masks.masked_weights(model).values():
        for weight in weights.values():
            nn.init.constant_(mask_of(weight).scores, -9.0)
    plan_of(model).advance(1.0)
    with pytest.raises(CompressError, match="no weight is left"):
        masks.fixed(model)


def test_scores_are_spared_from_weight_decay():
    from limbeck.training import Training
    from limbeck.training.optimizer import build_optimizer

    model = net()
    Movement(sparsity=0.5).transform(model, WORK)
    optimizer = build_optimizer(model.parameters(), [model], Training(epochs=1, weight_decay=0.1))
    decayed = optimizer.param_groups[0]["params"]
    scores = [p for name, p in model.named_parameters() if name.endswith("scores")]
    assert len(scores) == 3
    assert not {id(p) for p in scores} & {id(p) for p in decayed}


def test_a_copy_grows_its_own_masks():
    model = net()
    Magnitude(sparsity=0.9, schedule="cubic").transform(model, WORK)
    copied = copy.deepcopy(model)
    plan_of(copied).advance(1.0)
    assert masks.total_sparsity(copied) == round(0.9 * 103) / 103
    assert masks.total_sparsity(model) == 0
