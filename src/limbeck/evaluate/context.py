"""The evaluation context: a student and its teacher, evaluated on the same samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from limbeck.core.samples import Axes, sample_axis, select_samples
from limbeck.data.spec import NOT_INPUTS as BATCH_ENTRIES
from limbeck.errors import InputError, Problem
from limbeck.export.predictor import Predictions, Predictor, predict

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from limbeck.core.measurement import Metric
    from limbeck.export.predictor import Runnable
    from limbeck.tasks import Task


Batch = Mapping[str, Any]
Batches = Callable[[], Iterator[Batch]]
NOT_INPUTS = BATCH_ENTRIES | {"row"}
"""Batch entries that are not inputs of a model."""


@dataclass(frozen=True)
class TorchModel:
    """The torch model, for evaluations that need gradients: attacks and attributions.

    The exported file may be a quantised copy of it: results of its gradients are then verified on
    the file, and both values are reported.

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
class EvaluatedModel:
    """One evaluated model.

    Attributes:
        name: Its name in a sentence.
        predictor: The exported model, from which metrics are computed.
        torch_model: The same model in torch, or None.
        file: The exported file, for its cost; None if there is no file.
        seconds: Training time in seconds of one core; None if unknown.
        tested: Its predictions of all test samples, if they were computed before.
    """

    name: str
    predictor: Predictor
    torch_model: TorchModel | None = None
    file: Path | None = None
    seconds: float | None = None
    tested: Predictions | None = None


@dataclass(frozen=True)
class Normalization:
    """The normalization of pixels in [0, 1] to inputs, per channel: `(pixel - mean) / std`."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class TextInputs:
    """The texts of the samples in order, and the function that converts texts to inputs."""

    raw: Sequence[str]
    encode: Callable[[Sequence[str]], Mapping[str, Any]]


Role = Literal["teacher", "baseline", "student"]


@dataclass(frozen=True)
class TrainingCurve:
    """The validation score of one training after each epoch; `values` has an entry per epoch."""

    role: Role
    epochs: tuple[float, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class TermGradientNorm:
    """The gradient norm of a weighted term for the student's parameters, on one batch.

    Attributes:
        term: The name of the term.
        at: The weights: `start`, those before the distillation, or `end`, those after it.
        norm: The norm, times the weight of the term.
    """

    term: str
    at: Literal["start", "end"]
    norm: float


class TermGradients(NamedTuple):
    """The gradient norms of all terms on some batches, and notes on what was not measured."""

    norms: Sequence[TermGradientNorm] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Distillation:
    """The distillation that produced the student, for its diagnosis.

    Attributes:
        task: The task, whose primary score is compared.
        models: The exported files of that stage by role: the student before any compression, its
            label-only baseline and its teacher, as far as there are any.
        samples: The samples of a split, spread evenly, as batches of tensors without augmentation:
            of `train`, `validation` or `test`, at most so many.
        sizes: The number of samples of each of these splits; others are not available.
        seeds: The seeds of the run.
        scores: The test scores of all seeds, by role.
        curves: The trainings of all seeds.
        baseline: The name of the baseline.
        temperature: The highest temperature of a term; 1 without.
        gradients: Computes the gradient norm of every term on some training batches.
        notes: What is unavailable, as sentences.
    """

    task: Task
    models: Mapping[Role, Predictor]
    samples: Callable[[str, int], Iterator[Mapping[str, Tensor]]]
    sizes: Mapping[str, int]
    seeds: tuple[int, ...] = ()
    scores: Mapping[Role, tuple[float, ...]] = field(default_factory=dict)
    curves: Sequence[TrainingCurve] = ()
    baseline: str = "label-only student"
    temperature: float = 1.0
    gradients: Callable[[], TermGradients] = TermGradients
    notes: Sequence[str] = ()

    @property
    def metric(self) -> Metric:
        """Return the task's primary metric."""
        return self.task.scores[0].metric


