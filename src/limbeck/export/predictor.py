"""One door to whatever answers, a torch module or an ONNX file; every figure comes through it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from limbeck.errors import InputError, LimbeckError, Problem
from limbeck.export.reading import check_file

if TYPE_CHECKING:
    from torch import nn

    from limbeck.export.runnable import Runnable


class Predictor(Protocol):
    """Anything that answers a batch."""

    def predict(self, batch: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """Answer a batch of tensors or arrays; entries that are no inputs (labels) are ignored."""
        ...


class TorchPredictor:
    """A torch module behind the door: run in eval mode without gradients, its mode restored after.

    Args:
        model: The module; it is run on the device that it is on.
        task: Names the inputs and runs the model.
    """

    def __init__(self, model: nn.Module, task: Runnable) -> None:
        self._model = model
        self._task = task

    def predict(self, batch: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """Answer a batch, `[n, ...]` an output."""
        import torch

        first = next(self._model.parameters(), torch.empty(0))
        tensors = {
            name: torch.as_tensor(batch[name]).to(first.device) for name in self._task.inputs
        }
        modes = {module: module.training for module in self._model.modules()}
        self._model.eval()
        try:
            with torch.no_grad():
                outputs = self._task.outputs(self._model, tensors)
        finally:
            for module, mode in modes.items():
                module.training = mode
        return {name: value.float().cpu().numpy() for name, value in outputs.items()}


class OnnxPredictor:
    """An ONNX file behind the door: ONNX Runtime on the CPU.

    Args:
        path: The file.
        threads: Threads within one operator; `None` takes all cores.

    Raises:
        InputError: The file is damaged or not safe to load.
        LimbeckError: The file is missing, or ONNX Runtime cannot load it.
    """

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        self._path = path
        self._session = _session(path, threads)
        self._inputs = {value.name: _numpy_type(value.type) for value in self._session.get_inputs()}
        self.outputs = tuple(value.name for value in self._session.get_outputs())

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the graph's inputs, in order."""
        return tuple(self._inputs)

    def predict(self, batch: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """Answer a batch, `[n, ...]` an output, in the types that the graph declares.

        Raises:
            InputError: An input of the graph is not in the batch.
            LimbeckError: The graph cannot answer the batch, since its shape does not fit.
        """
        feeds = self.feeds(batch)
        try:
            values = self._session.run(None, feeds)
        except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
            reason = " ".join(str(error).split())
            raise LimbeckError(f"{self._path}: ONNX Runtime cannot answer: {reason}") from error
        return dict(zip(self.outputs, values, strict=True))

    def feeds(self, batch: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """Take from a batch what the graph wants, in the types that it wants.

        Raises:
            InputError: An input of the graph is not in the batch.
        """
        missing = [name for name in self._inputs if name not in batch]
        if missing:
            raise InputError(Problem("batch", sorted(batch), f"a batch with {', '.join(missing)}"))
        return {name: np.asarray(batch[name], dtype=kind) for name, kind in self._inputs.items()}


def _session(path: Path, threads: int | None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Idle threads that spin take cores from whatever is measured next to them.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not path.exists():
        raise LimbeckError(f"{path}: there is no such ONNX file.")
    check_file(path)
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
        raise LimbeckError(f"{path}: ONNX Runtime cannot load it: {error}") from error


def _numpy_type(onnx_type: str) -> type[np.generic]:
    """Translate ONNX Runtime's name of a tensor type.

    Example:
        >>> _numpy_type("tensor(float)").__name__, _numpy_type("tensor(int64)").__name__
        ('float32', 'int64')
    """
    name = onnx_type.removeprefix("tensor(").removesuffix(")")
    kinds = {"float": "float32", "double": "float64", "bool": "bool_"}
    kind: type[np.generic] = getattr(np, kinds.get(name, name))
    return kind


@dataclass(frozen=True)
class Answers:
    """What a predictor answered to a whole split.

    Attributes:
        logits: `[n, classes]`, float32.
        labels: The right answers, `[n]`, int64.
    """

    logits: NDArray[np.float32]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


def answers(predictor: Predictor, batches: Iterable[Mapping[str, Any]]) -> Answers:
    """Answer every batch of a split, and keep the labels beside the answers.

    Args:
        predictor: Who answers; its output `logits` is kept.
        batches: Batches with the predictor's inputs and `label`.

    Raises:
        InputError: There is no batch.
        LimbeckError: An answer is NaN, so that no figure taken from it would mean anything.
    """
    logits: list[NDArray[np.float32]] = []
    labels: list[NDArray[np.int64]] = []
    for batch in batches:
        logits.append(np.asarray(predictor.predict(batch)["logits"], dtype=np.float32))
        labels.append(np.asarray(batch["label"], dtype=np.int64))
    if not labels:
        raise InputError(Problem("batches", "none", "at least one batch to answer"))
    together = Answers(np.concatenate(logits), np.concatenate(labels))
    if np.isnan(together.logits).any():
        count = int(np.isnan(together.logits).any(axis=1).sum())
        raise LimbeckError(
            f"{count} of {len(together)} answers hold NaN: the weights or the inputs are not finite"
        )
    return together
