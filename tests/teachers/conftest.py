from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.data.load import Data, load
from limbeck.data.modalities.image import AugmentSpec
from limbeck.data.spec import DataSpec
from limbeck.tasks.image_classification import ImageClassification


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """Scanned digits whose training images come in three shifted views."""
    spec = DataSpec(
        source="sklearn",
        name="digits",
        max_samples={"train": 300},
        augment=AugmentSpec(shift=2, views=3),
    )
    return load(spec, workdir=tmp_path_factory.mktemp("work"))


@pytest.fixture
def task():
    return ImageClassification(classes=tuple("0123456789"))


@pytest.fixture
def net():
    """Make a net with everything that evaluation mode is about, from a seed."""

    def make(seed: int = 0) -> nn.Module:
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 10)
        )
        nn.init.normal_(model[1].running_mean)
        return model

    return make