@dataclass(frozen=True)
class EvaluationContext:
    """Two models and the samples on which they are evaluated.

    Attributes:
        student: The evaluated model.
        teacher: The reference, or None.
        batches: Iterates over the test samples in order, on every call; each batch holds the inputs
            and `labels`.
        validation: The same for the validation samples, on which temperatures and thresholds are
            fitted; nothing is fitted on test samples.
        classes: The classes' names.
        normalization: The normalization, if the samples are images.
        texts: The texts, if the samples are texts.
        sensitive_features: The group of each sample, by attribute: `[samples]` of names.
        max_samples: Number of samples of the costly evaluations, drawn by the seed.
        seed: Seed of everything random.
        axes: The names of each input's axes, where samples are not the first axis of each.
        example: The inputs of one sample, for its cost; by default cut from the first batch.
        distillation: The distillation that produced the student; None without one.
    """

    student: EvaluatedModel
    teacher: EvaluatedModel | None
    batches: Batches
    validation: Batches
    classes: tuple[str, ...]
    normalization: Normalization | None = None
    texts: TextInputs | None = None
    sensitive_features: Mapping[str, NDArray[np.str_]] = field(default_factory=dict)
    max_samples: int = 300
    seed: int = 0
    axes: Axes = field(default_factory=dict)
    example: Batch | None = None
    distillation: Distillation | None = None

    @cached_property
    def student_predictions(self) -> Predictions:
        """Return the student's predictions of the test samples."""
        return self.student.tested or predict(self.student.predictor, self.batches())

    @cached_property
    def teacher_predictions(self) -> Predictions | None:
        """Return the teacher's predictions of the test samples."""
        if self.teacher is None:
            return None
        return self.teacher.tested or predict(self.teacher.predictor, self.batches())

    @cached_property
    def samples_to_predict(self) -> int:
        """Return the number of test samples, or 0 if both models' predictions of them are known."""
        if all(side.tested is not None for _, side in self.models()):
            return 0
        return sum(len(batch["labels"]) for batch in self.batches())

    @cached_property
    def validation_size(self) -> int:
        """Return the number of validation samples."""
        return sum(len(batch["labels"]) for batch in self.validation())

    @cached_property
    def prediction_seconds(self) -> float:
        """Measure the seconds per sample of a prediction by both models, in a small batch."""
        probe = self._probe
        calls = [partial(side.predictor.predict, probe) for _, side in self.models()]
        return sum(map(_second_run_seconds, calls)) / len(probe["labels"])

    @cached_property
    def gradient_seconds(self) -> float:
        """Measure the seconds per sample of a gradient of both models."""
        return sum(_gradient_seconds(side, self._probe) for _, side in self.models())

    @cached_property
    def one(self) -> Mapping[str, NDArray[Any]]:
        """Return the inputs of one sample."""
        if self.example is not None:
            return {name: np.asarray(values) for name, values in self.example.items()}
        return select_samples(self._first, self.axes, slice(1))

    @cached_property
    def _first(self) -> Mapping[str, NDArray[Any]]:
        return {name: np.asarray(values) for name, values in next(iter(self.batches())).items()}

    @cached_property
    def _probe(self) -> Mapping[str, NDArray[Any]]:
        return select_samples(self._first, self.axes, slice(ROWS))

    @cached_property
    def sample(self) -> Mapping[str, NDArray[Any]]:
        """Return at most `max_samples` test samples, in order, drawn by the seed, with labels.

        Raises:
            InputError: Samples share inputs, such as the edges of a graph, and cannot be drawn.
        """
        shared = [name for name in self.axes if sample_axis(name, self.axes) is None]
        if shared:
            given = f"samples that share the inputs {', '.join(shared)}"
            allowed = "an evaluation of all samples: cost, fidelity, calibration, fairness"
            raise InputError(Problem("evaluations", given, allowed))
        batches = [{name: np.asarray(part) for name, part in b.items()} for b in self.batches()]
        whole = {name: _concatenated([batch[name] for batch in batches]) for name in batches[0]}
        random = np.random.default_rng(self.seed)
        rows = np.sort(random.permutation(len(whole["labels"]))[: self.max_samples])
        return {name: values[rows] for name, values in whole.items()} | {"row": rows}

    def checked_features(self) -> Mapping[str, NDArray[np.str_]]:
        """Return the sensitive features.

        Raises:
            InputError: An attribute does not name a group for every test sample.
        """
        total = len(self.student_predictions)
        problems = [
            Problem(f"groups.{name}", f"{len(groups)} names", f"{total}, one name per test sample")
            for name, groups in self.sensitive_features.items()
            if len(groups) != total
        ]
        if problems:
            raise InputError(*problems)
        return self.sensitive_features

    def models(self) -> Iterator[tuple[Literal["student", "teacher"], EvaluatedModel]]:
        """Yield the student, and the teacher if there is one."""
        yield "student", self.student
        if self.teacher is not None:
            yield "teacher", self.teacher


