"""The evaluation context: a student and its teacher, evaluated on the same samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from limbeck.evaluate.workload import gradient_seconds, prediction_seconds
from limbeck.export.predictor import Answers, Predictor, answers

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from limbeck.export.runnable import Runnable

Batch = Mapping[str, Any]
Batches = Callable[[], Iterator[Batch]]
BESIDE = frozenset({"label", "index", "view", "row"})
"""Batch entries that are not inputs of a model."""


@dataclass(frozen=True)
class Twin:
    """The torch model, for evaluations that need gradients: attacks and attributions.

    The exported file may be a quantised copy of it: what its gradients find is then checked on the
    file, and both values are reported.

    Attributes:
        model: The module, in eval mode, its parameters without gradients.
        task: Names the inputs and runs the model.
    """

    model: nn.Module
    task: Runnable

    def logits(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Compute the logits of a batch, differentiable in its inputs: `[n, classes]`."""
        return self.task.outputs(self.model, batch)["logits"]


@dataclass(frozen=True)
class Side:
    """One evaluated model.

    Attributes:
        name: Its name in a sentence.
        predictor: The exported model, from which metrics are computed.
        twin: The same model in torch, or None.
        file: The exported file, for its cost; None if there is no file.
        seconds: Training time in seconds of one core; None if unknown.
        tested: Its predictions of all test samples, if they were computed before.
    """

    name: str
    predictor: Predictor
    twin: Twin | None = None
    file: Path | None = None
    seconds: float | None = None
    tested: Answers | None = None


@dataclass(frozen=True)
class Pixels:
    """The normalization of pixels in [0, 1] to a model's inputs: `(pixel - mean) / std`.

    Attributes:
        mean: One number per channel.
        std: One number per channel.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Texts:
    """The texts of the samples, and their encoding.

    Attributes:
        raw: The texts, in the order of the samples.
        encode: Converts texts to the inputs of a model.
    """

    raw: Sequence[str]
    encode: Callable[[Sequence[str]], Mapping[str, Any]]


@dataclass(frozen=True)
class Sitting:
    """Two models and the samples on which they are evaluated.

    Attributes:
        student: The evaluated model.
        teacher: The reference, or None.
        batches: Iterates over the test samples in order, on every call; each batch holds the inputs
            and `label`.
        validation: The same for the validation samples, for whatever is fitted (a temperature, a
            threshold); nothing is fitted on test samples.
        classes: The classes' names.
        pixels: The normalization, if the samples are images.
        texts: The texts, if the samples are texts.
        groups: The group of each sample, by attribute: `[samples]` of names.
        limit: Number of samples of the costly evaluations, drawn by the seed.
        seed: Seed of everything random.
    """

    student: Side
    teacher: Side | None
    batches: Batches
    validation: Batches
    classes: tuple[str, ...]
    pixels: Pixels | None = None
    texts: Texts | None = None
    groups: Mapping[str, NDArray[np.str_]] = field(default_factory=dict)
    limit: int = 300
    seed: int = 0

    @cached_property
    def student_answers(self) -> Answers:
        """Return the student's predictions of the test samples."""
        return self.student.tested or answers(self.student.predictor, self.batches())

    @cached_property
    def teacher_answers(self) -> Answers | None:
        """Return the teacher's predictions of the test samples."""
        if self.teacher is None:
            return None
        return self.teacher.tested or answers(self.teacher.predictor, self.batches())

    @cached_property
    def to_answer(self) -> int:
        """Return the number of test samples, or 0 if both models' predictions of them are known."""
        given = [self.student.tested, self.teacher.tested if self.teacher else self.student.tested]
        if None not in given:
            return 0
        return sum(len(batch["label"]) for batch in self.batches())

    @cached_property
    def validation_size(self) -> int:
        """Return the number of validation samples."""
        return sum(len(batch["label"]) for batch in self.validation())

    @cached_property
    def prediction_seconds(self) -> float:
        """Measure the seconds per sample of a prediction by both models."""
        return sum(prediction_seconds(side, self.sample) for _, side in self.sides())

    @cached_property
    def gradient_seconds(self) -> float:
        """Measure the seconds per sample of a gradient of both models."""
        return sum(gradient_seconds(side, self.sample) for _, side in self.sides())

    @cached_property
    def sample(self) -> Mapping[str, NDArray[Any]]:
        """Return at most `limit` test samples, drawn by the seed and in order, with `label`."""
        batches = [{name: np.asarray(part) for name, part in b.items()} for b in self.batches()]
        whole = {name: _joined([batch[name] for batch in batches]) for name in batches[0]}
        count = len(whole["label"])
        random = np.random.default_rng(self.seed)
        rows = np.sort(random.permutation(count)[: self.limit])
        return {name: values[rows] for name, values in whole.items()} | {"row": rows}

    def sides(self) -> Iterator[tuple[Literal["student", "teacher"], Side]]:
        """Yield the student, and the teacher if there is one."""
        yield "student", self.student
        if self.teacher is not None:
            yield "teacher", self.teacher


def inputs(batch: Batch) -> dict[str, Any]:
    """Return the entries of a batch that are inputs of a model.

    Example:
        >>> list(inputs({"image": [[0.5]], "label": [3], "row": [7]}))
        ['image']
    """
    return {name: values for name, values in batch.items() if name not in BESIDE}


def _joined(parts: list[NDArray[Any]]) -> NDArray[Any]:
    """Concatenate batches of texts of different lengths into one array, padded with zeros."""
    longest = max(part.shape[1] if part.ndim > 1 else 0 for part in parts)
    if parts[0].ndim != 2:
        return np.concatenate(parts)
    return np.concatenate([np.pad(part, ((0, 0), (0, longest - part.shape[1]))) for part in parts])
