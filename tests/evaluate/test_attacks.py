"""Attacks stay in their ball and reach closed forms; gradient masking is detected."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from limbeck.evaluate.context import EvaluatedModel, Normalization, TorchModel
from limbeck.evaluate.robustness.attack_report import (
    AttackBudget,
    AttackReport,
    compare_attacks,
    examples,
    median_of,
    minimal_perturbation,
)
from limbeck.evaluate.robustness.attacks import margin_pgd, square
from limbeck.evaluate.robustness.certified import boundary_distances
from limbeck.evaluate.robustness.images import AttackTarget, Images
from limbeck.export.predictor import TorchPredictor
from limbeck.tasks.image_classification import ImageClassification

pytest.importorskip("foolbox", reason='attacks need the extra "evaluate"')

from limbeck.evaluate.robustness import attacks

SCALE = Normalization((0.3,), (0.4,))
TASK = ImageClassification(tuple(str(digit) for digit in range(10)))
SIZES = (0.05, 0.1, 0.2)
BUDGET = AttackBudget(steps=10, restarts=2, queries=60)


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
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            for p, g, (mean, square_) in zip(model.parameters(), gradients, moments, strict=True):
                mean.lerp_(g, 0.1)
                square_.lerp_(g**2, 0.05)
                p.data -= 0.01 * mean / (square_.sqrt() + 1e-12)
    return model.eval().requires_grad_(False)


TRAIN, TEST = digits()


def target(model: nn.Module, images: Images = TEST) -> AttackTarget:
    return images.target(
        EvaluatedModel("model", TorchPredictor(model, TASK), TorchModel(model, TASK))
    )


def compare(
    targets: dict[str, AttackTarget],
    images: Images = TEST,
    *,
    epsilons: tuple[float, ...] = SIZES,
    budget: AttackBudget = BUDGET,
) -> AttackReport:
    return compare_attacks(targets, images, epsilons=epsilons, budget=budget, margin=0.02)


@pytest.fixture(scope="module")
def undefended() -> nn.Module:
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


def test_fgsm_equals_its_formula(undefended):
    model = TEST.model(TorchModel(undefended, TASK))
    found = attacks.fgsm(model, TEST.pixels, TEST.labels, eps=0.1)
    x = torch.tensor(TEST.pixels, requires_grad=True)
    loss = F.cross_entropy(undefended((x - 0.3) / 0.4), torch.tensor(TEST.labels), reduction="sum")
    expected = (x + 0.1 * torch.autograd.grad(loss, x)[0].sign()).clamp(0, 1)
    np.testing.assert_allclose(found, expected.detach().numpy(), atol=1e-6)


@pytest.mark.parametrize("size", [0.01, 0.3, 1.0])
def test_perturbations_stay_in_the_ball_and_in_the_box(undefended, size):
    some = target(undefended)
    for found in (
        attacks.fgsm(some.model, TEST.pixels, TEST.labels, eps=size),
        attacks.pgd(some.model, TEST.pixels, TEST.labels, eps=size),
        margin_pgd(some.model, TEST.pixels, TEST.labels, eps=size),
        margin_pgd(some.model, TEST.pixels, TEST.labels, eps=size, restart=2),
        square(some.logits, TEST.pixels, TEST.labels, eps=size, queries=20),
    ):
        assert found.dtype == np.float32
        assert np.abs(found - TEST.pixels).max() <= size + 1e-6
        assert 0 <= found.min() <= found.max() <= 1


def test_attacks_depend_on_their_seed_and_keep_the_global_generator(undefended):
    model = TEST.model(TorchModel(undefended, TASK))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, same, different = (
        attacks.pgd(model, TEST.pixels, TEST.labels, eps=0.1, seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(torch.rand(3), expected)
    assert np.array_equal(one, same)
    assert not np.array_equal(one, different)


def test_margin_pgd_reaches_the_worst_corner_of_a_linear_model():
    model = linear()
    labels = np.zeros(len(TEST.labels), dtype=np.int64)
    torch_model = TEST.model(TorchModel(model, TASK))
    weights = pixel_weights(model)
    difference = (weights[1] - weights[0]).reshape(1, 8, 8)
    worst = np.where(
        difference > 0, np.minimum(TEST.pixels + 0.1, 1), np.maximum(TEST.pixels - 0.1, 0)
    )
    for restart in (0, 1):
        found = margin_pgd(torch_model, TEST.pixels, labels, eps=0.1, restart=restart)
        reached, largest = ((difference * x).sum(axis=(1, 2, 3)) for x in (found, worst))
        np.testing.assert_allclose(reached, largest, atol=1e-4)


def test_margin_pgd_does_not_depend_on_the_scale_of_the_logits(undefended):
    small, large = (TEST.model(TorchModel(scaled(undefended, by), TASK)) for by in (1, 1024))
    one, two = (margin_pgd(m, TEST.pixels, TEST.labels, eps=0.1) for m in (small, large))
    assert np.array_equal(one, two)


def test_deepfool_reaches_the_exact_distance_of_a_linear_model():
    model = linear(classes=3)
    grey = np.random.default_rng(0).uniform(0.4, 0.6, (30, 1, 8, 8)).astype(np.float32)
    inputs = torch.tensor((grey - np.float32(0.3)) / np.float32(0.4))
    labels = model(inputs).argmax(dim=1).numpy()
    images = Images(grey, labels, "image", SCALE)
    one = target(model, images)
    exact = boundary_distances(one.model, grey, labels)
    found = minimal_perturbation(one, images)
    inside = exact < 0.3  # where the box does not constrain it
    assert inside.sum() > 5
    np.testing.assert_allclose(found[inside], 1.02 * exact[inside], rtol=0.02, atol=2e-3)
    assert (minimal_perturbation(one, Images(grey, (labels + 1) % 3, "image", SCALE)) == 0).all()


def test_deepfools_perturbation_is_scaled_until_the_file_errs():
    """The boundary of a quantised file differs from the float model's: here, a third further."""
    model = linear(classes=2)
    grey = np.full((1, 1, 8, 8), 0.5, dtype=np.float32)
    inputs = torch.tensor((grey - np.float32(0.3)) / np.float32(0.4))
    logits = model(inputs)
    label = int(logits.argmax())
    extra = torch.zeros(2)
    extra[label] = float(logits[0, label] - logits[0, 1 - label]) / 3

    class Shifted(nn.Module):
        def forward(self, image):
            return model(image) + extra

    images = Images(grey, np.array([label]), "image", SCALE)
    torch_model = images.model(TorchModel(model, TASK))
    found = minimal_perturbation(
        AttackTarget(images.logits(TorchPredictor(Shifted(), TASK)), torch_model), images
    )
    exact = boundary_distances(torch_model, grey, images.labels)
    assert exact < 0.3  # so that the box does not constrain it
    np.testing.assert_allclose(found, 1.4 * 1.02 * exact, rtol=0.05)


