"""A shipped student, loaded from its folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from limbeck.data.images import without_torch
from limbeck.data.label import PlacesLabels
from limbeck.data.preprocess import FILE, Preprocess, load, require_columns
from limbeck.errors import InputError, LimbeckError, Problem
from limbeck.export.predictor import OnnxPredictor
from limbeck.serving.generation import GREEDY, Generation, GenerationConfig, Generator
from limbeck.serving.predictions import Detections, Prediction, Result, Values, form_of

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

MODEL = "model.onnx"
BATCH_SIZE = 32
MOST_PROBLEMS = 20
"""The most problems that one error lists."""


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
        where = str(folder / MODEL)
        self._generates = self._predictor.generates
        if not self._generates:
            self._form = form_of(self._predictor.output_axes, self.preprocess, where=where)

    def _reads(self, name: str) -> bool:
        return name in self._predictor.inputs_read

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the names of a prediction's columns in a table, those of `Result.row`."""
        if self._generates:
            return ("text", "tokens")
        return tuple(self._form.columns(self.preprocess))

    @overload
    def predict(
        self, inputs: list[Any] | tuple[Any, ...], *, batch_size: int = ...
    ) -> list[Any]: ...
    @overload
    def predict(self, inputs: object, *, batch_size: int = ...) -> Any: ...
    def predict(self, inputs: object, *, batch_size: int = BATCH_SIZE) -> Any:
        """Predict raw inputs, with the preprocessing of the training.

        Args:
            inputs: One input, or a batch of them: a list or another iterable, an array or a tensor
                with one more axis, a pandas DataFrame of rows. An image is a path, encoded bytes, a
                PIL image, an array or a tensor `[h, w]`, `[c, h, w]` or `[h, w, c]`; a sound is a
                path, encoded bytes, a mapping of `array` and `sampling_rate`, or an array
                `[samples]` of the student's rate; a text is a `str`; a table row is a mapping
                of columns to cells; a sequence of words is a text, or a list of words in the
                list of inputs.
            batch_size: The number of inputs that the model runs at once.

        Returns:
            One result for one input, a list of them for a batch: a `Prediction` of a class, the
            `Values` of a regression or of independent labels, the `Detections` of objects, in
            pixels of the given image, a `Segmentation`, a `Forecast`, the `Tags` of words with
            their entities, or the `Generation` of a text, as in `limbeck.serving.predictions`.

        Raises:
            InputError: Inputs are missing or invalid; the message lists up to 20 problems.
            LimbeckError: A prediction is NaN.
        """
        single = self._is_single(inputs)
        found = list(self._results(inputs, batch_size))
        return found[0] if single else found

    @property
    def generates(self) -> bool:
        """Return whether the student is a causal language model, which generates texts."""
        return self._generates

    @cached_property
    def generator(self) -> Generator:
        """Return the generator of a causal language model.

        Raises:
            InputError: The student is another model.
        """
        return Generator(self._predictor, self.preprocess, where=self.folder / MODEL)

    @overload
    def generate(  # type: ignore[overload-overlap]  # a text is a sequence of texts
        self,
        prompts: str,
        *,
        max_new_tokens: int = ...,
        temperature: float = ...,
        top_p: float = ...,
        seed: int = ...,
        batch_size: int = ...,
    ) -> Generation: ...
    @overload
    def generate(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int = ...,
        temperature: float = ...,
        top_p: float = ...,
        seed: int = ...,
        batch_size: int = ...,
    ) -> list[Generation]: ...
    def generate(
        self,
        prompts: str | Sequence[str],
        *,
        max_new_tokens: int = GREEDY.max_new_tokens,
        temperature: float = GREEDY.temperature,
        top_p: float = GREEDY.top_p,
        seed: int = GREEDY.seed,
        batch_size: int = BATCH_SIZE,
    ) -> Generation | list[Generation]:
        """Generate texts with a causal language model, greedily by default.

        Args:
            prompts: One prompt, or several.
            max_new_tokens: The largest number of new tokens; the end token ends a text before.
            temperature: 0 is greedy; above, tokens are sampled.
            top_p: The probability of the nucleus that is sampled from.
            seed: The seed of sampling.
            batch_size: The number of prompts that the model runs at once, padded on the left.

        Returns:
            A `Generation` for one prompt, a list of them for several.

        Raises:
            InputError: The student is no language model, a setting is out of its range, or a prompt
                has no token or too many.
        """
        config = GenerationConfig(max_new_tokens, temperature, top_p, seed)
        if isinstance(prompts, str):
            return self.generator.generate([prompts], config)[0]
        parts = [prompts[at : at + batch_size] for at in range(0, len(prompts), batch_size)]
        return [one for part in parts for one in self.generator.generate(part, config)]

    def predict_proba(self, inputs: object, *, batch_size: int = BATCH_SIZE) -> NDArray[np.float64]:
        """Predict the class probabilities of inputs: `[n, classes]`, also for one input.

        The arguments are those of `predict`; columns are in the order of `classes`, or the values
        of `targets`.

        Raises:
            InputError: As for `predict`, or the student predicts several elements per input.
        """
        rows = [_numbers(one) for one in self._results(inputs, batch_size)]
        return np.stack(rows) if rows else np.empty((0, len(self.classes or self.targets)))

    def stream(
        self,
        inputs: Iterable[tuple[str, object]],
        *,
        batch_size: int = BATCH_SIZE,
        generation: GenerationConfig = GREEDY,
    ) -> Iterator[Result | InputError]:
        """Predict inputs in batches, in bounded memory; yield an error for each invalid one.

        Args:
            inputs: For each input its name in messages, and the input.
            batch_size: The number of inputs in memory.
            generation: The settings of a language model's generation.

        Yields:
            For each input in order its prediction, or the error that names it.
        """
        if batch_size < 1:
            raise InputError(Problem("batch_size", batch_size, "a whole number above 0"))
        remaining = iter(inputs)
        while chunk := list(islice(remaining, batch_size)):
            valid: list[Any] = []
            sizes: list[tuple[int, int] | None] = []
            errors: dict[int, InputError] = {}
            for number, (where, value) in enumerate(chunk):
                try:
                    opened, size = self.preprocess.opened(value, where=where)
                    self.preprocess.require(opened, self._reads, where=where)
                    valid.append(self.preprocess.read(opened, where=where))
                    sizes.append(size)
                except InputError as error:
                    errors[number] = error
            found: Iterator[Result] = iter(())
            if valid and self._generates:
                found = iter(self.generator.generate(valid, generation))
            elif valid:
                found = self._read(valid, sizes)
            for number in range(len(chunk)):
                yield errors[number] if number in errors else next(found)

    def _results(self, inputs: object, batch_size: int) -> Iterator[Result]:
        """Yield the prediction of each input; raise all problems at the end."""
        problems: list[Problem] = []
        for found in self.stream(self._samples(inputs), batch_size=batch_size):
            if not isinstance(found, InputError):
                yield found
                continue
            problems += found.problems
            if len(problems) >= MOST_PROBLEMS:
                break
        if problems:
            raise InputError(*problems[:MOST_PROBLEMS])

    def _read(self, samples: list[Any], sizes: list[tuple[int, int] | None]) -> Iterator[Result]:
        inputs: Mapping[str, NDArray[Any]] = self.preprocess(samples)
        if len(names := self._predictor.inputs) == len(inputs) == 1:
            # The file of a Hugging Face folder names its input as transformers does.
            inputs = dict(zip(names, inputs.values(), strict=True))
        outputs = self._predictor.predict(inputs)
        values, *further = (outputs[name] for name in (self._form.output, *self._form.further))
        if np.isnan(values).any():
            raise LimbeckError(f"{self.folder / MODEL}: a prediction is NaN")
        more = {"samples": samples} if self._form.takes_samples else {}
        results = self._form.read(values, self.preprocess, *further, **more)
        for result, size in zip(results, sizes, strict=True):
            prepare = self.preprocess
            if isinstance(result, Detections) and isinstance(prepare, PlacesLabels) and size:
                result = replace(result, boxes=prepare.restore_boxes(result.boxes, size))
            yield result

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


def _numbers(result: Result) -> NDArray[np.float64]:
    if isinstance(result, Prediction):
        return np.array(list(result.probabilities.values()))
    if isinstance(result, Values):
        return np.array(list(result.values.values()))
    allowed = "a student with one prediction per input"
    raise InputError(Problem("predict_proba", type(result).__name__, allowed, "Use predict."))


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
