"""Predictors: a torch model and an ONNX file behind one interface."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from limbeck.core.modules import evaluating
from limbeck.core.samples import BATCH
from limbeck.errors import InputError, LimbeckError, Problem
from limbeck.export.names import IDS, LOGITS, MASK, PAST, PRESENT
from limbeck.export.reading import check_file

if TYPE_CHECKING:
    from torch import Tensor, nn


class Runnable(Protocol):
    """The part of a task that an export needs; every `limbeck.tasks.task.Task` has it."""

    @property
    def inputs(self) -> Mapping[str, tuple[str | None, ...]]:
        """Return the batch's input tensors, in order, with the names of their varying axes."""

    def outputs(self, model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the model on a batch, and return its outputs by name."""


Translations: TypeAlias = Mapping[Callable[..., Any], Callable[..., Any]]
"""Functions that write operators in ONNX, by operator; see `torch.onnx.export`."""


@runtime_checkable
class HasOperators(Protocol):
    """A task whose outputs are decoded by operators of its own, such as suppression."""

    @property
    def decoded(self) -> tuple[str, ...]:
        """Return the names of the decoded outputs."""

    def translations(self) -> Translations:
        """Return the ONNX translations of the operators."""


class Predictor(Protocol):
    """A model that predicts a batch."""

    def predict(self, batch: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """Predict a batch of tensors or arrays; entries that are not inputs are ignored."""


class TorchPredictor:
    """A torch module as a predictor: run in eval mode without gradients, its mode restored after.

    Args:
        model: The module, run on its present device.
        task: Defines the inputs and runs the model.
    """

    def __init__(self, model: nn.Module, task: Runnable) -> None:
        self._model = model
        self._task = task

    def predict(self, batch: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """Predict a batch, `[n, ...]` per output."""
        import torch

        first = next(self._model.parameters(), torch.empty(0))
        inputs = self._task.inputs
        tensors = {name: torch.as_tensor(batch[name]).to(first.device) for name in inputs}
        with evaluating(self._model), torch.no_grad():
            outputs = self._task.outputs(self._model, tensors)
        return {name: value.float().cpu().numpy() for name, value in outputs.items()}


class OnnxPredictor:
    """An ONNX file as a predictor: ONNX Runtime on the CPU.

    A file of a causal language model has logits `[n, tokens, vocabulary]`, and may have a key-value
    cache, which is empty here; its predictions are `[n, vocabulary, tokens]`, 0 at padding. `run`
    generates.

    Args:
        path: The file.
        threads: Threads within one operator; `None` uses all cores.

    Attributes:
        axes: The size of every axis of each input, or its name if it varies; without the cache.
        output_axes: The same of each output.
        outputs: The names of the outputs.
        cache: The axes of each input of the key-value cache; none without one.

    Raises:
        InputError: The file is damaged or unsafe to load.
        LimbeckError: The file is missing, or ONNX Runtime cannot load it.
    """

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        self._path = path
        self._session = _session(path, threads)
        self._inputs = {value.name: _numpy_type(value.type) for value in self._session.get_inputs()}
        axes, outputs = (
            _axes(one, path) for one in (self._session.get_inputs(), self._session.get_outputs())
        )
        self.axes = {name: one for name, one in axes.items() if not name.startswith(PAST)}
        self.cache = {name: one for name, one in axes.items() if name.startswith(PAST)}
        self.output_axes = {
            name: one for name, one in outputs.items() if not name.startswith(PRESENT)
        }
        self._by_token = _is_language_model(self.axes, self.output_axes)
        if self._by_token:
            batch, tokens, vocabulary = self.output_axes[LOGITS]
            self.output_axes[LOGITS] = (batch, vocabulary, tokens)
        self.outputs = tuple(self.output_axes)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Return the names of the graph's inputs, in order, without the cache."""
        return tuple(self.axes)

    @property
    def generates(self) -> bool:
        """Return whether it is the file of a causal language model."""
        return self._by_token

    @cached_property
    def inputs_read(self) -> frozenset[str]:
        """Return the names of the inputs that the graph reads: a file may have further ones."""
        from limbeck.export.reading import read_model
        from limbeck.export.slim import names_read

        return frozenset(self._inputs) & names_read(read_model(self._path).graph)

    def predict(self, batch: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """Predict a batch, `[n, ...]` per output, in the types declared by the graph.

        Raises:
            InputError: An input of the graph is not in the batch.
            LimbeckError: The graph cannot run the batch, since its shape does not fit.
        """
        feeds = self.feeds(batch)
        found = dict(zip(self.outputs, self.run(feeds, list(self.outputs)), strict=True))
        if self._by_token:
            kept = feeds[MASK][:, None, :] > 0
            found[LOGITS] = np.where(kept, found[LOGITS].swapaxes(1, 2), np.float32(0))
        return found

    def run(
        self, feeds: Mapping[str, NDArray[Any]], outputs: list[str] | None = None
    ) -> list[NDArray[Any]]:
        """Return the graph's outputs as they are, of all its inputs.

        Args:
            feeds: The graph's inputs, in the declared types.
            outputs: The names of the outputs; all by default.

        Raises:
            LimbeckError: The graph cannot run them, since a shape does not fit.
        """
        try:
            values: list[NDArray[Any]] = self._session.run(outputs, dict(feeds))
        except Exception as error:  # ONNX Runtime's exceptions have no common base class
            reason = " ".join(str(error).split())
            raise LimbeckError(f"{self._path}: ONNX Runtime cannot run it: {reason}") from error
        return values

    def feeds(self, batch: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """Return the graph's inputs of a batch, in the declared types; the cache is empty.

        Raises:
            InputError: An input of the graph is not in the batch.
        """
        missing = [name for name in self.axes if name not in batch]
        if missing:
            raise InputError(Problem("batch", sorted(batch), f"a batch with {', '.join(missing)}"))
        samples = len(batch[IDS]) if self.cache else 0
        values = {**{name: _empty(axes, samples) for name, axes in self.cache.items()}, **batch}
        return {name: np.asarray(values[name], dtype=kind) for name, kind in self._inputs.items()}


def _empty(axes: Sequence[int | str | None], samples: int) -> NDArray[np.float32]:
    """Return a part of the cache without tokens."""
    sizes = [size if isinstance(size, int) else 0 for size in axes]
    return np.zeros((samples, *sizes[1:]), dtype=np.float32)


def _is_language_model(
    inputs: Mapping[str, Sequence[object]], outputs: Mapping[str, Sequence[object]]
) -> bool:
    axes = outputs.get(LOGITS, ())
    last = len(axes) == 3 and isinstance(axes[2], int) and not isinstance(axes[1], int)
    return last and {IDS, MASK} <= {*inputs}


def _session(path: Path, threads: int | None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Spinning idle threads would distort whatever is measured next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not path.exists():
        raise LimbeckError(f"{path}: there is no such ONNX file.")
    check_file(path)
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no common base class
        raise LimbeckError(f"{path}: ONNX Runtime cannot load it: {error}") from error


def _axes(values: Iterable[Any], path: Path) -> dict[str, tuple[int | str | None, ...]]:
    try:
        return {value.name: tuple(value.shape) for value in values}
    except UnicodeDecodeError as error:  # the name of an axis, which ONNX Runtime does not check
        raise LimbeckError(f"{path}: ONNX Runtime cannot load it: {error}") from error


def _numpy_type(onnx_type: str) -> type[np.generic]:
    """Return the NumPy type of an ONNX Runtime tensor type, such as `tensor(float)`."""
    name = onnx_type.removeprefix("tensor(").removesuffix(")")
    kinds = {"float": "float32", "double": "float64", "bool": "bool_"}
    kind: type[np.generic] = getattr(np, kinds.get(name, name))
    return kind


def take_samples(
    inputs: Mapping[str, Any], axes: Mapping[str, Sequence[object]], rows: Sequence[int]
) -> dict[str, NDArray[Any]]:
    """Select samples along the axis `batch`, from the start again after the last one.

    Args:
        inputs: Tensors or arrays by name.
        axes: The names of each input's axes; inputs without `batch`, such as the edges of a graph,
            are returned whole.
        rows: The numbers of the samples.

    Example:
        >>> inputs = {"x": np.arange(4).reshape(2, 2), "edges": np.zeros((2, 5))}
        >>> taken = take_samples(inputs, {"x": ("batch", 2), "edges": (2, "edges")}, [0, 1, 2])
        >>> taken["x"].tolist(), taken["edges"].shape
        ([[0, 1], [2, 3], [0, 1]], (2, 5))
    """
    arrays = {name: np.asarray(value) for name, value in inputs.items()}
    return {
        name: np.take(value, rows, axis=axes[name].index(BATCH), mode="wrap")
        if BATCH in axes.get(name, ())
        else value
        for name, value in arrays.items()
    }


def bytes_per_sample(predictor: Predictor, sample: Mapping[str, Any]) -> int:
    """Return the size of a sample's inputs and outputs, by one prediction of it."""
    arrays = (*map(np.asarray, sample.values()), *predictor.predict(sample).values())
    return sum(one.nbytes for one in arrays)


@dataclass(frozen=True)
class Predictions:
    """The primary output and the labels of a whole split, of a task with one element per sample.

    Attributes:
        logits: `[n, classes]`, float32; the values of another output are `[n, ...]`.
        labels: The labels, `[n]`, int64; numeric targets are float32 `[n, ...]`.
    """

    logits: NDArray[np.float32]
    labels: NDArray[Any]

    def __len__(self) -> int:
        return len(self.labels)


def predict(predictor: Predictor, batches: Iterable[Mapping[str, Any]]) -> Predictions:
    """Predict every batch of a split, and collect logits and labels.

    Args:
        predictor: The predictor; its first output is kept.
        batches: Batches with the predictor's inputs and `labels`.

    Raises:
        InputError: There is no batch.
        LimbeckError: A prediction is NaN, so that every metric would be meaningless.
    """
    logits: list[NDArray[np.float32]] = []
    labels: list[NDArray[Any]] = []
    for batch in batches:
        [first, *_] = predictor.predict(batch).values()
        logits.append(np.asarray(first, dtype=np.float32))
        labels.append(np.asarray(batch["labels"]))
    if not labels:
        raise InputError(Problem("batches", "none", "at least one batch"))
    predictions = Predictions(np.concatenate(logits), np.concatenate(labels))
    if np.isnan(predictions.logits).any():
        count = int(np.isnan(predictions.logits).any(axis=1).sum())
        cause = "the weights or the inputs are not finite"
        raise LimbeckError(f"{count} of {len(predictions)} predictions are NaN: {cause}")
    return predictions
