"""Elements of weight 0 are excluded from the validation metrics."""

from types import SimpleNamespace

import torch
from torch import nn

from limbeck.pipeline.artefacts import validate_model
from limbeck.tasks.image_classification import ImageClassification


class HalfWeighted(ImageClassification):
    """A task in which samples with an odd index have weight 0, as padding has."""

    def weights(self, batch):
        return {"logits": (batch["index"] % 2 == 0).float()}


class Twice:
    """A split of one batch, given twice."""

    def __init__(self, batch):
        self.batch = batch

    def __getitems__(self, rows):
        return {name: one[rows] for name, one in self.batch.items()}

    def batches(self, size):
        return [self.batch, self.batch]


def test_elements_of_weight_zero_are_excluded():
    labels = torch.tensor([0, 1, 1, 0, 0, 1])
    right = torch.tensor([True, False, True, False, False, False])
    logits = nn.functional.one_hot(torch.where(right, labels, 1 - labels), 2).float()
    batch = {"image": logits, "labels": labels, "index": torch.arange(6)}
    context = SimpleNamespace(
        task=HalfWeighted(classes=("a", "b")),
        accelerator=SimpleNamespace(device=torch.device("cpu")),
        data=SimpleNamespace(validation=Twice(batch)),
    )
    found = validate_model(context, nn.Identity())
    assert found["accuracy"] == 2 / 3
