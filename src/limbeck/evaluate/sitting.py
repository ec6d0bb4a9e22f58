"""What a question may look at: a student and its teacher before the same samples."""

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
"""What a batch holds beside the inputs of a model."""


@dataclass(frozen=True)
class Twin:
    """A model in torch, for what needs gradients: attacks, and where an answer came from.

    The file that ships may have been quantised after it: what its gradients found is then held
    against the file, and both figures are said.

    Attributes:
        model: The module, in eval mode, its parameters without gradients.
        task: Names the inputs and runs the model.
    """

    model: nn.Module
    task: Runnable

    def logits(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Answer a batch with a way back to its inputs: `[n, classes]`."""
        return self.task.outputs(self.model, batch)["logits"]


@dataclass(frozen=True)
class Side:
    """One of the two models.

    Attributes:
        name: What it is called in a sentence.
        predictor: What ships; figures are taken from it.
        twin: The same model with gradients, or none.
        file: The file that ships, for what it costs; none if there is no file.
        seconds: What its training took, in seconds of one core; none if that is not known.
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
    """How the numbers that a model takes come from pixels in [0, 1]: `(pixel - mean) / std`.

    Attributes:
        mean: One number a channel.
        std: One number a channel.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Texts:
    """The sentences behind the samples, and how they become a batch.

    Attributes:
        raw: The sentences, in the order of the samples.
        encode: Turns sentences into the inputs of a model.
    """

    raw: Sequence[str]
    encode: Callable[[Sequence[str]], Mapping[str, Any]]


@dataclass(frozen=True)
class Sitting:
    """Two models before the same samples.

    Attributes:
        student: What is examined.
        teacher: What it is held against, or none.
        batches: Goes through the test samples in order, as often as it is called; each batch holds
            the inputs and `label`.
        validation: The same for the validation samples, for whatever has to be fitted (a
            temperature, a threshold); test samples fit nothing.
        classes: The classes' names.
        pixels: How pixels become inputs, if the samples are pictures.
        texts: The sentences, if the samples are texts.
        groups: To whom each sample belongs, by attribute: `[samples]` of names.
        limit: How many samples the costly questions look at, drawn by the seed.
        seed: For whatever is drawn by chance.
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
        """The student's predictions of the test samples."""
        return self.student.tested or answers(self.student.predictor, self.batches())

    @cached_property
    def teacher_answers(self) -> Answers | None:
        """The teacher's predictions of the test samples."""
        if self.teacher is None:
            return None
        return self.teacher.tested or answers(self.teacher.predictor, self.batches())

    @cached_property
    def to_answer(self) -> int:
        """The number of test samples, or 0 if both models' predictions of them are known."""
        given = [self.student.tested, self.teacher.tested if self.teacher else self.student.tested]
        if None not in given:
            return 0
        return sum(len(batch["label"]) for batch in self.batches())

    @cached_property
    def validation_size(self) -> int:
        """The number of validation samples."""
        return sum(len(batch["label"]) for batch in self.validation())

    @cached_property
    def prediction_seconds(self) -> float:
        """Seconds per sample until both models have predicted it, as measured."""
        return sum(prediction_seconds(side, self.sample) for _, side in self.sides())

    @cached_property
    def gradient_seconds(self) -> float:
        """Seconds per sample of a gradient of both models, as measured."""
        return sum(gradient_seconds(side, self.sample) for _, side in self.sides())

    @cached_property
    def sample(self) -> Mapping[str, NDArray[Any]]:
        """At most `limit` test samples as arrays, drawn by the seed and in order, with `label`."""
        batches = [{name: np.asarray(part) for name, part in b.items()} for b in self.batches()]
        whole = {name: _joined([batch[name] for batch in batches]) for name in batches[0]}
        count = len(whole["label"])
        random = np.random.default_rng(self.seed)
        rows = np.sort(random.permutation(count)[: self.limit])
        return {name: values[rows] for name, values in whole.items()} | {"row": rows}

    def sides(self) -> Iterator[tuple[Literal["student", "teacher"], Side]]:
        """Give the student, and the teacher if there is one."""
        yield "student", self.student
        if self.teacher is not None:
            yield "teacher", self.teacher


def inputs(batch: Batch) -> dict[str, Any]:
    """Take from a batch what goes into a model, without what stands beside it.

    Example:
        >>> list(inputs({"image": [[0.5]], "label": [3], "row": [7]}))
        ['image']
    """
    return {name: values for name, values in batch.items() if name not in BESIDE}


def _joined(parts: list[NDArray[Any]]) -> NDArray[Any]:
    """Put batches of texts of different lengths into one array, padded with zeros."""
    longest = max(part.shape[1] if part.ndim > 1 else 0 for part in parts)
    if parts[0].ndim != 2:
        return np.concatenate(parts)
    return np.concatenate([np.pad(part, ((0, 0), (0, longest - part.shape[1]))) for part in parts])