def test_square_lowers_the_accuracy_within_its_queries(undefended):
    queried = []
    some = target(undefended)

    def counted(pixels):
        queried.append(len(pixels))
        return some.logits(pixels)

    few, many = (
        square(counted, TEST.pixels, TEST.labels, eps=0.15, queries=queries) for queries in (2, 60)
    )
    assert len(queried) <= 62
    accuracy = [some.correct(x, TEST.labels).mean() for x in (few, many)]
    assert accuracy[1] < accuracy[0] - 0.1
    nothing = TEST.some(np.array([], dtype=np.int64))
    assert len(square(counted, nothing.pixels, nothing.labels, eps=0.1)) == 0


def test_an_unmodified_model_gets_no_warning(undefended, other):
    found = compare({"student": target(undefended), "teacher": target(other)})
    assert found.warnings == ()
    by = {(row.attack, row.eps): row for row in found.rows}
    clean = target(undefended).correct(TEST.pixels, TEST.labels).mean()
    for size in SIZES:
        strongest = by["strongest", size].student.value
        assert strongest == min(row.student.value for key, row in by.items() if key[1] == size)
        assert strongest <= clean
    values = [by["strongest", size].student.value for size in SIZES]
    assert values == sorted(values, reverse=True)
    assert [line.student.value for line in found.comparisons] == values
    assert values[-1] < 0.1


