"""A shipped student, loaded from its folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from limbeck.data.images import without_torch
from limbeck.data.preprocess import FILE, Preprocess, load, require_columns
from limbeck.errors import InputError, LimbeckError, Problem
from limbeck.export.predictor import OnnxPredictor

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

MODEL = "model.onnx"
LOGITS, VALUES = "logits", "values"
BATCH_SIZE = 32
MOST_PROBLEMS = 20
"""The most problems that one error lists."""


@dataclass(frozen=True)
class Prediction:
    """The prediction of one input.

    Attributes:
        label: The name of the most probable class.
        probability: Its probability.
        probabilities: The probability of every class, by name, in the order of the outputs.
    """

    label: str
    probability: float
    probabilities: dict[str, float]


@dataclass(frozen=True)
class Values:
    """The predicted values of one input, of a regression or of independent labels.

    Attributes:
        values: The value of every target, or the probability of every label, by name, in the order
            of the outputs.
    """

    values: dict[str, float]


class Student:
    """A shipped student: its preprocessing and its ONNX file, run by ONNX Runtime on the CPU.

    Args:
        folder: The student's folder.
        threads: Threads within one operator; None uses all cores.

    Attributes:
        folder: The student's folder.
        preprocess: The preprocessing, as in training.
        classes: The class names, in the order of the outputs; none for a regression.
        targets: The names of a regression's targets, in the order of the outputs.
    """

    def __init__(self, folder: Path, *, threads: int | None = None) -> None:
        self.folder = folder
        self.preprocess: Preprocess = load(folder)
        self.classes = self.preprocess.classes
        self.targets = tuple(target.name for target in self.preprocess.targets)
        self._predictor = OnnxPredictor(folder / MODEL, threads=threads)
        real = self.targets and VALUES in self._predictor.outputs
        self._output = VALUES if real else LOGITS
        if self._output not in self._predictor.outputs:
            given = f"outputs {', '.join(self._predictor.outputs)}"
            raise InputError(Problem(str(folder / MODEL), given, f"an output {self._output}"))

    @overload
    def predict(
        self, inputs: list[Any] | tuple[Any, ...], *, batch_size: int = ...
    ) -> list[Prediction] | list[Values]: ...
    @overload
    def predict(
        self, inputs: object, *, batch_size: int = ...
    ) -> Prediction | Values | list[Prediction] | list[Values]: ...
    def predict(
        self, inputs: object, *, batch_size: int = BATCH_SIZE
    ) -> Prediction | Values | list[Prediction] | list[Values]:
        """Predict raw inputs, with the preprocessing of the training.

        Args:
            inputs: One input, or a batch of them: a list or another iterable, an array or a tensor
                with one more axis, a pandas DataFrame of rows. An image is a path, encoded bytes, a
                PIL image, an array or a tensor `[h, w]`, `[c, h, w]` or `[h, w, c]`; a text is a
                `str`; a table row is a mapping of columns to cells.
            batch_size: The number of inputs that the model runs at once.

        Returns:
            One `Prediction` for one input, a list of them for a batch; `Values` of a regression.

        Raises:
            InputError: Inputs are missing or invalid; the message lists up to 20 problems.
            LimbeckError: A prediction is NaN.
        """
        single = self._is_single(inputs)
        found: list[Any] = [self._named(row) for row in self._rows(inputs, batch_size)]
        return found[0] if single else found

    def predict_proba(self, inputs: object, *, batch_size: int = BATCH_SIZE) -> NDArray[np.float64]:
        """Predict the class probabilities of inputs: `[n, classes]`, also for one input.

        The arguments and errors are those of `predict`; columns are in the order of `classes`, or
        the values of `targets`.
        """
        rows = list(self._rows(inputs, batch_size))
        return np.stack(rows) if rows else np.empty((0, len(self.classes or self.targets)))

    def stream(
        self, inputs: Iterable[tuple[str, object]], *, batch_size: int = BATCH_SIZE
    ) -> Iterator[Prediction | Values | InputError]:
        """Predict inputs in batches, in bounded memory; yield an error for each invalid one.

        Args:
            inputs: For each input its name in messages, and the input.
            batch_size: The number of inputs in memory.

        Yields:
            For each input in order its prediction, or the error that names it.
        """
        for found in self._stream(inputs, batch_size):
            yield found if isinstance(found, InputError) else self._named(found)

    def _rows(self, inputs: object, batch_size: int) -> Iterator[NDArray[np.float64]]:
        """Yield the probabilities of each input; raise all problems at the end."""
        problems: list[Problem] = []
        for found in self._stream(self._samples(inputs), batch_size):
            if not isinstance(found, InputError):
                yield found
                continue
            problems += found.problems
            if len(problems) >= MOST_PROBLEMS:
                break
        if problems:
            raise InputError(*problems[:MOST_PROBLEMS])

    def _stream(
        self, inputs: Iterable[tuple[str, object]], batch_size: int
    ) -> Iterator[NDArray[np.float64] | InputError]:
        if batch_size < 1:
            raise InputError(Problem("batch_size", batch_size, "a whole number above 0"))
        remaining = iter(inputs)
        while chunk := list(islice(remaining, batch_size)):
            valid: list[Any] = []
            errors: dict[int, InputError] = {}
            for number, (where, value) in enumerate(chunk):
                try:
                    valid.append(self.preprocess.read(value, where=where))
                except InputError as error:
                    errors[number] = error
            rows = iter(self._outputs(valid) if valid else ())
            for number in range(len(chunk)):
                yield errors[number] if number in errors else next(rows)

    def _outputs(self, samples: list[Any]) -> NDArray[np.float64]:
        inputs: Mapping[str, NDArray[Any]] = self.preprocess(samples)
        if len(names := self._predictor.inputs) == len(inputs) == 1:
            # The file of a Hugging Face folder names its input as transformers does.
            inputs = dict(zip(names, inputs.values(), strict=True))
        logits: NDArray[np.float64] = self._predictor.predict(inputs)[self._output].astype(
            np.float64
        )
        outputs, kind = self.classes or self.targets, "classes" if self.classes else "targets"
        if logits.shape[1:] != (len(outputs),):
            allowed = f"one output for each of the {len(outputs)} {kind} of {FILE}"
            given = f"outputs of shape {list(logits.shape)}"
            raise InputError(Problem(str(self.folder / MODEL), given, allowed))
        if np.isnan(logits).any():
            raise LimbeckError(f"{self.folder / MODEL}: a prediction is NaN")
        if self.targets:
            return logits if self._output == VALUES else 1 / (1 + np.exp(-logits))
        exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
        return exponents / exponents.sum(axis=1, keepdims=True)

    def _named(self, row: NDArray[np.float64]) -> Prediction | Values:
        if self.targets:
            return Values(dict(zip(self.targets, row.tolist(), strict=True)))
        values = dict(zip(self.classes, row.tolist(), strict=True))
        label = self.classes[int(row.argmax())]
        return Prediction(label, values[label], values)

    def _is_single(self, inputs: object) -> bool:
        if isinstance(inputs, str | bytes | Path | Mapping):
            return True
        if (axes := getattr(inputs, "ndim", None)) is not None:
            return axes in self.preprocess.sample_axes
        return not isinstance(inputs, Iterable)

    def _samples(self, inputs: Any) -> Iterable[tuple[str, object]]:
        """Return the names and values of one input or a batch."""
        inputs = without_torch(inputs)
        if self._is_single(inputs):
            return [("input", inputs)]
        if hasattr(inputs, "to_dict") and hasattr(inputs, "columns"):  # a pandas DataFrame
            require_columns(inputs.columns, self.preprocess.columns, where="inputs")
            inputs = inputs.astype(object).where(inputs.notna(), None).to_dict("records")
        return ((f"inputs[{number}]", value) for number, value in enumerate(inputs))


def load_student(folder: str | os.PathLike[str], *, threads: int | None = None) -> Student:
    """Load a shipped student, to predict raw inputs; torch is not needed.

    Args:
        folder: The student's folder, or the folder of the run that produced it. It may have been
            moved.
        threads: Threads within one operator of ONNX Runtime; None uses all cores.

    Raises:
        InputError: The folder is not that of a student, or a file in it is damaged.

    Example:
        >>> load_student("nowhere")
        Traceback (most recent call last):
        ...
        limbeck.errors.InputError: nowhere: got 'no such folder'; allowed: the folder of a ...
    """
    root = Path(folder)
    place = next((one for one in (root, root / "student") if (one / FILE).is_file()), None)
    if place is None or not (place / MODEL).is_file():
        missing = FILE if place is None else MODEL
        given = f"no {missing} in it" if root.is_dir() else "no such folder"
        allowed = f"the folder of a student, with {MODEL} and {FILE}, or of its run"
        raise InputError(Problem(str(root), given, allowed))
    return Student(place, threads=threads)
