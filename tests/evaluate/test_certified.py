"""Bounds hold against exact enumeration, sampling and attacks; distances equal an optimiser's."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import optimize
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrize import register_parametrization

from limbeck.evaluate.bootstrap import Resamples
from limbeck.evaluate.context import Normalization, TorchModel
from limbeck.evaluate.robustness.bound_functions import propagate, trace
from limbeck.evaluate.robustness.bounds import RULES, Bounds, NoBoundsError
from limbeck.evaluate.robustness.certified import (
    around,
    boundary_distances,
    certified_margins,
    compare_certified,
    compare_distances,
)
from limbeck.evaluate.robustness.images import AttackTarget, Images
from limbeck.tasks.image_classification import ImageClassification

EVERYWHERE = (-np.inf, np.inf)


def frozen(model: nn.Module, seed: int = 0) -> nn.Module:
    """Set random weights and, in batch norms, random statistics."""
    random = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=random) / 2
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.running_mean = torch.randn(module.num_features, generator=random)
            module.running_var = torch.rand(module.num_features, generator=random) + 0.1
    return model.eval().requires_grad_(False)


def logit_bounds(model: nn.Module, x: np.ndarray, size: float, box=EVERYWHERE):
    graph = trace(model)
    known = propagate(model, graph, around(torch.tensor(x), size, box))
    bounds = known[next(node for node in graph.nodes if node.op == "output")]
    return bounds.low.numpy(), bounds.high.numpy()


def exact_margin(weights, biases, x: np.ndarray, label: int, size: float) -> float:
    """Compute the least margin of a net with one hidden layer of ReLUs, by linear programs.

    For each pattern of active units the net is linear on a polytope of inputs.
    """
    (w1, w2), (b1, b2) = weights, biases
    least = np.inf
    for active in itertools.product([0.0, 1.0], repeat=len(b1)):
        on = np.array(active)
        sign = 1 - 2 * on  # active: -(w x + b) <= 0
        for other in set(range(len(b2))) - {label}:
            gradient = (w2[label] - w2[other]) * on
            found = optimize.linprog(
                gradient @ w1,
                A_ub=sign[:, None] * w1,
                b_ub=-sign * b1,
                bounds=[(value - size, value + size) for value in x],
            )
            if found.status == 0:
                value = found.fun + gradient @ b1 + b2[label] - b2[other]
                least = min(least, value)
    return least


@pytest.mark.parametrize("seed", range(4))
def test_certificates_are_below_the_exact_margin(seed):
    net = frozen(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3)), seed)
    weights = [net[0].weight.double().numpy(), net[2].weight.double().numpy()]
    biases = [net[0].bias.double().numpy(), net[2].bias.double().numpy()]
    random = np.random.default_rng(seed)
    x = random.normal(size=(1, 3)).astype(np.float32)
    labels = net(torch.tensor(x)).argmax(dim=1).numpy()
    gaps = []
    for size in (0.0, 0.02, 0.3):
        bounds = certified_margins(net, x, labels, eps=size, box=EVERYWHERE)
        exact = exact_margin(weights, biases, x[0].astype(float), labels[0], size)
        assert bounds[0] <= exact + 1e-12
        gaps.append(exact - bounds[0])
    assert gaps[0] < 1e-5  # without a perturbation the bound is the margin
    assert gaps[1] < 0.2  # for a small one it is close


def test_the_bound_of_a_linear_model_is_the_worst_corner():
    model = frozen(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)))
    x = np.random.default_rng(0).random((6, 1, 2, 2)).astype(np.float32)
    labels = model(torch.tensor(x)).argmax(dim=1).numpy()
    found = certified_margins(model, x, labels, eps=0.1)
    for row, label in enumerate(labels):
        flat = x[row].astype(float).ravel()
        sides = [(max(value - 0.1, 0), min(value + 0.1, 1)) for value in flat]
        corners = np.array(list(itertools.product(*sides)))
        logits = corners @ model[1].weight.double().numpy().T + model[1].bias.double().numpy()
        margins = logits[:, [label]] - np.delete(logits, label, axis=1)
        assert found[row] == pytest.approx(margins.min(), abs=1e-5)
        assert found[row] <= margins.min()


def test_the_bound_covers_the_rounding_of_float32():
    model = frozen(nn.Sequential(nn.Linear(50, 2)))
    x = np.random.default_rng(0).random((5, 50)).astype(np.float32)
    weight, bias = model[0].weight.double().numpy(), model[0].bias.double().numpy()
    logits = x.astype(float) @ weight.T + bias
    sums = x.astype(float) @ np.abs(weight).T + np.abs(bias)
    found = certified_margins(model, x, np.zeros(5, dtype=np.int64), eps=0.0)
    slack = 51 * 2.0**-24 * sums.sum(axis=1)  # 50 products and a bias, for each of the two logits
    assert (found <= logits[:, 0] - logits[:, 1] - slack).all()
    assert (found >= logits[:, 0] - logits[:, 1] - 3 * slack).all()


class Residual(nn.Module):
    """Functions, methods, a sum, a pad, constants, a spatial mean."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.two = nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False)
        self.act = nn.ReLU(inplace=True)
        self.last = nn.Linear(8, 3)

    def forward(self, x):
        x = F.relu(self.norm(self.one(x)))
        out = self.two(x)
        out += x
        out = self.act(out)
        out = F.pad(out[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        out = 0.5 * out - 0.1 + out / -3.0
        return self.last(out.mean((2, 3)).reshape(x.size(0), -1))


def conv_net(activation: nn.Module, pool: nn.Module) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=1, padding="same"),
        nn.BatchNorm2d(4),
        activation,
        pool,
        nn.Dropout(0.5),
        nn.Conv2d(4, 3, 2, dilation=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Identity(),
        nn.Linear(3, 3),
        nn.Tanh(),
    )


class Masking(nn.Module):
    """Zeros half of a weight, as pruning does during training."""

    def forward(self, weight):
        return weight * (weight.abs() > weight.abs().median())


def masked(net: nn.Module) -> nn.Module:
    """Mask the weights of all convolutions and linear layers."""
    for layer in [one for one in net.modules() if isinstance(one, (nn.Conv2d, nn.Linear))]:
        register_parametrization(layer, "weight", Masking())
    return net


NETS = {
    "masked": masked(Residual()),
    "relu": conv_net(nn.ReLU(), nn.MaxPool2d(2, padding=1)),
    "gelu": conv_net(nn.GELU(), nn.AvgPool2d(2)),
    "gelu by tanh": conv_net(nn.GELU(approximate="tanh"), nn.MaxPool2d(2)),
    "silu": conv_net(nn.SiLU(), nn.AvgPool2d(2)),
    "hard swish": conv_net(nn.Hardswish(), nn.AdaptiveMaxPool2d(4)),
    "leaky": conv_net(nn.LeakyReLU(0.1), nn.MaxPool2d(2)),
    "sigmoid": conv_net(nn.Sigmoid(), nn.AvgPool2d(2)),
    "residual": Residual(),
}


@pytest.mark.parametrize("name", list(NETS))
@pytest.mark.parametrize("size", [0.001, 0.05, 0.5])
def test_neither_samples_nor_signed_gradients_leave_the_bounds(name, size):
    net = frozen(NETS[name], seed=len(name))
    random = torch.Generator().manual_seed(0)
    x = torch.rand(4, 2, 8, 8, generator=random)
    low, high = logit_bounds(net, x.numpy(), size, (0, 1))
    assert (low <= high).all()

    def within(changed):
        logits = net(changed.float()).numpy()  # float32, as the model runs
        exact = net.double()(changed.double()).numpy()
        net.float()
        return all(((low <= z) & (z <= high)).all() for z in (logits, exact))

    assert within(x)
    for draw in range(10):
        noise = 2 * torch.rand(x.shape, generator=random) - 1
        change = noise.sign() if draw % 2 else noise
        assert within((x + size * change).clamp(0, 1))
    for direction in (-1, 1):  # of every logit, by signed gradients
        for index in range(3):
            changed = x.clone()
            for _ in range(8):
                changed.requires_grad_()
                (gradient,) = torch.autograd.grad(net(changed)[:, index].sum(), changed)
                step = changed.detach() + direction * size / 3 * gradient.sign()
                changed = torch.minimum(torch.maximum(step, x - size), x + size).clamp(0, 1)
            assert within(changed)


@pytest.mark.parametrize(
    "function", [nn.GELU(), nn.GELU(approximate="tanh"), nn.SiLU(), nn.Hardswish()]
)
def test_a_unimodal_function_is_bounded_on_every_interval(function):
    pairs = np.array(list(itertools.combinations(np.linspace(-4, 3, 57), 2)))
    low, high = torch.tensor(pairs).T[:, :, None]
    found = RULES[type(function)](function, Bounds(low, high))
    values = function(low + (high - low) * torch.linspace(0, 1, 301, dtype=torch.float64))
    assert (found.low <= values).all()
    assert (values <= found.high).all()
    wide = (found.high - found.low)[:, 0] - (values.amax(dim=1) - values.amin(dim=1))
    assert wide.max() < 2e-3


def test_margins_shrink_with_the_size():
    net = frozen(NETS["relu"])
    x = np.random.default_rng(0).random((3, 2, 8, 8)).astype(np.float32)
    labels = np.array([0, 1, 2])
    margins = [certified_margins(net, x, labels, eps=size) for size in (0.0, 0.01, 0.1)]
    assert (margins[0] > margins[1]).all()
    assert (margins[1] > margins[2]).all()


def test_the_last_layer_is_bounded_by_differences_of_its_weights():
    net = frozen(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)))
    x = np.random.default_rng(0).random((20, 4)).astype(np.float32)
    labels = net(torch.tensor(x)).argmax(dim=1).numpy()
    low, high = logit_bounds(net, x, 0.1, (0, 1))
    rows = np.arange(20)
    others = high.copy()
    others[rows, labels] = -np.inf
    separate = low[rows, labels] - others.max(axis=1)
    joint = certified_margins(net, x, labels, eps=0.1)
    assert (joint > separate - 1e-5).all()  # equal where all weights of a unit differ in sign
    assert (joint > separate + 1e-3).mean() > 0.5


