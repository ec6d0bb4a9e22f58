"""Semantic segmentation: elements are pixels, of which ignored ones count nowhere."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

import limbeck
from limbeck.errors import InputError
from limbeck.evaluate.metrics import score_value
from limbeck.export.onnx import to_onnx
from limbeck.export.predictor import OnnxPredictor, TorchPredictor
from limbeck.models.nets.unet import unet
from limbeck.objective import Objective, Term
from limbeck.pipeline import artefacts
from limbeck.pipeline.artefacts import predict_split
from limbeck.pipeline.parity import check_export
from limbeck.tasks import ScoreTable, total_weights
from limbeck.tasks.image_segmentation import IGNORED, MEAN_IOU, PIXEL_ACCURACY, ImageSegmentation
from limbeck.teachers import FrozenTeacher

CLASSES = ("sky", "street", "car", "tree")
TASK = ImageSegmentation(CLASSES)


def drawn(count: int = 3, size: tuple[int, int] = (9, 12), seed: int = 0) -> dict:
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(-1, 4, (count, *size), generator=random)
    image = torch.randn(count, 3, *size, generator=random)
    return {"image": image, "labels": torch.where(labels < 0, IGNORED, labels)}


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return unet(4, width=4, depth=2).eval()


def table(logits: torch.Tensor, batch: dict, *, scores=TASK.scores) -> ScoreTable:
    weights = {name: one.numpy() for name, one in TASK.weights(batch).items()}
    found = ScoreTable(scores)
    found.update({"logits": logits.numpy()}, {"labels": batch["labels"].numpy()}, weights)
    return found


@pytest.mark.parametrize("present", [4, 2])
def test_scores_equal_torchmetrics(present):
    batch = drawn(5)
    batch["labels"] = batch["labels"].clamp_max(present - 1)
    logits = torch.randn(5, 4, 9, 12)
    logits[:, present:] = -9  # neither labelled nor predicted
    jaccard = MulticlassJaccardIndex(4, average="macro", ignore_index=IGNORED)
    accuracy = MulticlassAccuracy(4, average="micro", ignore_index=IGNORED)
    found = table(logits, batch).values()
    assert found["miou"] == pytest.approx(float(jaccard(logits, batch["labels"])), abs=1e-6)
    assert found["pixel_accuracy"] == pytest.approx(float(accuracy(logits, batch["labels"])))


def test_the_interval_resamples_pictures_and_the_score_follows_weights():
    batch = drawn(30)
    logits = F.one_hot(batch["labels"].clamp_min(0), 4).movedim(-1, 1).float()
    logits[:15] = torch.randn(15, 4, 9, 12)
    found = score_value(table(logits, batch), MEAN_IOU)
    assert found.interval.low < found.value < found.interval.high
    assert found.samples == 30
    batch["weight"] = (torch.arange(30) >= 15).float()
    weighted = table(logits, batch)
    assert weighted.values() == {"miou": 1.0, "pixel_accuracy": 1.0}
    assert score_value(weighted, PIXEL_ACCURACY).interval.low == pytest.approx(1.0)


def gradients(model: nn.Module, batches: list[dict]) -> torch.Tensor:
    objective = Objective([Term("cross_entropy"), Term("soft_target_kl", temperature=2.0)])
    torch.manual_seed(1)
    teacher = FrozenTeacher(unet(4, width=6, depth=1), TASK)
    whole: dict[str, torch.Tensor] = {}
    for batch in batches:
        for name, one in total_weights(TASK, batch).items():
            whole[name] = whole.get(name, 0) + one
    model.zero_grad()
    for batch in batches:
        response, answer = TASK.respond(model, batch), teacher.answer(batch)
        objective(response, answer, progress=0.0, total_weights=whole).total.backward()
    return torch.cat([one.grad.flatten() for one in model.parameters()])


def test_pixels_are_in_the_order_of_the_labels_and_ignored_ones_weigh_nothing(net):
    batch = drawn()
    response = TASK.respond(net, batch)
    logits = TASK.outputs(net, batch)["logits"]
    expected = F.cross_entropy(logits, batch["labels"], ignore_index=IGNORED, reduction="none")
    output = response.primary
    loss = TASK.loss(response)["logits"] * output.weights
    torch.testing.assert_close(loss, expected.flatten())
    assert output.sample_of.tolist() == [row for row in range(3) for _ in range(108)]
    assert torch.equal(output.weights, TASK.weights(batch)["logits"])
    assert output.weights.sum() == (batch["labels"] != IGNORED).sum() < batch["labels"].numel()


def test_maps_and_labels_of_other_sizes(net):
    half = nn.Sequential(net, nn.AvgPool2d(3))
    batch = drawn()
    found = TASK.outputs(half, batch)["logits"]
    assert found.shape == (3, 4, 9, 12)
    expected = F.interpolate(half(batch["image"]), (9, 12), mode="bilinear", align_corners=False)
    torch.testing.assert_close(found, expected)
    batch["labels"] = batch["labels"][:, :4]
    with pytest.raises(InputError, match=r"batch.labels: got \[3, 4, 12\]; allowed: \[3, 9, 12\]"):
        TASK.respond(net, batch)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Conv2d(3, 5, 1), r"an output float32 \[3, 5, 9, 12\]"),
        (nn.Sequential(nn.Flatten(), nn.Linear(324, 4)), r"one tensor \[n, 4, h, w\]"),
    ],
)
def test_another_output_is_refused_by_its_shape(model, message):
    with pytest.raises(InputError, match=message):
        TASK.outputs(model, drawn())


class Heads(nn.Module):
    """A model with an auxiliary head, as torchvision's."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)

    def forward(self, image: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(out=self.first(image), aux=self.second(image))


def test_auxiliary_heads_add_to_the_loss():
    model, batch = Heads(), drawn()
    response = TASK.respond(model, batch)
    parts = [
        F.cross_entropy(one(batch["image"]), batch["labels"], ignore_index=-100, reduction="none")
        for one in (model.first, model.second)
    ]
    loss = TASK.loss(response)["logits"] * response.primary.weights
    torch.testing.assert_close(loss, (parts[0] + 0.4 * parts[1]).flatten())


@pytest.mark.parametrize("sizes", [[0, 1, 2], [0, 2], [0, 1]])
def test_a_cut_batch_has_the_gradient_of_the_whole(net, sizes):
    batch = drawn()
    cuts = [*sizes, 3]
    parts = [{name: one[start:end] for name, one in batch.items()} for start, end in pairwise(cuts)]
    whole = gradients(net, [batch])
    assert whole.abs().max() > 1e-3
    torch.testing.assert_close(gradients(net, parts), whole, rtol=1e-4, atol=1e-6)


def test_an_ignored_pixel_and_a_row_of_weight_0_change_no_gradient(net):
    batch = drawn()
    batch["labels"][2] = IGNORED
    part = {name: one[:2] for name, one in batch.items()}
    expected = gradients(net, [part])
    torch.testing.assert_close(gradients(net, [batch]), expected, rtol=1e-4, atol=1e-6)
    other = drawn()
    other["weight"] = torch.tensor([1.0, 1.0, 0.0])
    torch.testing.assert_close(gradients(net, [other]), expected, rtol=1e-4, atol=1e-6)


class Rows:
    """A split of drawn images."""

    def __init__(self, count: int, size: tuple[int, int]) -> None:
        self.batch, self.count, self.taken = drawn(count, size), count, []

    def __len__(self) -> int:
        return self.count

    def spread(self, count: int) -> list[int]:
        return list(range(min(count, self.count)))

    def __getitems__(self, rows) -> dict[str, torch.Tensor]:
        self.taken.append(len(rows))
        return {name: one[list(rows)] for name, one in self.batch.items()}

    def batches(self, size: int):
        for start in range(0, self.count, size):
            yield self.__getitems__(range(start, min(start + size, self.count)))


def test_the_exported_file_gives_the_map_and_is_compared_by_pixel(net, tmp_path):
    rows = Rows(20, (9, 12))
    to_onnx(net, TASK, rows.__getitems__([0, 1]), tmp_path / "model.onnx")
    both = TorchPredictor(net, TASK), OnnxPredictor(tmp_path / "model.onnx")
    found = check_export(*both, TASK, split=rows, where="stages.distill", model=net)
    assert found.within
    assert found.samples == 20
    assert found.agreement > 0.99
    predicted = [one.predict(rows.batch)["logits"] for one in both]
    assert predicted[1].shape == (20, 4, 9, 12)
    np.testing.assert_allclose(predicted[1], predicted[0], atol=1e-4)
    net.head.bias.data[0] += 0.5
    with pytest.raises(InputError, match="an export whose"):
        check_export(*both, TASK, split=rows, where="stages.distill", model=net)


def test_evaluation_takes_batches_that_fit_its_memory(net, monkeypatch):
    rows = Rows(20, (9, 12))
    size = 9 * 12 * 4 * (3 + 4) + 9 * 12 * 8  # image and logits in float32, labels in int64
    monkeypatch.setattr(artefacts, "EVALUATION_BYTES", 4 * size)
    context = SimpleNamespace(task=TASK)
    found = predict_split(context, TorchPredictor(net, TASK), rows)
    assert found.predictions is None
    assert max(rows.taken) == 4
    whole = table(
        torch.from_numpy(TorchPredictor(net, TASK).predict(rows.batch)["logits"]), rows.batch
    )
    assert found.scores.values() == pytest.approx(whole.values())


def test_distill_takes_images_and_masks(tmp_path):
    torch.manual_seed(0)
    images = torch.randn(48, 3, 8, 8)
    masks = (images.mean(1) > 0).long()
    teacher = unet(2, width=4, depth=1)
    optimizer = torch.optim.Adam(teacher.parameters(), 0.02)
    for _ in range(40):
        optimizer.zero_grad()
        F.cross_entropy(teacher(images), masks).backward()
        optimizer.step()
    data = TensorDataset(images, masks)
    found = limbeck.distill(
        teacher,
        nn.Conv2d(3, 2, 1),
        data,
        task="image_segmentation",
        epochs=6,
        batch_size=8,
        learning_rate=0.1,
    )
    assert found.teacher_scores["miou"] > 0.8
    assert 0.5 < found.scores["miou"] <= 1


def test_data_without_masks_are_refused():
    with pytest.raises(InputError, match=r"data\.masks: field required"):
        ImageSegmentation.of(SimpleNamespace(classes=(), targets=(), preprocess=None))
