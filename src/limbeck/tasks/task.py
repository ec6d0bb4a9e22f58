"""The protocol of tasks, and the response and outputs that losses receive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from limbeck.core.samples import sample_axis
from limbeck.errors import InputError, Problem
from limbeck.tasks.scores import Score

if TYPE_CHECKING:
    from limbeck.taps import Taps

Batch = Mapping[str, Tensor]
Kind: TypeAlias = Literal["categorical", "binary", "value", "quantiles", "embedding"]
"""What an output predicts: exclusive classes, independent labels, real values, quantiles of values,
or vectors whose direction counts."""


Axes: TypeAlias = tuple[str | None, ...]
"""The names of an input's axes whose size varies, from the first on; None for an axis of fixed
size. Axes that are not listed are fixed. Equal names have equal sizes: `batch` counts samples."""


@dataclass(frozen=True)
class Output:
    """One output of a model for a batch, flattened to its own elements.

    An element is one item that one prediction describes: an image, a token, a pixel, a box. Outputs
    of one model may have different elements: a detector's classes are over anchors, its boxes over
    anchors with an object.

    Attributes:
        values: The predictions, `[elements, ...]`; logits of categorical and binary outputs. None
            if the output has hidden states and a head in their place.
        weights: The weight per element, `[elements]`; 0 excludes an element.
        sample_of: The index of each element's sample in the batch, `[elements]`.
        labels: The labels, `[elements, ...]`; None if there are none.
        labelled: Whether an element has a label, `[elements]`; None if all or none have. Terms
            against labels are means over these elements.
        hidden: For large heads, the input of the head, `[elements, dimension]`.
        head: For large heads, the head itself.
        softcap: The soft cap c of the head's logits, c · tanh(z / c); None without.
        auxiliary: The values of auxiliary heads, shaped as `values`; in training mode only.
    """

    values: Tensor | None
    weights: Tensor
    sample_of: Tensor
    labels: Tensor | None = None
    labelled: Tensor | None = None
    hidden: Tensor | None = None
    head: nn.Module | None = None
    softcap: float | None = None
    auxiliary: tuple[Tensor, ...] = ()

    @property
    def classes(self) -> int | None:
        """Return the size of the last axis of the predictions; None for one value per element."""
        if self.values is not None:
            return self.values.shape[-1] if self.values.ndim > 1 else None
        weight = getattr(self.head, "weight", None)
        return weight.shape[0] if isinstance(weight, Tensor) else None

    def logits(self, rows: Tensor) -> Tensor:
        """Return the values of some elements, of a head computed from their hidden states.

        Args:
            rows: The indices of the elements, int64 `[selected]`.
        """
        if self.values is not None:
            return self.values[rows]
        if self.hidden is None or self.head is None:
            raise ValueError("an output without values, and without hidden states and a head")
        return capped(self.head(self.hidden[rows]), self.softcap)


@dataclass(frozen=True)
class Response:
    """The output of a model for a batch.

    Attributes:
        outputs: The model's outputs by name; the first is the primary one.
        taps: The outputs of tapped modules, by path, `[samples, ...]`.
        index: The index of each sample in the data set, `[samples]`; None if unknown.
        mask: The mask of non-padding positions, `[samples, positions]`; None without padding.
    """

    outputs: Mapping[str, Output]
    taps: Mapping[str, Tensor] = field(default_factory=dict)
    index: Tensor | None = None
    mask: Tensor | None = None

    @property
    def primary(self) -> Output:
        """Return the primary output."""
        return next(iter(self.outputs.values()))

    def name_of(self, output: str | None) -> str:
        """Return the name of an output; None is the primary one.

        Raises:
            InputError: There is no such output.
        """
        if output is None:
            return next(iter(self.outputs))
        if output not in self.outputs:
            raise InputError(Problem("output", output, f"one of {', '.join(self.outputs)}"))
        return output


class Task(Protocol):
    """The interpretation of a batch for a model: one class and file per task."""

    @property
    def name(self) -> str:
        """Return the task's name in a recipe."""
        ...

    @property
    def inputs(self) -> Mapping[str, Axes]:
        """Return the batch tensors that are model inputs, in order, with their named axes."""
        ...

    @property
    def reading(self) -> str:
        """Return code of the model card that runs the exported file and prints its outputs."""
        ...

    @property
    def restoring(self) -> str:
        """Return code that turns a module's own output into those of the file; empty if equal."""
        ...

    @property
    def element(self) -> str:
        """Return what one prediction of the primary output describes: a sample, pixel, step, ..."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes; none for other tasks than classification."""
        ...

    @property
    def kinds(self) -> Mapping[str, Kind]:
        """Return the kind of each output, by name; the first output is the primary one."""
        ...

    def raw_outputs(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Run the model; return the outputs of `kinds` as it predicts them, each `[n, ...]`.

        Logits of several elements per sample are `[n, classes, ...]`, as in torch; real values are
        standardised. An ensemble averages these.
        """
        ...

    def outputs(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Run the model; exports have these outputs, each `[n, ...]`.

        Values are in the targets' units. Outputs that are not among `kinds` are decisions, such as
        the boxes that suppression leaves.
        """
        ...

    def respond(self, model: nn.Module, batch: Batch, taps: Taps | None = None) -> Response:
        """Run the model once and flatten each output to its elements."""
        ...

    def weights(self, batch: Batch) -> dict[str, Tensor]:
        """Return the weights of each output's elements, before any model has run.

        The sums of all micro-batches are the divisors of a step's means, so that its gradient does
        not depend on how the step is divided.
        """
        ...

    def labelled(self, batch: Batch) -> dict[str, Tensor]:
        """Return which elements have a label, for outputs where some have none."""
        ...

    def loss(self, response: Response) -> dict[str, Tensor]:
        """Compute the loss against the labels: one value per element of each output named."""
        ...

    @property
    def scores(self) -> tuple[Score, ...]:
        """Return the task's metrics; the first one selects epochs and is compared everywhere."""
        ...


class RealTarget(Protocol):
    """A numeric target: its name, and its mean and standard deviation over the training rows."""

    @property
    def name(self) -> str:
        """Return the name of its column."""
        ...

    @property
    def mean(self) -> float:
        """Return the mean."""
        ...

    @property
    def std(self) -> float:
        """Return the standard deviation, above 0."""
        ...

    @property
    def binary(self) -> bool:
        """Return whether all training values are 0 or 1."""
        ...


class TaskData(Protocol):
    """The properties of a data set that a task is built from (`limbeck.data.load.Data`)."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes; none for numeric targets."""
        ...

    @property
    def order_stated(self) -> bool:
        """Return whether the recipe states the classes, and with them their order."""
        ...

    @property
    def mixes_labels(self) -> bool:
        """Return whether training labels are mixtures of two, by mixup or CutMix."""
        ...

    @property
    def targets(self) -> Sequence[RealTarget]:
        """Return the numeric targets; none for classes."""
        ...

    @property
    def preprocess(self) -> object:
        """Return the preprocessing, which may state more, such as the horizon of a forecast."""
        ...


def capped(logits: Tensor, softcap: float | None) -> Tensor:
    """Apply a soft cap c to logits z, c · tanh(z / c); None leaves them.

    Example:
        >>> capped(torch.tensor([1000.0]), 30.0)
        tensor([30.])
    """
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def is_classifier(task: Task) -> bool:
    """Return whether a task predicts one class per sample: its outputs are logits `[n, classes]`.

    Calibration, confusion matrix and agreement of classes are defined for these tasks only.
    """
    return task.element == SAMPLE and next(iter(task.kinds.values())) == "categorical"


def common_classes(task: Task) -> int:
    """Return the number of classes that every model of a categorical task has.

    Those of the data, or the tokens of the tokenizer: a model may have more for padding.
    """
    return len(task.classes) or int(getattr(task, "vocabulary", 0))


def shares_inputs(task: Task) -> bool:
    """Return whether samples share inputs, which have no axis `batch`: the edges of a graph.

    Such samples can be neither drawn one by one nor changed one by one.
    """
    return any(sample_axis(name, task.inputs) is None for name in task.inputs)


def element_rows(values: NDArray[Any], kind: Kind) -> NDArray[Any]:
    """Return an output as one row per element, `[elements, width]`.

    Logits are `[n, classes, ...]`, other kinds `[n, ..., width]`.

    Example:
        >>> element_rows(np.zeros((2, 3, 4, 5)), "categorical").shape
        (40, 3)
    """
    last = values.shape[-1]
    if values.ndim > 2 and kind in ("categorical", "binary"):
        values, last = np.moveaxis(values, 1, -1), values.shape[1]
    return values.reshape(-1, last)


def primary_output(task: Task, model: nn.Module, batch: Batch) -> Tensor:
    """Run a model, and return the values of the task's primary output, `[n, ...]`."""
    return next(iter(task.outputs(model, batch).values()))


def total_weights(task: Task, batch: Batch) -> dict[str, Tensor]:
    """Sum the weights of a batch's elements by output, and of those with a label (`labels_of`)."""
    weights = task.weights(batch)
    labelled = {name: weights[name] * one for name, one in task.labelled(batch).items()}
    return {
        **{name: one.sum() for name, one in weights.items()},
        **{labels_of(name): one.sum() for name, one in labelled.items()},
    }


def mean_loss(task: Task, response: Response) -> Tensor:
    """Compute the task's loss of a batch: the weighted mean of each output, summed over outputs."""
    means = []
    for name, values in task.loss(response).items():
        output = response.outputs[name]
        weights = output.weights if output.labelled is None else output.weights * output.labelled
        least = torch.finfo(weights.dtype).tiny
        means.append((values * weights).sum() / weights.sum().clamp_min(least))
    return torch.stack(means).sum()


def labels_of(output: str) -> str:
    """Return the key of the summed weights of an output's elements with a label."""
    return f"{output}/labels"


IGNORED = -100
"""The label of an element that counts nowhere, as in torch and transformers."""

SAMPLE = "sample"
"""The element of a task with one prediction per sample."""
