"""`check_scheme`: every scheme passes, and each broken law is found."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.objective import Objective, methods
from limbeck.schemes import SCHEMES, Offline, SchemeInputs
from limbeck.schemes.offline import OfflineSettings
from limbeck.tasks.image_classification import ImageClassification
from limbeck.teachers import FrozenTeacher
from limbeck.testing import BrokenLawError, check_scheme

TASK = ImageClassification(classes=("a", "b", "c"))
GENERATOR = torch.Generator().manual_seed(0)
BATCH = {"image": torch.randn(8, 1, 4, 4, generator=GENERATOR), "labels": torch.arange(8) % 3}
EXAMPLES = {"offline": {}, "mutual": {"copies": 3}}


def net(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))


def inputs_of(settings):
    return SchemeInputs(
        task=TASK,
        objective=lambda: Objective(methods.hinton()),
        probe=BATCH,
        teacher=FrozenTeacher(net(9), TASK) if settings.uses_teacher else None,
        models=[net(seed) for seed in range(1, 1 + len(settings.further_models()))],
    )


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_built_in_schemes_meet_the_laws(name):
    settings = SCHEMES.load(name)(**EXAMPLES[name])
    check_scheme(settings, net(0), inputs_of(settings))


class ByBatch(Offline):
    """Divides by the micro-batch's own weights."""

    def step(self, batch, progress, total_weights=None, phase=""):
        return super().step(batch, progress, None, phase)


class Unweighted(Offline):
    def step(self, batch, progress, total_weights=None, phase=""):
        return super().step({k: v for k, v in batch.items() if k != "weight"}, progress, None)

    def total_weights(self, batch):
        return super().total_weights({k: v for k, v in batch.items() if k != "weight"})


class Trains(Offline):
    """Moves the student while its terms are checked."""

    def check_terms(self, batch):
        found = super().check_terms(batch)
        with torch.no_grad():
            next(self.student.parameters()).add_(1)
        return found


class WithTeacher(OfflineSettings):
    def build_control(self, student, inputs):
        return self.build_scheme(student, inputs)


def built_as(scheme):
    class Settings(OfflineSettings):
        def build_scheme(self, student, inputs):
            built = super().build_scheme(student, inputs)
            built.__class__ = scheme
            return built

    return Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (built_as(ByBatch), "law 3: .*two micro-batches change the gradient"),
        (built_as(Unweighted), "law [34]: "),
        (built_as(Trains), "law 2: check_terms changes student: 0.weight"),
        (WithTeacher, "law 5: the control cannot do without the teacher"),
    ],
)
def test_a_broken_law_is_found(settings, message):
    with pytest.raises(BrokenLawError, match=message):
        check_scheme(settings(), net(0), inputs_of(settings()))