def model_inputs(batch: Batch) -> dict[str, Any]:
    """Return the entries of a batch that are inputs of a model.

    Example:
        >>> list(model_inputs({"image": [[0.5]], "labels": [3], "row": [7]}))
        ['image']
    """
    return {name: values for name, values in batch.items() if name not in NOT_INPUTS}


def _concatenated(parts: list[NDArray[Any]]) -> NDArray[Any]:
    """Concatenate batches; token ids of different lengths are padded with zeros."""
    if parts[0].ndim == 2:
        longest = max(part.shape[1] for part in parts)
        parts = [np.pad(part, ((0, 0), (0, longest - part.shape[1]))) for part in parts]
    return np.concatenate(parts)


ROWS = 16
"""Number of samples of the probe."""


@dataclass(frozen=True)
class Workload:
    """The work of an evaluation, per model.

    Attributes:
        predictions: Samples that the exported file predicts.
        gradients: Samples that the torch model runs forward and backward.
        seconds: Time that does not depend on the models.
    """

    predictions: int = 0
    gradients: int = 0
    seconds: float = 0.0


def describe(workload: Workload, context: EvaluationContext) -> str:
    """Describe a workload, with its seconds estimated by a measured probe of both models.

    The estimate is rough: it excludes the resampling of intervals and the overhead of libraries.
    """
    counts, seconds = [], workload.seconds
    if workload.predictions:
        counts.append(f"{workload.predictions:,} predictions")
        seconds += workload.predictions * context.prediction_seconds
    if workload.gradients:
        counts.append(f"{workload.gradients:,} gradients")
        seconds += workload.gradients * context.gradient_seconds
    each = f"{' and '.join(counts)} of each model, " if counts else ""
    return f"{each}about {max(1, round(seconds))} s"


def _gradient_seconds(side: EvaluatedModel, sample: Mapping[str, Any]) -> float:
    if side.torch_model is None:
        return 0.0
    import torch

    torch_model = side.torch_model
    device = next(torch_model.model.parameters(), torch.empty(0)).device
    batch = {
        name: torch.from_numpy(np.array(sample[name])).to(device)
        for name in torch_model.task.inputs
    }
    real = [tensor.requires_grad_() for tensor in batch.values() if tensor.is_floating_point()]

    def gradient() -> None:
        logits = torch_model.logits(batch)
        if real:
            torch.autograd.grad(logits.sum(), real)

    # Tokens have no gradients: the forward pass then counts as a third of both.
    return _second_run_seconds(gradient) / len(sample["labels"]) * (1 if real else 3)


def _second_run_seconds(call: Callable[[], object]) -> float:
    """Measure the second run of a call, without the setup of the first."""
    call()
    start = perf_counter()
    call()
    return perf_counter() - start
