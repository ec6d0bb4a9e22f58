"""Attacks stay in their ball and find what mathematics says; masked gradients are found out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from limbeck.evaluate.context import Normalization, TorchModel
from limbeck.evaluate.robustness.attack_report import (
    AttackBudget,
    AttackTarget,
    compare_attacks,
    examples,
    median_of,
    minimal_perturbation,
)
from limbeck.evaluate.robustness.attacks import margin_pgd, square
from limbeck.evaluate.robustness.certified import boundary_distances
from limbeck.evaluate.robustness.images import Images
from limbeck.export.predictor import TorchPredictor
from limbeck.tasks.image_classification import ImageClassification

pytest.importorskip("foolbox", reason='attacks need the extra "evaluate"')

from limbeck.evaluate.robustness import attacks

SCALE = Normalization((0.3,), (0.4,))
TASK = ImageClassification(tuple(str(digit) for digit in range(10)))
SIZES = (0.05, 0.1, 0.2)
EFFORT = AttackBudget(steps=10, restarts=2, queries=60)


def net(hidden: int = 32) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))


def digits() -> tuple[Images, Images]:
    data = load_digits()
    pixels = (data.images[:, None] / 16).astype(np.float32)
    labels = data.target.astype(np.int64)
    train, test = slice(0, 1200), slice(1600, 1720)
    return (
        Images(pixels[train], labels[train], "image", SCALE),
        Images(pixels[test], labels[test], "image", SCALE),
    )


def trained(seed: int, targets: torch.Tensor, *, temperature: float, epochs: int) -> nn.Module:
    torch.manual_seed(seed)
    model = net()
    inputs = torch.tensor(TRAIN.inputs(TRAIN.pixels)["image"])
    # Adam by hand: torch's own takes seconds to be imported.
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in model.parameters()]
    for _ in range(epochs):
        for rows in torch.randperm(len(inputs)).split(200):
            loss = F.cross_entropy(model(inputs[rows]) / temperature, targets[rows])
            slopes = torch.autograd.grad(loss, list(model.parameters()))
            for p, g, (mean, square_) in zip(model.parameters(), slopes, moments, strict=True):
                mean.lerp_(g, 0.1)
                square_.lerp_(g**2, 0.05)
                p.data -= 0.01 * mean / (square_.sqrt() + 1e-12)
    return model.eval().requires_grad_(False)


def attacked(model: nn.Module, pictures: Images, *, torch_model: bool = True) -> AttackTarget:
    shown = pictures.show(TorchPredictor(model, TASK))
    return AttackTarget(shown, pictures.model(TorchModel(model, TASK)) if torch_model else None)


TRAIN, TEST = digits()


@pytest.fixture(scope="module")
def honest() -> nn.Module:
    return trained(0, torch.tensor(TRAIN.labels), temperature=1, epochs=15)


@pytest.fixture(scope="module")
def other() -> nn.Module:
    return trained(1, torch.tensor(TRAIN.labels), temperature=1, epochs=15)


@pytest.fixture(scope="module")
def defended() -> nn.Module:
    """Defensive distillation: teacher and student both trained at T = 40, and used at T = 1."""
    teacher = trained(2, torch.tensor(TRAIN.labels), temperature=40, epochs=60)
    logits = teacher(torch.tensor(TRAIN.inputs(TRAIN.pixels)["image"]))
    return trained(3, torch.softmax(logits / 40, dim=1), temperature=40, epochs=60)


def scaled(model: nn.Module, factor: float) -> nn.Module:
    large = net()
    large.load_state_dict(model.state_dict())
    large[3].weight.data *= factor
    large[3].bias.data *= factor
    return large.eval().requires_grad_(False)


def linear(seed: int = 0, classes: int = 2) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes)).eval().requires_grad_(False)


def pixel_weights(model: nn.Module) -> np.ndarray:
    return model[1].weight.double().numpy() / 0.4


def test_fgsm_is_the_formula(honest):
    model = TEST.model(TorchModel(honest, TASK))
    found = attacks.fgsm(model, TEST.pixels, TEST.labels, eps=0.1)
    x = torch.tensor(TEST.pixels, requires_grad=True)
    loss = F.cross_entropy(honest((x - 0.3) / 0.4), torch.tensor(TEST.labels), reduction="sum")
    expected = (x + 0.1 * torch.autograd.grad(loss, x)[0].sign()).clamp(0, 1)
    np.testing.assert_allclose(found, expected.detach().numpy(), atol=1e-6)


@pytest.mark.parametrize("size", [0.01, 0.3, 1.0])
def test_changes_stay_in_the_ball_and_in_the_box(honest, size):
    some = attacked(honest, TEST)
    for found in (
        attacks.fgsm(some.model, TEST.pixels, TEST.labels, eps=size),
        attacks.pgd(some.model, TEST.pixels, TEST.labels, eps=size),
        margin_pgd(some.model, TEST.pixels, TEST.labels, eps=size),
        margin_pgd(some.model, TEST.pixels, TEST.labels, eps=size, restart=2),
        square(some.shown, TEST.pixels, TEST.labels, eps=size, queries=20),
    ):
        assert found.dtype == np.float32
        assert np.abs(found - TEST.pixels).max() <= size + 1e-6
        assert 0 <= found.min() <= found.max() <= 1


def test_the_seed_decides_and_chance_elsewhere_is_left_alone(honest):
    model = TEST.model(TorchModel(honest, TASK))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, again, differs = (
        attacks.pgd(model, TEST.pixels, TEST.labels, eps=0.1, seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(torch.rand(3), expected)
    assert np.array_equal(one, again)
    assert not np.array_equal(one, differs)


def test_of_a_linear_model_the_margin_attack_finds_the_worst_corner():
    model = linear()
    labels = np.zeros(len(TEST.labels), dtype=np.int64)
    torch_model = TEST.model(TorchModel(model, TASK))
    weights = pixel_weights(model)
    slope = (weights[1] - weights[0]).reshape(1, 8, 8)
    worst = np.where(slope > 0, np.minimum(TEST.pixels + 0.1, 1), np.maximum(TEST.pixels - 0.1, 0))
    for restart in (0, 1):
        found = margin_pgd(torch_model, TEST.pixels, labels, eps=0.1, restart=restart)
        reached, most = ((slope * x).sum(axis=(1, 2, 3)) for x in (found, worst))
        np.testing.assert_allclose(reached, most, atol=1e-4)


def test_the_margin_attack_does_not_mind_a_scale(honest):
    small, large = (TEST.model(TorchModel(scaled(honest, by), TASK)) for by in (1, 1024))
    one, two = (margin_pgd(m, TEST.pixels, TEST.labels, eps=0.1) for m in (small, large))
    assert np.array_equal(one, two)


def test_of_a_linear_model_deepfool_finds_the_exact_distance():
    model = linear(classes=3)
    grey = np.random.default_rng(0).uniform(0.4, 0.6, (30, 1, 8, 8)).astype(np.float32)
    inputs = torch.tensor((grey - np.float32(0.3)) / np.float32(0.4))
    labels = model(inputs).argmax(dim=1).numpy()
    pictures = Images(grey, labels, "image", SCALE)
    one = attacked(model, pictures)
    exact = boundary_distances(one.model, grey, labels)
    found = minimal_perturbation(one, pictures)
    inside = exact < 0.3  # where the box is no hindrance
    assert inside.sum() > 5
    np.testing.assert_allclose(found[inside], 1.02 * exact[inside], rtol=0.02, atol=2e-3)
    assert (minimal_perturbation(one, Images(grey, (labels + 1) % 3, "image", SCALE)) == 0).all()


def test_deepfool_s_way_is_followed_to_where_the_file_errs():
    """A quantised file's boundary lies elsewhere than the float model's: here, a third further."""
    model = linear(classes=2)
    grey = np.full((1, 1, 8, 8), 0.5, dtype=np.float32)
    inputs = torch.tensor((grey - np.float32(0.3)) / np.float32(0.4))
    logits = model(inputs)
    right = int(logits.argmax())
    extra = torch.zeros(2)
    extra[right] = float(logits[0, right] - logits[0, 1 - right]) / 3

    class Shifted(nn.Module):
        def forward(self, image):
            return model(image) + extra

    pictures = Images(grey, np.array([right]), "image", SCALE)
    torch_model = pictures.model(TorchModel(model, TASK))
    found = minimal_perturbation(
        AttackTarget(pictures.show(TorchPredictor(Shifted(), TASK)), torch_model), pictures
    )
    exact = boundary_distances(torch_model, grey, pictures.labels)
    assert exact < 0.3  # so that the box is no hindrance
    np.testing.assert_allclose(found, 1.4 * 1.02 * exact, rtol=0.05)


def test_squares_lower_the_margin_and_ask_no_more_than_allowed(honest):
    asked = []
    some = attacked(honest, TEST)

    def counted(pixels):
        asked.append(len(pixels))
        return some.shown(pixels)

    few, many = (
        square(counted, TEST.pixels, TEST.labels, eps=0.15, queries=queries) for queries in (2, 60)
    )
    assert len(asked) <= 62
    right = [(some.shown(x).argmax(axis=1) == TEST.labels).mean() for x in (few, many)]
    assert right[1] < right[0] - 0.1
    nothing = TEST.some(np.array([], dtype=np.int64))
    assert len(square(counted, nothing.pixels, nothing.labels, eps=0.1)) == 0


def test_an_honest_model_gets_no_warning(honest, other):
    found = compare_attacks(
        attacked(honest, TEST),
        attacked(other, TEST),
        TEST,
        epsilons=SIZES,
        effort=EFFORT,
        margin=0.02,
    )
    assert found.warnings == ()
    by = {(row.attack, row.eps): row for row in found.rows}
    clean = (attacked(honest, TEST).shown(TEST.pixels).argmax(axis=1) == TEST.labels).mean()
    for size in SIZES:
        strongest = by["strongest", size].student.value
        assert strongest == min(row.student.value for key, row in by.items() if key[1] == size)
        assert strongest <= clean
    values = [by["strongest", size].student.value for size in SIZES]
    assert values == sorted(values, reverse=True)
    assert [line.student.value for line in found.comparisons] == values
    assert values[-1] < 0.1


@pytest.mark.parametrize("kind", ["logits times 100", "defensive distillation"])
def test_masked_gradients_are_broken_and_named(honest, other, defended, kind):
    masked = scaled(honest, 100) if kind == "logits times 100" else defended
    one = attacked(masked, TEST)
    clean = (one.shown(TEST.pixels).argmax(axis=1) == TEST.labels).mean()
    found = compare_attacks(
        one, attacked(other, TEST), TEST, epsilons=SIZES, effort=EFFORT, margin=0.02
    )
    by = {(row.attack, row.eps): row.student.value for row in found.rows}
    assert clean > 0.85
    assert by["fgsm", 0.2] > 0.5  # it looks as if the change did little
    assert by["pgd", 0.2] > 0.4
    assert by["strongest", 0.2] < 0.1  # and yet
    [warning] = found.warnings
    assert warning.startswith("The student's gradients are masked")
    assert "has no gradient at all" in warning
    assert "under the strongest attack" in warning
    assert found.comparisons[-1].student.value == by["strongest", 0.2]


def test_without_a_torch_model_the_others_pictures_and_squares_are_left(honest, other):
    found = compare_attacks(
        attacked(honest, TEST, torch_model=False),
        attacked(other, TEST),
        TEST,
        epsilons=(0.2,),
        effort=EFFORT,
        margin=0.02,
    )
    by = {row.attack: row for row in found.rows}
    assert by["fgsm"].student is None
    assert by["pgd"].student is None
    assert by["pgd"].teacher is not None
    assert by["transfer"].teacher is None
    assert by["strongest"].student.value <= by["transfer"].student.value < 0.5
    alone = compare_attacks(
        attacked(honest, TEST, torch_model=False),
        None,
        TEST,
        epsilons=(0.2,),
        effort=EFFORT,
        margin=0.02,
    )
    assert alone.rows[-1].student.value < 0.5
    assert alone.comparisons[0].verdict == "no reference"
    assert "no PyTorch model" in found.comparisons[0].method


def test_what_ships_decides_and_not_the_torch_model(honest):
    """A file that is right whatever happens is not blamed for its torch_model."""

    class Stubborn:
        def predict(self, batch):
            known = {x.tobytes() for x in batch["image"]}
            assert known
            return {"logits": np.eye(10, dtype=np.float32)[TEST.labels[: len(batch["image"])]]}

    pictures = TEST.some(np.arange(20))
    one = AttackTarget(pictures.show(Stubborn()), pictures.model(TorchModel(honest, TASK)))
    found = compare_attacks(
        one,
        None,
        pictures,
        epsilons=(0.2,),
        effort=AttackBudget(restarts=0, queries=5),
        margin=0.02,
    )
    assert {row.student.value for row in found.rows if row.student} == {1.0}
    assert (minimal_perturbation(one, pictures) == 8).all()  # the diagonal of 64 pixels
    assert examples(one, pictures, found.broken, TASK.classes) == ()


def test_examples_show_what_went_wrong(honest):
    one = attacked(honest, TEST)
    found = compare_attacks(one, None, TEST, epsilons=(0.2,), effort=EFFORT, margin=0.02)
    shown = examples(one, TEST, found.broken, TASK.classes)
    assert len(shown) == 6
    assert all(example.answer != example.label for example in shown)
    assert all(0 < example.eps <= 0.2 + 1e-6 for example in shown)
    assert all(example.before.startswith("iVBOR") for example in shown)


@pytest.mark.parametrize("count", [1, 2, 7, 50])
def test_the_median_of_every_draw_is_numpys(count):
    random = np.random.default_rng(count)
    values = random.integers(5, size=count).astype(float)
    counts = random.multinomial(count, np.full(count, 1 / count), size=20).astype(float)
    found = median_of(values)(counts)
    for draw, median in zip(counts, found, strict=True):
        drawn = np.repeat(values, draw.astype(int))
        assert median == np.quantile(drawn, 0.5, method="lower")
