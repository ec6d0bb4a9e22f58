"""Knowledge of a related task, and students of half the depth."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor, nn

from limbeck.objective.objective import ObjectiveLike
from limbeck.studies.measures import bench
from limbeck.studies.measures.bench import Data, Spec, Split
from limbeck.tasks import TASKS

Route = Literal["scratch", "transfer", "distil", "transfer and distil", "related features"]


def related_task(
    *,
    seed: int,
    data: str,
    student: Spec,
    teacher: Spec,
    training: Mapping[str, Any],
    labelled: int,
    route: Route,
    temperature: float = 4.0,
) -> dict[str, float]:
    """Train a small net on the second half of the classes, with help of the first half.

    Args:
        seed: The seed.
        data: The data set.
        student: The small net.
        teacher: The teacher's net, with the settings of its training on the first half.
        training: Settings of each training of the small net.
        labelled: The labelled rows of the second half; all rows of the first half are labelled.
        route: `scratch` uses the labels alone. `transfer` trains the small net on the first half
            before. `distil` has soft targets of a teacher that was trained on the first half and
            then on the labels; `transfer and distil` does both. `related features` has a hint of a
            teacher that was trained on the first half alone.
        temperature: The temperature of the soft targets.

    Returns:
        `accuracy` on the second half, and `teacher_accuracy` if there is a teacher.
    """
    first, second = _halves(bench.data(data))
    mask = bench.mask(second, labelled, seed=seed)
    net = bench.build(student, second, seed=seed)
    if route.startswith("transfer"):
        bench.train(net, first, seed=seed, **training)
    objective: ObjectiveLike = "label_only"
    given: nn.Module | Tensor | None = None
    values: dict[str, float] = {}
    if route in ("distil", "transfer and distil"):
        large = _teacher(_frozen(teacher), data, seed, labelled)
        given = bench.logits(large, second.train.inputs)
        objective = [
            {"task": {"weight": 0.1}},
            {"soft_target_kl": {"temperature": temperature, "weight": 0.9}},
        ]
        found = bench.describe(bench.logits(large, second.test.inputs), second.test)
        values["teacher_accuracy"] = found["accuracy"]
    elif route == "related features":
        [given] = bench.teachers(teacher, first, seed=seed, key=f"{data} first half")
        hint = {"student": "block2", "teacher": "block2", "weight": 1.0}
        objective = [{"task": {}}, {"fitnet_hint": hint}]
    bench.train(net, second, objective, seed=seed, teacher=given, labelled=mask, **training)
    found = bench.describe(bench.logits(net, second.test.inputs), second.test)
    return {"accuracy": found["accuracy"], **values}


def _frozen(spec: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(spec.items()))


@cache
def _teacher(spec: tuple[tuple[str, Any], ...], data: str, seed: int, labelled: int) -> nn.Module:
    """Train a teacher on the first half, and then on the labels of the second."""
    first, second = _halves(bench.data(data))
    [before] = bench.teachers(dict(spec), first, seed=seed, key=f"{data} first half")
    net = bench.build({k: v for k, v in spec if k in ("name", "width")}, second, seed=seed)
    net.load_state_dict(before.state_dict())
    mask = bench.mask(second, labelled, seed=seed)
    return bench.train(net, second, seed=seed, labelled=mask, epochs=10, learning_rate=0.005)


@cache
def _halves(on: Data) -> tuple[Data, Data]:
    """Return the data of the first and of the second half of the classes, each from 0."""
    half = on.classes // 2
    task = TASKS.load("image_classification")(tuple(map(str, range(half))))

    def part(split: Split, number: int) -> Split:
        rows = (split.labels // half == number).nonzero().flatten()
        found = split.take(rows)
        return replace(found, labels=found.labels - number * half)

    first, second = (Data(part(on.train, n), part(on.test, n), task) for n in (0, 1))
    return first, second


class Encoder(nn.Module):
    """A transformer encoder of image patches: linear embedding, layers, mean, linear layer."""

    def __init__(self, classes: int, depth: int, *, width: int = 32, patch: int = 2) -> None:
        super().__init__()
        self.patch = patch
        self.embed = nn.Linear(patch * patch, width)
        self.position = nn.Parameter(0.02 * torch.randn(16, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits `[n, classes]` of images `[n, 1, 8, 8]`."""
        patches = nn.functional.unfold(image, self.patch, stride=self.patch).mT
        x = self.embed(patches) + self.position
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.linear(self.norm(x).mean(1))
        return logits


def half_depth(
    *,
    seed: int,
    data: str,
    depth: int,
    training: Mapping[str, Any],
    teacher_training: Mapping[str, Any],
    route: Literal["teacher", "half", "half from labels"],
    objective: ObjectiveLike = "label_only",
) -> dict[str, float]:
    """Distil a transformer into one of half its depth, whose layers are every other of the teacher.

    Args:
        seed: The seed.
        data: The data set, of images of 8 by 8 pixels.
        depth: The layers of the teacher, an even number.
        training: Settings of the student's training.
        teacher_training: Settings of the teacher's training.
        route: `teacher` returns the teacher's values; `half` starts from the teacher's layers and
            has its objective; `half from labels` starts from random weights.
        objective: The student's objective.

    Returns:
        `accuracy`, `parameters`, and `seconds` (CPU time of
        the test samples, the least of 5).

    Source: Sanh et al. 2019 (DistilBERT).
    """
    on = bench.data(data)
    large = _large(data, depth, _frozen(teacher_training), seed)
    net: nn.Module = large
    if route != "teacher":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = Encoder(on.classes, depth // 2)
        if route == "half":
            state = large.state_dict()
            kept = {k: v for k, v in state.items() if not k.startswith("layers.")}
            for number in range(depth // 2):
                place = f"layers.{2 * number}."
                kept |= {
                    k.replace(place, f"layers.{number}.", 1): v
                    for k, v in state.items()
                    if k.startswith(place)
                }
            net.load_state_dict(kept)
        teacher = large if route == "half" else None
        bench.train(net, on, objective, seed=seed, teacher=teacher, **training)
    times = []
    for _ in range(5):
        begun = time.process_time()
        found = bench.logits(net, on.test.inputs)
        times.append(time.process_time() - begun)
    return {
        "accuracy": bench.describe(found, on.test)["accuracy"],
        "parameters": bench.parameters(net),
        "seconds": min(times),
    }


@cache
def _large(data: str, depth: int, training: tuple[tuple[str, Any], ...], seed: int) -> nn.Module:
    on = bench.data(data)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1000 + seed)
        net = Encoder(on.classes, depth)
    return bench.train(net, on, seed=1000 + seed, **dict(training))
