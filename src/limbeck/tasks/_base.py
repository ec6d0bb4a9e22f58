"""Base classes of tasks: of any elements, and of one prediction per sample."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch

from limbeck.core.samples import count_samples
from limbeck.errors import InputError, Problem
from limbeck.tasks._model_output import run
from limbeck.tasks.task import SAMPLE, Axes, Output, Response

if TYPE_CHECKING:
    from torch import Tensor, nn

    from limbeck.taps import Taps
    from limbeck.tasks.scores import Score
    from limbeck.tasks.task import Batch, Kind

AUDIO_INPUTS: Mapping[str, Axes] = {"audio": ("batch",)}
IMAGE_INPUTS: Mapping[str, Axes] = {"image": ("batch",)}
TABLE_INPUTS: Mapping[str, Axes] = {"features": ("batch",)}
TEXT_INPUTS: Mapping[str, Axes] = {
    "input_ids": ("batch", "tokens"),
    "attention_mask": ("batch", "tokens"),
}

VALUES = "values"
"""The output of a task with real targets."""


class BaseTask(ABC):
    """The part that all tasks share: the inputs of a batch, and no unlabelled elements.

    Subclasses state `name`, `inputs`, `element`, `kinds` and `scores`, and define the rest of
    `Task`.

    Attributes:
        reading: Code of the model card that runs the ONNX Runtime `session` on `inputs` and prints
            the outputs; `classes` are the names of the model's outputs.
        restoring: Code of the model card that turns the module's own output `logits` into the
            `outputs` of the file; empty if they are equal.
    """

    reading: ClassVar[str]
    restoring: ClassVar[str] = ""

    name: ClassVar[str]
    inputs: ClassVar[Mapping[str, Axes]]
    element: ClassVar[str]
    kinds: ClassVar[Mapping[str, Kind]]
    scores: tuple[Score, ...]

    def _take(self, batch: Batch, *names: str) -> dict[str, Tensor]:
        # The error is caught, since a check beforehand would cost time in every step.
        try:
            return {name: batch[name] for name in names}
        except (KeyError, IndexError, TypeError) as error:
            given = list(batch) if isinstance(batch, Mapping) else type(batch).__name__
            allowed = f"a mapping with {', '.join(self.inputs)}"
            raise InputError(Problem("batch", given, allowed)) from error

    @abstractmethod
    def raw_outputs(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Run the model; return its outputs as it predicts them, by name.

        Raises:
            InputError: The batch lacks an input; or no output of the model, or more than one, fits.
        """

    def outputs(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Run the model; return its outputs as exports have them, by name.

        Raises:
            InputError: As for `raw_outputs`.
        """
        return self.raw_outputs(model, batch)

    def labelled(self, batch: Batch) -> dict[str, Tensor]:
        """Return which elements have a label, for outputs where some have none: here for none."""
        return {}

    def _with_labels(self, response: Response) -> tuple[Tensor, Tensor]:
        """Return the values and the labels of the primary output."""
        output = response.primary
        if output.values is None or output.labels is None:
            allowed = f"labels, one per {self.element}, for a loss against the labels"
            raise InputError(Problem("batch.labels", None, allowed))
        return output.values, output.labels


class PerSample(BaseTask):
    """Tasks with one prediction per sample, each sample one element; subclasses add the rest."""

    element: ClassVar[str] = SAMPLE

    @property
    def _output(self) -> str:
        [name] = self.kinds
        return name

    @property
    @abstractmethod
    def _width(self) -> int:
        """Return the number of values per sample."""

    def _run(self, model: nn.Module, batch: Batch) -> tuple[Tensor, tuple[Tensor, ...]]:
        return run(model, self._take(batch, *self.inputs), classes=self._width)

    def raw_outputs(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Run the model on the task's inputs; return its output `[n, width]` by name.

        Raises:
            InputError: The batch lacks an input; or no output of the model, or more than one, fits.
        """
        return {self._output: self._run(model, batch)[0]}

    def respond(self, model: nn.Module, batch: Batch, taps: Taps | None = None) -> Response:
        """Run the model on a batch; elements are its samples, in order.

        Raises:
            InputError: As for `outputs`.
        """
        values, auxiliary = self._run(model, batch)
        return self._response(values, batch, taps, auxiliary)

    def _label_rows(self, labels: Tensor, values: Tensor) -> Tensor:
        """Return real labels as rows that fit the values, `[n, targets]`."""
        rows = labels.unsqueeze(1) if labels.ndim == 1 else labels
        if rows.shape != values.shape:
            allowed = f"{list(values.shape)}, one per sample and output"
            raise InputError(Problem("batch.labels", list(labels.shape), allowed))
        return rows.to(values.dtype)

    def _response(
        self,
        values: Tensor,
        batch: Batch,
        taps: Taps | None,
        auxiliary: tuple[Tensor, ...],
    ) -> Response:
        """Build the response of a batch; elements are its samples, in order."""
        mask, labels, labelled = (batch.get(n) for n in ("attention_mask", "labels", "labelled"))
        if labels is not None and labelled is not None:
            labels = labels.masked_fill(~labelled, 0)  # any valid class: its loss is left out
        output = Output(
            values,
            weights=self.weights(batch)[self._output],
            sample_of=torch.arange(values.shape[0], device=values.device),
            labels=labels,
            labelled=labelled,
            auxiliary=auxiliary,
        )
        return Response(
            {self._output: output},
            taps={} if taps is None else taps.take(),
            index=batch.get("index"),
            mask=None if mask is None else mask.bool(),
        )

    def weights(self, batch: Batch) -> dict[str, Tensor]:
        """Return the batch's `weight`, or 1, for every sample, `[n]`."""
        if "weight" in batch:
            return {self._output: batch["weight"]}
        inputs = self._take(batch, *self.inputs)
        [first, *_] = inputs.values()
        samples = count_samples(inputs, self.inputs)
        return {self._output: torch.ones(samples, device=first.device)}

    def labelled(self, batch: Batch) -> dict[str, Tensor]:
        """Return which samples have a label, if the batch has `labelled`."""
        return {self._output: batch["labelled"]} if "labelled" in batch else {}
