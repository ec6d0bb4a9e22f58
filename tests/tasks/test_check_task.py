"""`check_task`: every task passes, and each broken law is found."""

from __future__ import annotations

from types import MappingProxyType

import pytest
import torch
from torch import nn

from limbeck.errors import InputError
from limbeck.tasks import TASKS
from limbeck.tasks.image_classification import ImageClassification
from limbeck.testing import BrokenLawError, check_task

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randn(6, 1, 2, 2, generator=GENERATOR)
ROWS = IMAGES.flatten(1)
LABELS = torch.tensor([0, 2, 1, 2, 0, 1])


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(9, 4), nn.Linear(4, 3)

    def forward(self, input_ids, attention_mask):
        mask = attention_mask.unsqueeze(-1)
        return self.head((self.embed(input_ids) * mask).sum(1) / mask.sum(1))


def segmentation():
    """Segmentation with ignored pixels, and a map of half the resolution."""
    labels = torch.randint(-1, 3, (6, 4, 4), generator=GENERATOR)
    image = torch.randn(6, 1, 4, 4, generator=GENERATOR)
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.AvgPool2d(2))
    task = TASKS.load("image_segmentation")(("a", "b", "c"))
    return task, model, {"image": image, "labels": labels.masked_fill(labels < 0, -100)}


def forecasting():
    """Two quantiles of three steps, in other units than the model's, with a missing label."""
    series = torch.randn(6, 5, 2, generator=GENERATOR)
    labels = 7 + 3 * torch.randn(6, 3, 1, generator=GENERATOR)
    labels[2, 1] = float("nan")
    task = TASKS.load("series_forecasting")(
        ("load",),
        horizon=3,
        quantiles=(0.2, 0.8),
        mean=torch.tensor([7.0]),
        std=torch.tensor([3.0]),
    )
    model = nn.Sequential(nn.Flatten(), nn.Linear(10, 6))
    return task, model, {"series": series, "labels": labels}


class Detector(nn.Module):
    """The classes and the distances of the 84 points of an image of 64x64."""

    def __init__(self):
        super().__init__()
        self.classes, self.box = nn.Linear(3, 3), nn.Linear(3, 4)

    def forward(self, image):
        rows = image.flatten(2).transpose(1, 2)[:, :84]
        return {"classes": self.classes(rows), "box": self.box(rows).exp()}


def detection():
    """Two boxes per image, of which the second is missing in some; one image has none."""
    image = torch.randn(6, 3, 64, 64, generator=GENERATOR)
    low = 30 * torch.rand(6, 2, 2, generator=GENERATOR)
    boxes = torch.cat([low, low + 12 + 20 * torch.rand(6, 2, 2, generator=GENERATOR)], -1)
    labels = torch.tensor([[0, 1], [2, -100], [1, 1], [-100, -100], [0, 2], [1, -100]])
    task = TASKS.load("object_detection")(("a", "b", "c"))
    return task, Detector(), {"image": image, "labels": labels, "boxes": boxes}


class Tagger(nn.Module):
    """The classes of every word, in the layout of torch."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(9, 3)

    def forward(self, input_ids, attention_mask):
        return self.embed(input_ids).transpose(1, 2)


def tokens():
    """Sequences of unequal length, with a further piece of a word in one."""
    labels = torch.randint(0, 3, (6, 4), generator=GENERATOR)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]] * 2)
    labels = labels.masked_fill(mask == 0, -100)
    labels[0, 1] = -100
    ids = torch.randint(1, 9, (6, 4), generator=GENERATOR) * mask
    task = TASKS.load("token_classification")(("O", "B-a", "I-a"))
    return task, Tagger(), {"input_ids": ids, "attention_mask": mask, "labels": labels}


class Neighbours(nn.Linear):
    """The mean of a node's neighbours, without batch statistics."""

    def forward(self, features, edges, degrees, nodes):
        summed = features.index_add(0, edges[1], features[edges[0]])
        return super().forward(summed / (degrees + 1).unsqueeze(-1))[nodes]