class Overwriting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, x):
        y = self.linear(x)
        z = y + 1
        F.relu(y, inplace=True)
        return y + z


class OverwritingPositional(Overwriting):
    def forward(self, x):
        y = self.linear(x)
        z = y.flatten(1)
        return y + F.relu(z, True)


class Doubling(Overwriting):
    def forward(self, x):
        y = self.linear(x)
        return torch.add(y, y, alpha=2)


class Deciding(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Scaled(nn.Linear):
    def forward(self, x):
        return 100 * super().forward(x)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)), r"1 \(LayerNorm\): there is no rule"),
        (nn.Sequential(nn.Linear(2, 2), nn.Softmax(1)), r"1 \(Softmax\)"),
        (nn.Sequential(nn.BatchNorm1d(2, track_running_stats=False)), "from the batch"),
        (nn.Sequential(nn.Dropout(0.5)).train(), "train mode"),
        (nn.Sequential(nn.LeakyReLU(-0.5)), "slope is negative"),
        (nn.Sequential(nn.Flatten(), Overwriting()), "overwrites a result"),
        (OverwritingPositional(), "overwrites a result"),
        (Doubling(), "with these options"),
        (Deciding(), "cannot trace"),
    ],
)
def test_an_unsupported_part_is_named(model, message):
    with pytest.raises(NoBoundsError, match=message):
        certified_margins(model, np.ones((2, 2), dtype=np.float32), np.array([0, 1]), eps=0.1)