@pytest.mark.parametrize("kind", ["logits times 100", "defensive distillation"])
def test_gradient_masking_is_broken_and_warned_of(undefended, other, defended, kind):
    masked = scaled(undefended, 100) if kind == "logits times 100" else defended
    one = target(masked)
    clean = one.correct(TEST.pixels, TEST.labels).mean()
    found = compare({"student": one, "teacher": target(other)})
    by = {(row.attack, row.eps): row.student.value for row in found.rows}
    assert clean > 0.85
    assert by["fgsm", 0.2] > 0.5  # the weak attacks seem to fail
    assert by["pgd", 0.2] > 0.4
    assert by["strongest", 0.2] < 0.1  # the strongest does not
    [warning] = found.warnings
    assert warning.startswith("The student's gradients are masked")
    assert "zero gradient in float32" in warning
    assert "in the worst case over all attacks" in warning
    assert found.comparisons[-1].student.value == by["strongest", 0.2]


def test_without_a_torch_model_transfer_and_square_remain(undefended, other):
    student = replace(target(undefended), model=None)
    found = compare({"student": student, "teacher": target(other)}, epsilons=(0.2,))
    by = {row.attack: row for row in found.rows}
    assert by["fgsm"].student is None
    assert by["pgd"].student is None
    assert by["pgd"].teacher is not None
    assert by["transfer"].teacher is None
    assert by["strongest"].student.value <= by["transfer"].student.value < 0.5
    alone = compare({"student": student}, epsilons=(0.2,))
    assert alone.rows[-1].student.value < 0.5
    assert alone.comparisons[0].verdict == "no reference"
    assert "no PyTorch model" in found.comparisons[0].method


def test_the_exported_file_decides_and_not_the_torch_model(undefended):
    """A file that is always correct is robust, whatever its torch model predicts."""

    class AlwaysCorrect:
        def predict(self, batch):
            return {"logits": np.eye(10, dtype=np.float32)[TEST.labels[: len(batch["image"])]]}

    images = TEST.some(np.arange(20))
    one = AttackTarget(images.logits(AlwaysCorrect()), images.model(TorchModel(undefended, TASK)))
    found = compare(
        {"student": one},
        images,
        epsilons=(0.2,),
        budget=AttackBudget(restarts=0, queries=5),
    )
    assert {row.student.value for row in found.rows if row.student} == {1.0}
    assert (minimal_perturbation(one, images) == 8).all()  # the diagonal of 64 pixels
    assert examples(one, images, found.broken, TASK.classes) == ()


def test_examples_are_misclassified(undefended):
    one = target(undefended)
    found = compare({"student": one}, epsilons=(0.2,))
    found_examples = examples(one, TEST, found.broken, TASK.classes)
    assert len(found_examples) == 6
    assert all(example.answer != example.label for example in found_examples)
    assert all(0 < example.eps <= 0.2 + 1e-6 for example in found_examples)
    assert all(example.before.startswith("iVBOR") for example in found_examples)


@pytest.mark.parametrize("count", [1, 2, 7, 50])
def test_the_median_of_every_resample_equals_numpys(count):
    random = np.random.default_rng(count)
    values = random.integers(5, size=count).astype(float)
    counts = random.multinomial(count, np.full(count, 1 / count), size=20).astype(float)
    found = median_of(values)(counts)
    for draw, median in zip(counts, found, strict=True):
        drawn = np.repeat(values, draw.astype(int))
        assert median == np.quantile(drawn, 0.5, method="lower")
