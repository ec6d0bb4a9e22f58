"""A training of a few milliseconds a step, with everything in it that has a state.

Of its own file, so that other processes can run it too; it needs no data set.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from limbeck.objective import Objective, Term, methods
from limbeck.schemes import Offline
from limbeck.schemes.mutual import Mutual
from limbeck.tasks import Batch
from limbeck.tasks.image_classification import ImageClassification
from limbeck.teachers import FrozenTeacher
from limbeck.training import History, Training, checkpoint, fit


class Images:
    """Random images, with other noise in each epoch."""

    def __init__(self, count: int = 22, *, noise: float = 0.1) -> None:
        generator = torch.Generator().manual_seed(5)
        self.images = torch.randn(count, 1, 6, 6, generator=generator)
        self.labels = torch.randint(3, (count,), generator=generator)
        self.weights = torch.rand(count, generator=generator) * 2
        self.noise, self.epoch = noise, 0

    def __len__(self) -> int:
        return len(self.labels)

    def set_epoch(self, epoch: int, /) -> None:
        self.epoch = epoch

    def __getitems__(self, indices: list[int], /) -> dict[str, Tensor]:
        images = self.images[indices].clone()
        for place, index in enumerate(indices if self.noise else ()):
            generator = torch.Generator().manual_seed(1000 * self.epoch + index)
            images[place] += self.noise * torch.randn(1, 6, 6, generator=generator)
        return {"image": images, "labels": self.labels[indices], "weight": self.weights[indices]}


class Weighed(ImageClassification):
    """Images with different weights."""

    def weights(self, batch: Batch) -> dict[str, Tensor]:
        return {"logits": batch["weight"]}


def net(width: int = 4, dropout: float = 0.2, norm: bool = True) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, width, 3, bias=not norm),
        nn.BatchNorm2d(width) if norm else nn.Identity(),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * width, 3),
    )


def score(model: nn.Module) -> dict[str, float]:
    """A number that goes up and down from epoch to epoch, and depends on every weight."""
    model.eval()
    total = sum(float(value.double().sum()) for value in model.state_dict().values())
    return {"wobble": (total * 100) % 1, "total": total}


class Killed(BaseException):
    """Ends a training where no `except Exception` sees it."""


class KillAt:
    """Ends a training after so many steps, before what they did is saved."""

    def __init__(self, step: int, *, number: int | None = None) -> None:
        self.step, self.number = step, number

    def update(self, done: int, total: int, note: str, *, milestone: bool = False) -> None:
        if milestone:
            return
        if done == self.step and self.number is not None:
            os.kill(os.getpid(), self.number)
        elif done == self.step:
            raise Killed


def scheme(*, hint: bool = False, dropout: float = 0.2, width: int = 4, **more: Any) -> Offline:
    torch.manual_seed(11)
    task = Weighed(classes=("a", "b", "c"))
    terms = methods.hinton()
    if hint:
        terms.append(Term("fitnet_hint", student="2", teacher="2", weight=2.0))
    teacher = FrozenTeacher(net(6, 0.5), task, taps=["2"] if hint else [])
    student = net(width, dropout, **more)
    probe = Images().__getitems__([0, 1])
    return Offline(student, task, Objective(terms), teacher=teacher, probe=probe)


def mutual(dropout: float = 0.2) -> Mutual:
    torch.manual_seed(11)
    students = {"student": net(4, dropout), "peer_1": net(5, dropout)}
    terms = [Term("task"), Term("soft_target_kl", temperature=1.0)]
    probe = Images().__getitems__([0, 1])
    return Mutual(students, Weighed(classes=("a", "b", "c")), lambda: Objective(terms), probe=probe)


def train(
    folder: Path,
    *,
    subject: Any = None,
    train: Any = None,
    validate: Any = score,
    progress_bar: Any = None,
    resume: bool = True,
    seed: int = 3,
    accelerator: Any = None,
    **settings: Any,
) -> tuple[Any, History]:
    subject = subject or scheme()
    chosen = {
        **({} if "steps" in settings else {"epochs": 3}),
        "batch_size": 4,
        "gradient_accumulation_steps": 2,
        "learning_rate": 0.01,
        "checkpoint_every": 0,
        **settings,
    }
    history = fit(
        subject,
        train=Images() if train is None else train,
        validate=validate,
        settings=Training(**chosen),
        folder=folder,
        seed=seed,
        accelerator=accelerator or Accelerator(cpu=True),
        resume=resume,
        progress_bar=progress_bar,
    )
    return subject, history


def train_until_killed(folder: Path, step: int) -> None:
    train(folder, progress_bar=KillAt(step, number=signal.SIGKILL))


def train_until_killed_saving(folder: Path, number: int) -> None:
    """Be killed in the middle of writing a checkpoint."""
    plain, calls = checkpoint.save_file, []

    def half(tensors: Any, path: Path, **more: Any) -> None:
        plain(tensors, path, **more)
        calls.append(path)
        if len(calls) == number:
            os.truncate(path, 2000)
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.save_file = half
    train(folder)
