"""Students with their teachers, each trained once per process, and nets of images."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.objective import Objective
from limbeck.objective.objective import ObjectiveLike
from limbeck.studies.measures import bench
from limbeck.studies.measures.bench import Data, Spec, Split
from limbeck.tasks import TASKS
from limbeck.training import Training


@dataclass(frozen=True, eq=False)
class Pair:
    """A student after its training, its teacher, and what the trainings took.

    Attributes:
        net: The student.
        on: The student's training samples and the test samples.
        models: The teacher's members; none without a teacher.
        teacher_train: The teacher's logits on the student's training samples.
        teacher_test: The same on the test samples.
        seconds: CPU seconds of the student's training.
        teacher_seconds: CPU seconds of the teacher's training.
    """

    net: nn.Module
    on: Data
    models: tuple[nn.Module, ...]
    teacher_train: Tensor | None
    teacher_test: Tensor | None
    seconds: float
    teacher_seconds: float

    def predict(self, inputs: Tensor) -> Tensor:
        """Return the student's logits."""
        return bench.logits(self.net, inputs)

    def teach(self, inputs: Tensor) -> Tensor:
        """Return the teacher's logits, of several members those of the mean probabilities."""
        return together(self.models, inputs)


class Recurrent(nn.Module):
    """An LSTM over the rows of an image, and a linear layer on its last state."""

    def __init__(self, classes: int, features: int, width: int, depth: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(features, width, depth, batch_first=True)
        self.linear = nn.Linear(width, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits `[n, classes]` of images `[n, 1, rows, columns]`."""
        states, _ = self.lstm(image[:, 0])
        return self.linear(states[:, -1])


class Encoder(nn.Module):
    """A transformer encoder over the rows of an image, and a linear layer on the mean state."""

    def __init__(self, classes: int, features: int, width: int, depth: int) -> None:
        super().__init__()
        self.embed = nn.Linear(features, width)
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.linear = nn.Linear(width, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits `[n, classes]` of images `[n, 1, rows, columns]`."""
        states = self.encoder(self.embed(image[:, 0]))
        return self.linear(states.mean(1))


_OF_ROWS: Mapping[str, Callable[[int, int, int, int], nn.Module]] = {
    "row_lstm": Recurrent,
    "row_encoder": Encoder,
}


def build(spec: Spec, like: Data, *, seed: int) -> nn.Module:
    """Build a net as `bench.build` does, or a net of images with a `width` and a `depth`.

    `pixel_mlp` has hidden layers over the pixels, `row_lstm` is an LSTM over the rows of an image,
    `row_encoder` a transformer encoder over them.
    """
    width, depth = int(spec.get("width", 0)), int(spec.get("depth", 1))
    image = like.train.inputs[0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind := _OF_ROWS.get(str(spec["name"])):
            return kind(like.classes, image.shape[-1], width, depth)
        if spec["name"] == "pixel_mlp":
            widths = [image.numel(), *[width] * depth]
            layers = [
                layer for before in widths[:-1] for layer in (nn.Linear(before, width), nn.ReLU())
            ]
            return nn.Sequential(nn.Flatten(), *layers, nn.Linear(widths[-1], like.classes))
    return bench.build(spec, like, seed=seed)


def together(models: Sequence[nn.Module], inputs: Tensor) -> Tensor:
    """Return the logits of one model, or those of the mean probabilities of several."""
    answers = [bench.logits(one, inputs) for one in models]
    return bench.ensemble(answers) if len(answers) > 1 else answers[0]


_PAIRS: dict[str, Pair] = {}
_MODELS: dict[str, tuple[nn.Module, float]] = {}


def _teachers(spec: Spec, on: Data, *, seed: int, key: str) -> tuple[tuple[nn.Module, ...], float]:
    """Train the members of a teacher, each once per process; return them and their CPU seconds."""
    arguments = dict(spec)
    count, found = int(arguments.pop("members", 1)), []
    for number in range(count):
        member = 1000 + 100 * seed + number
        place = f"{key} {member} {sorted(arguments.items(), key=str)}"
        if place not in _MODELS:
            begun = time.process_time()
            _MODELS[place] = (
                _member(arguments, on, seed=member, split=seed),
                (time.process_time() - begun),
            )
        found.append(_MODELS[place])
    return tuple(model for model, _ in found), sum(seconds for _, seconds in found)


def _member(spec: Spec, on: Data, *, seed: int, split: int) -> nn.Module:
    arguments = dict(spec)
    labelled, rows = arguments.pop("labelled", None), arguments.pop("rows", None)
    objective = arguments.pop("objective", "label_only")
    names = [name for name in arguments if name in Training.model_fields]
    training = {name: arguments.pop(name) for name in names}
    some = on.with_rows(rows, seed=split)
    mask = None if labelled is None else bench.mask(some, int(labelled), seed=split)
    net = build(arguments, some, seed=seed)
    settings = {"learning_rate": 0.005, **training}
    settings.setdefault("epochs", None if "steps" in settings else 15)
    return bench.train(net, some, objective, seed=seed, labelled=mask, **settings)


def load(name: str, groups: int | None = None) -> Data:
    """Load a data set; with `groups`, class c becomes c modulo that number."""
    on = bench.data(name)
    if groups is None:
        return on
    task = TASKS.load("image_classification")(tuple(map(str, range(groups))))
    first, second = (Split(one.inputs, one.labels % groups) for one in (on.train, on.test))
    return replace(on, train=first, test=second, task=task)


def trained(
    *,
    seed: int,
    data: str,
    student: Spec,
    training: Mapping[str, Any],
    teacher: Spec | None = None,
    objective: ObjectiveLike = "label_only",
    rows: int | None = None,
    labelled: int | None = None,
    groups: int | None = None,
    teacher_scale: float = 1.0,
) -> Pair:
    """Train a student and its teacher, or return those of the same settings in this process.

    Args:
        seed: The seed of student, teacher and labelled rows.
        data: The data set; see `bench.data`.
        student: The student's net; see `build`.
        training: Settings of the student's training, as in a recipe.
        teacher: The teacher's net, with `members`, `rows`, `labelled`, and settings of training.
        objective: Terms, or a method by name, as in a recipe.
        rows: Training samples of the student; all if None.
        labelled: Of these, samples with a label; all if None.
        groups: The number of classes that the labels are merged to; see `load`.
        teacher_scale: A factor on the teacher's logits.
    """
    place = repr(
        (seed, data, student, training, teacher, objective, rows, labelled, groups, teacher_scale)
    )
    if place not in _PAIRS:
        everything = load(data, groups)
        on = everything.with_rows(rows, seed=seed)
        models: tuple[nn.Module, ...] = ()
        seconds, answers, test = 0.0, None, None
        if teacher is not None:
            models, seconds = _teachers(teacher, everything, seed=seed, key=f"{data} {groups}")
            answers = teacher_scale * together(models, on.train.inputs)
            test = together(models, on.test.inputs)
        aim = Objective.of(objective)
        mask = None if labelled is None else bench.mask(on, labelled, seed=seed)
        net = build(student, on, seed=seed)
        begun = time.process_time()
        given = answers if aim.needs_teacher else None
        bench.train(net, on, aim, seed=seed, teacher=given, labelled=mask, **training)
        spent = time.process_time() - begun
        _PAIRS[place] = Pair(net, on, models, answers, test, spent, seconds)
    return _PAIRS[place]


class Mean(nn.Module):
    """The log of the mean probabilities of several models."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits `[n, classes]`."""
        if len(self.models) == 1:
            found: Tensor = self.models[0](inputs)
            return found
        return bench.ensemble([one(inputs) for one in self.models])