def nodes():
    """Six of nine nodes; some are neighbours of each other, one has none."""
    batch = {
        "features": torch.randn(9, 4, generator=GENERATOR),
        "edges": torch.tensor([[6, 7, 1, 0, 8, 2], [0, 0, 0, 1, 3, 4]]),
        "degrees": torch.tensor([3, 4, 1, 1, 1, 0, 2, 1, 5]),
        "nodes": torch.arange(6),
    }
    task = TASKS.load("node_classification")(("a", "b", "c"))
    return task, Neighbours(4, 3), {**batch, "labels": LABELS}


class NextToken(nn.Embedding):
    """Logits of the next token, from the token before it."""

    def forward(self, input_ids):
        return super().forward(input_ids)


def language():
    """Sequences of unequal length; the beginning of some is a prompt."""
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]] * 2)
    ids = torch.randint(1, 9, (6, 4), generator=GENERATOR) * mask
    labels = ids.masked_fill(mask == 0, -100)
    labels[0, :2] = -100
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    return TASKS.load("causal_lm")(9), NextToken(9, 9), batch


OTHER = {
    "causal_lm": language,
    "image_segmentation": segmentation,
    "node_classification": nodes,
    "object_detection": detection,
    "series_forecasting": forecasting,
    "token_classification": tokens,
}


def example(name):
    """The task with a model and a batch."""
    torch.manual_seed(0)
    if name in OTHER:
        return OTHER[name]()
    labels = LABELS
    if name.endswith("multilabel"):
        labels = torch.rand(6, 3, generator=GENERATOR).round()
    if name.endswith("regression"):
        labels = torch.randn(6, 3, generator=GENERATOR)
    domain = name.partition("_")[0]
    inputs = {
        "image": (nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), {"image": IMAGES}),
        "audio": (nn.Linear(4, 3), {"audio": ROWS}),
        "tabular": (nn.Linear(4, 3), {"features": ROWS}),
        "text": (
            Words(),
            {
                "input_ids": torch.randint(1, 9, (6, 3), generator=GENERATOR),
                "attention_mask": torch.tensor([[1, 1, 0]] * 6),
            },
        ),
    }
    model, batch = inputs[domain]
    kind = TASKS.load(name)
    return kind(("a", "b", "c")), model, {**batch, "labels": labels}


@pytest.mark.parametrize("name", TASKS.builtin())
def test_the_built_in_tasks_meet_the_laws(name):
    check_task(*example(name))


class MeanOfABatch(ImageClassification):
    """Weights that depend on the batch: a split changes the gradient."""

    def weights(self, batch):
        return {name: one / len(one) for name, one in super().weights(batch).items()}

    def loss(self, response):
        return {name: one * len(one) for name, one in super().loss(response).items()}


class WithoutWeights(ImageClassification):
    def weights(self, batch):
        return {"logits": torch.ones(len(batch["labels"]))}


class OtherOutputs(ImageClassification):
    def outputs(self, model, batch):
        return {name: 2 * one for name, one in super().outputs(model, batch).items()}


class Scalar(ImageClassification):
    def loss(self, response):
        return {name: one.mean() for name, one in super().loss(response).items()}


class OtherName(ImageClassification):
    kinds = MappingProxyType({"scores": "categorical"})


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (MeanOfABatch, "law 2: logits: two micro-batches change the gradient"),
        (WithoutWeights, "law 3: logits: samples of weight 0 differ from those left out"),
        (OtherOutputs, "law 4: logits: outputs"),
        (Scalar, r"law 1: logits: the loss has the shape \[\]"),
        (OtherName, "law 1: the loss is of logits, which is no output"),
    ],
)
def test_a_broken_law_is_found(kind, message):
    _, model, batch = example("image_classification")
    with pytest.raises(BrokenLawError, match=message):
        check_task(kind(classes=("a", "b", "c")), model, batch)


def test_a_batch_of_unequal_tensors_is_refused():
    task, model, batch = example("tabular_classification")
    with pytest.raises(InputError, match="samples: 5, 6"):
        check_task(task, model, batch | {"labels": LABELS[:5]})