def test_a_subclass_does_not_inherit_a_rule():
    model = nn.Sequential(frozen(Scaled(2, 2)))
    x = np.ones((1, 2), dtype=np.float32)
    with pytest.raises(NoBoundsError):
        certified_margins(model, x, np.array([0]), eps=0.1)


def test_a_hook_that_changes_the_logits_prevents_a_certificate():
    model = nn.Sequential(frozen(nn.Linear(2, 2)))
    model[0].register_forward_hook(lambda module, args, out: out + 5)
    x = np.ones((1, 2), dtype=np.float32)
    with pytest.raises(NoBoundsError, match="own logits"):
        certified_margins(model, x, np.array([0]), eps=0.1)


def least_change(weight, bias, x, label, norm: str) -> float:
    """Compute a linear model's distance to its decision boundary by an optimiser."""
    distances = []
    for other in set(range(len(bias))) - {label}:
        gradient, gap = weight[label] - weight[other], bias[label] - bias[other]
        if norm == "l2":
            found = optimize.minimize(
                lambda d: d @ d,
                np.full(len(x), 0.01),
                constraints={
                    "type": "ineq",
                    "fun": lambda d, s=gradient, g=gap: -(s @ (x + d) + g),
                },
                method="SLSQP",
                options={"ftol": 1e-14, "maxiter": 500},
            )
            distances.append(np.sqrt(found.fun))
        else:  # the least t with |d| <= t and the other class on top
            count = len(x)
            eye, ones = np.eye(count), np.ones((count, 1))
            found = optimize.linprog(
                np.r_[np.zeros(count), 1],
                A_ub=np.block([[eye, -ones], [-eye, -ones], [gradient[None], np.zeros((1, 1))]]),
                b_ub=np.r_[np.zeros(2 * count), -(gradient @ x + gap)],
                bounds=[(None, None)] * count + [(0, None)],
            )
            distances.append(found.fun)
    return min(distances)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_linear_models_distance_equals_an_optimisers(norm):
    model = frozen(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), seed=1)
    x = np.random.default_rng(0).random((8, 1, 2, 2)).astype(np.float32)
    labels = model(torch.tensor(x)).argmax(dim=1).numpy()
    found = boundary_distances(model, x, labels, norm=norm)
    weight, bias = model[1].weight.double().numpy(), model[1].bias.double().numpy()
    for row, label in enumerate(labels):
        expected = least_change(weight, bias, x[row].ravel().astype(float), label, norm)
        assert found[row] == pytest.approx(expected, rel=1e-3)


def test_the_distance_is_exact_within_a_linear_region():
    net = frozen(nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2)), seed=2).double()
    x = torch.tensor(np.random.default_rng(0).normal(size=(200, 3)))
    logits = net(x)
    labels = logits.argmax(dim=1)
    distances = boundary_distances(net, x.numpy(), labels.numpy())
    checked = 0
    for row in range(200):
        one = x[row : row + 1].clone().requires_grad_()
        margin = net(one)[0, labels[row]] - net(one)[0, 1 - labels[row]]
        (gradient,) = torch.autograd.grad(margin, one)
        at = one.detach() - distances[row] * gradient / gradient.norm()
        if ((net[0](at) > 0) == (net[0](one) > 0)).all():
            checked += 1
            logits_there = net(at)[0]
            assert float(logits_there[0] - logits_there[1]) == pytest.approx(0, abs=1e-9)
    assert checked > 20


def test_distances_of_wrong_and_constant_predictions():
    model = frozen(nn.Sequential(nn.Linear(2, 2)))
    x = np.ones((2, 2), dtype=np.float32)
    wrong = 1 - model(torch.tensor(x)).argmax(dim=1).numpy()
    assert (boundary_distances(model, x, wrong) == 0).all()
    model[0].weight.zero_()
    assert np.isinf(boundary_distances(model, x, 1 - wrong)).all() == (
        float(model[0].bias[0]) != float(model[0].bias[1])
    )
    alone = frozen(nn.Sequential(nn.Linear(2, 1)))
    assert np.isinf(boundary_distances(alone, x, np.zeros(2, dtype=np.int64))).all()


IDENTITY = Normalization((0.0,), (1.0,))


def attack_target(model: nn.Module, images: Images, correct: np.ndarray) -> AttackTarget:
    """Build a target whose exported file is correct on the given images only."""
    predicted = np.where(correct, images.labels, 1 - images.labels)
    torch_model = TorchModel(model, ImageClassification(("no", "yes")))
    return AttackTarget(lambda pixels: np.eye(2)[predicted], images.model(torch_model))


def test_comparisons_of_student_and_teacher():
    x = np.random.default_rng(0).random((40, 1, 2, 2)).astype(np.float32)
    model = frozen(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), seed=3)
    labels = model(torch.tensor(x)).argmax(dim=1).numpy()
    images = Images(x, labels, "image", IDENTITY)
    even = np.arange(40) % 2 == 0
    targets = {
        "student": attack_target(model, images, even),
        "teacher": attack_target(model, images, np.ones(40, dtype=bool)),
    }
    rows, comparisons, notes = compare_certified(targets, images, epsilons=(0.01, 0.1), margin=0.02)
    certified = certified_margins(model, x, labels, eps=0.01) > 0
    assert rows[0].teacher.value == pytest.approx(certified.mean())
    assert rows[0].student.value == pytest.approx((certified & even).mean())
    assert len(comparisons) == 2
    assert not notes
    distances, comparison = compare_distances(
        targets, images, resamples=Resamples(40, n_resamples=50)
    )
    expected = np.sort(boundary_distances(model, x, labels))
    assert comparison.teacher.value == pytest.approx(expected[19])
    assert comparison.difference.value == 0
    assert distances.student[3] == pytest.approx(np.median(expected))


def test_a_model_without_rules_is_noted():
    x = np.ones((3, 1, 2, 2), dtype=np.float32)
    images = Images(x, np.zeros(3, dtype=np.int64), "image", IDENTITY)
    right = np.ones(3, dtype=bool)
    odd = nn.Sequential(nn.Flatten(), nn.LayerNorm(4), nn.Linear(4, 2))
    unsupported = attack_target(odd, images, right)
    linear = frozen(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))
    supported = attack_target(linear, images, right)
    targets = {"student": unsupported, "teacher": supported}
    rows, comparisons, notes = compare_certified(targets, images, epsilons=(0.1,), margin=0.02)
    assert (rows, comparisons) == ((), [])
    assert notes == [
        "The student has no certified accuracy: model.1 (LayerNorm): there is no rule for it."
    ]
    targets = {"student": supported, "teacher": unsupported}
    rows, _, notes = compare_certified(targets, images, epsilons=(0.1,), margin=0.02)
    assert rows[0].teacher is None
    assert "teacher has no certified accuracy" in notes[0]
