"""Preprocessing of images, texts and table rows to arrays, saved with the student.

`preprocess.json` is enough to reproduce it without limbeck, with numpy and PIL, or with the
tokenizer.json beside it and the `tokenizers` library:

- images: open with PIL, `ImageOps.exif_transpose`, `convert(mode)`, `resize((size[1], size[0]),
  resample)` if the size differs; then as float32 `(pixels / divide_by - mean) / std` for each
  channel, channels first;
- texts: `Tokenizer.from_file("tokenizer.json").encode_batch(texts)` truncates and pads as in
  training;
- in each, `classes` are the class names in the order of the outputs; `targets` are those of
  a regression, whose file returns them in their own units and whose weights standardised;
- table rows: for each numeric column `(number - mean) / std`, 0 if it is missing, and with `flag` 1
  if it is missing; then for each categorical column a one-hot encoding of its value in `values`,
  with one more feature for any other value. `kind` is the type of the values in training; a whole
  number has no decimal point. Numbers are computed in float64, features are float32.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError

from limbeck.core import files, fingerprint
from limbeck.core.imports import require
from limbeck.data.columns import (
    Categorical,
    Column,
    Numeric,
    kind_of,
    name_of,
    number,
    python_value,
)
from limbeck.data.images import open_image, upright
from limbeck.data.spec import LARGEST_SIDE, LONGEST_TEXT
from limbeck.errors import InputError, Problem, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray
    from PIL import Image

FILE, TOKENIZER, VERSION = "preprocess.json", "tokenizer.json", 1
CHUNK = 10_000
MOST_PROBLEMS = 20
WRITTEN = "the content that limbeck writes"
LARGEST_FILE = 256 * 2**20
Side = Annotated[int, Field(gt=0, le=LARGEST_SIDE)]
Length = Annotated[int, Field(gt=0, le=LONGEST_TEXT)]
Count = Annotated[int, Field(ge=0, lt=2**31)]
Divisor = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Deviation = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class _Saved:
    """The part shared by all preprocessing: a hash, and the file preprocess.json.

    Attributes:
        sample_axes: The numbers of axes of an array that is one sample, not a batch.
    """

    sample_axes: ClassVar[tuple[int, ...]] = (0,)

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns of a row that are needed; none if a sample is not a row."""
        return ()

    @property
    def fingerprint(self) -> str:
        """Return a hash of the preprocessing: equal inputs, equal hash."""
        content = asdict(self)
        del content["classes"], content["targets"]  # these change no input
        return fingerprint.of_json(content)

    def _write(self, folder: Path, **more: object) -> Path:
        files.write_json(folder / FILE, {**asdict(self), "version": VERSION, **more})
        return folder / FILE


@dataclass(frozen=True)
class Target:
    """A numeric target, with its mean and standard deviation over the training rows.

    `binary` is whether all training values are 0 or 1.
    """

    name: str
    mean: float
    std: Deviation
    binary: bool = False


@dataclass(frozen=True)
class ImagePreprocess(_Saved):
    """Image preprocessing: from an image to model inputs.

    Attributes:
        size: Height and width.
        channels: 1 for grey, 3 for colour.
        divide_by: The divisor that scales pixels to [0, 1].
        mean: The mean per channel, subtracted next.
        std: The standard deviation per channel, the divisor.
        classes: The class names, in the order of the model's outputs.
        targets: A regression's targets, in the order of the model's outputs.
    """

    size: tuple[Side, Side]
    channels: Annotated[int, Field(ge=1, le=3)]
    divide_by: Divisor
    mean: tuple[float, ...]
    std: tuple[Divisor, ...]
    kind: Literal["image"] = "image"
    resample: Literal["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"] = "bilinear"
    classes: tuple[str, ...] = ()
    targets: tuple[Target, ...] = ()

    sample_axes: ClassVar[tuple[int, ...]] = (0, 2, 3)

    @property
    def _mode(self) -> str:
        return "L" if self.channels == 1 else "RGB"

    def model_inputs(self) -> dict[str, int]:
        """Return the input dimensions of a model, as arguments for `limbeck.models.build.build`."""
        return {"channels": self.channels}

    def pixels(self, image: Image.Image | NDArray[Any]) -> NDArray[Any]:
        """Convert an image to pixels `[channels, height, width]`, not yet scaled.

        Raises:
            ValueError: An array is in colour but grey is required.

        Example:
            >>> prepare = ImagePreprocess((4, 4), 3, 255.0, (0.0,) * 3, (1.0,) * 3)
            >>> prepare.pixels(np.zeros((1, 8, 8), dtype=np.uint8)).shape
            (3, 4, 4)
        """
        if isinstance(image, np.ndarray):
            return self._array(image)
        array = np.asarray(self._resize(upright(image).convert(self._mode)))
        return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)

    def _array(self, array: NDArray[Any]) -> NDArray[Any]:
        from PIL import Image

        if len(array) == 3 and self.channels == 1:
            raise ValueError("the array has 3 channels; data.image.channels allows 1")
        if array.shape[1:] != self.size:
            planes = [self._resize(Image.fromarray(np.ascontiguousarray(plane))) for plane in array]
            array = np.stack([np.asarray(plane) for plane in planes])
        return np.repeat(array, self.channels, axis=0) if len(array) < self.channels else array

    def _resize(self, image: Image.Image) -> Image.Image:
        from PIL import Image

        height, width = self.size
        if image.size == (width, height):
            return image
        return image.resize((width, height), Image.Resampling[self.resample.upper()])

    def normalise(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """Normalise pixels `[n, channels, height, width]` to model inputs, in float32.

        Example:
            >>> prepare = ImagePreprocess((1, 1), 1, 16.0, (0.25,), (0.5,))
            >>> prepare.normalise(np.full((1, 1, 1, 1), 8, dtype=np.uint8)).item()
            0.5
        """
        # A copy, so that the next steps may work in place.
        inputs = pixels.astype(np.float32)
        inputs /= np.float32(self.divide_by)
        inputs -= np.array(self.mean, dtype=np.float32)[:, None, None]
        inputs /= np.array(self.std, dtype=np.float32)[:, None, None]
        return inputs

    def fill_value(self) -> NDArray[np.float32]:
        """Return the value of a black pixel, `[channels]`: the fill value beyond an edge."""
        return self.normalise(np.zeros((1, self.channels, 1, 1))).reshape(-1)

    def __call__(
        self, images: Sequence[Image.Image | NDArray[Any]]
    ) -> dict[str, NDArray[np.float32]]:
        """Convert images to model inputs: `{"image": [n, channels, height, width]}`."""
        return {"image": self.normalise(np.stack([self.pixels(image) for image in images]))}

    def read(self, image: object, *, where: str) -> NDArray[Any]:
        """Convert an image as a user has it to pixels `[channels, height, width]`.

        A path, encoded bytes and a PIL image have 256 levels. An array has the scale of the
        training: whole numbers up to `divide_by`, or floats if that is 1.

        Raises:
            InputError: The image cannot be decoded, or an array has another scale.

        Example:
            >>> prepare = ImagePreprocess((4, 4), 3, 255.0, (0.0,) * 3, (1.0,) * 3)
            >>> prepare.read(np.zeros((8, 8), dtype=np.uint8), where="image").shape
            (3, 4, 4)
        """
        opened = open_image(image, where=where)
        if not isinstance(opened, np.ndarray):
            pixels = self.pixels(opened)
            return pixels if self.divide_by == 255 else pixels * np.float32(self.divide_by / 255)
        if len(opened) > self.channels:
            given, fix = f"an array of {len(opened)} channels", "Convert it to grey."
            raise InputError(Problem(where, given, "1 channel, as in training", fix))
        return self.pixels(self._to_scale(opened, where))

    def _to_scale(self, array: NDArray[Any], where: str) -> NDArray[Any]:
        """Return an array in the type of the training; raise if its values have another scale."""
        if array.size == 0 or not np.isfinite(array).all():
            given = "no pixels" if array.size == 0 else "NaN or infinity"
            raise InputError(Problem(where, given, "an image of finite numbers"))
        floats, largest = array.dtype.kind == "f", float(array.max())
        if self.divide_by == 1:
            if not floats:
                fix = "Scale the values as for the training."
                raise InputError(Problem(where, "whole numbers", "floats, as in training", fix))
            return array
        if largest > self.divide_by or (floats and 0 < largest <= 1):
            allowed = f"values from 0 to {self.divide_by:g}, as in training"
            raise InputError(Problem(where, f"values up to {largest:.6g}", allowed))
        whole = floats and array.min() >= 0 and (array == np.rint(array)).all()
        return array.astype(np.uint8) if whole else array

    def save(self, folder: Path) -> list[Path]:
        """Write preprocess.json; return the paths written."""
        return [self._write(folder, mode=self._mode, layout="NCHW")]


@dataclass(frozen=True)
class TextPreprocess(_Saved):
    """Text preprocessing: from a text to token ids.

    Attributes:
        tokenizer: The content of tokenizer.json, with its truncation and padding.
        max_length: Texts are truncated to this many tokens.
        pad: The id of the padding token.
        vocab_size: The size of the vocabulary.
        classes: The class names, in the order of the model's outputs.
        targets: A regression's targets, in the order of the model's outputs.
    """

    tokenizer: str
    max_length: Length
    pad: Count
    vocab_size: Count
    kind: Literal["text"] = "text"
    classes: tuple[str, ...] = ()
    targets: tuple[Target, ...] = ()

    def model_inputs(self) -> dict[str, int]:
        """Return the input dimensions of a model, as arguments for `limbeck.models.build.build`."""
        return {"vocab_size": self.vocab_size, "pad_token": self.pad}

    @cached_property
    def _encoder(self) -> Any:
        return require("tokenizers", extra="text").Tokenizer.from_str(self.tokenizer)

    def __call__(self, texts: Sequence[str]) -> dict[str, NDArray[np.int64]]:
        """Tokenize texts: return `input_ids` and `attention_mask`, `[n, longest]`."""
        encodings = self._encoder.encode_batch(list(texts))
        return {
            "input_ids": np.array([encoding.ids for encoding in encodings], np.int64),
            "attention_mask": np.array([one.attention_mask for one in encodings], np.int64),
        }

    @cached_property
    def _may_have_no_token(self) -> bool:
        """Return whether the tokenizer adds no special token, so that a text may have none."""
        return not any(self._encoder.encode("").attention_mask)

    def read(self, text: object, *, where: str) -> str:
        """Return a text; raise if it is not one, or has no token.

        Raises:
            InputError: The value is not a text, or the tokenizer has no token for it.
        """
        if not isinstance(text, str):
            raise InputError(Problem(where, text, "a text"))
        if self._may_have_no_token and not any(self._encoder.encode(text).attention_mask):
            raise InputError(Problem(where, text, "a text with at least one token"))
        return text

    def tokens(self, texts: Sequence[str]) -> Iterator[tuple[NDArray[np.int32], bool]]:
        """Yield each text's token ids, truncated but not padded, and whether it was truncated."""
        encoder = require("tokenizers", extra="text").Tokenizer.from_str(self.tokenizer)
        encoder.no_padding()
        for start in range(0, len(texts), CHUNK):
            for encoding in encoder.encode_batch_fast(list(texts[start : start + CHUNK])):
                yield np.asarray(encoding.ids, dtype=np.int32), bool(encoding.overflowing)

    def save(self, folder: Path) -> list[Path]:
        """Write preprocess.json and tokenizer.json; return the paths written."""
        files.write_text(folder / TOKENIZER, self.tokenizer)
        return [self._write(folder, tokenizer=TOKENIZER), folder / TOKENIZER]


@dataclass(frozen=True)
class TablePreprocess(_Saved):
    """Table preprocessing: from a table row to features.

    Attributes:
        numeric: The numeric columns, in the order of their features.
        categorical: The categorical columns, whose features come after all numeric ones.
        classes: The class names, in the order of the model's outputs.
        targets: A regression's targets, in the order of the model's outputs.
    """

    numeric: tuple[Numeric, ...]
    categorical: tuple[Categorical, ...]
    kind: Literal["table"] = "table"
    classes: tuple[str, ...] = ()
    targets: tuple[Target, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the names of all columns."""
        return (*(one.name for one in self.numeric), *(one.name for one in self.categorical))

    @property
    def width(self) -> int:
        """Return the number of features."""
        return sum(one.width for one in self.numeric) + sum(one.width for one in self.categorical)

    def model_inputs(self) -> dict[str, int]:
        """Return the input dimensions of a model, as arguments for `limbeck.models.build.build`."""
        return {"table_features": self.width}

    def numbers(
        self, columns: Mapping[str, NDArray[np.float64]], *, rows: int
    ) -> NDArray[np.float32]:
        """Standardise the numeric columns, `[rows]` each, NaN where a number is missing.

        Returns:
            The first features, float32 `[rows, numbers and flags]`.
        """
        parts = [part for one in self.numeric for part in one.features(columns[one.name])]
        stacked: NDArray[np.float64] = np.vstack([np.empty((0, rows)), *parts])
        return np.ascontiguousarray(stacked.T, dtype=np.float32)

    def places(self, columns: Mapping[str, Column], *, rows: int) -> NDArray[np.int64]:
        """Return the one-hot indices of the categorical columns: int64 `[rows, columns]`."""
        return self._shifted([one.places(columns[one.name]) for one in self.categorical], rows)

    def _shifted(self, places: list[NDArray[np.int64]], rows: int) -> NDArray[np.int64]:
        """Offset each column's indices to indices among all features."""
        start = sum(one.width for one in self.numeric)
        shifted = np.empty((rows, len(places)), dtype=np.int64)
        for column, one in enumerate(self.categorical):
            shifted[:, column] = start + places[column]
            start += one.width
        return shifted

    def features(
        self, numbers: NDArray[np.float32], places: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Concatenate the results of `numbers` and `places`: float32 `[n, width]`."""
        features = np.zeros((len(numbers), self.width), dtype=np.float32)
        features[:, : numbers.shape[1]] = numbers
        features[np.arange(len(places))[:, None], places] = 1.0
        return features

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, NDArray[np.float32]]:
        """Convert table rows to model inputs: `{"features": [n, width]}`; None is missing.

        Cells may be texts, as a CSV reader returns, or typed: both result in the features of
        training.

        Raises:
            ValueError: A cell of a numeric column is not a number.

        Example:
            >>> age, sex = Numeric("age", 40.0, 10.0, False), Categorical("sex", ("f", "m"))
            >>> prepare = TablePreprocess((age,), (sex,))
            >>> prepare([{"age": 50, "sex": "m"}])["features"].tolist()
            [[1.0, 0.0, 1.0, 0.0]]
        """
        numbers, places = {}, []
        for one in self.numeric:
            numbers[one.name] = np.array([number(row[one.name]) for row in rows])
        for column in self.categorical:
            cells = [python_value(row[column.name]) for row in rows]
            found = [column.place(name_of(cell), kind_of(cell)) for cell in cells]
            places.append(np.array(found, np.int64))
        standardised = self.numbers(numbers, rows=len(rows))
        return {"features": self.features(standardised, self._shifted(places, len(rows)))}

    def read(self, row: object, *, where: str) -> Mapping[str, Any]:
        """Return a table row; raise if a column is missing, or a cell has no valid value.

        Raises:
            InputError: A column is missing, or a cell is no number; lists every problem.

        Example:
            >>> prepare = TablePreprocess((Numeric("age", 40.0, 10.0, False),), ())
            >>> prepare.read({"agee": 50}, where="row 0")
            Traceback (most recent call last):
            ...
            limbeck.errors.InputError: row 0: ... allowed: the columns age. did you mean "agee"?
        """
        if not isinstance(row, Mapping):
            allowed = f"a mapping (a JSON object) with the columns {', '.join(self.columns)}"
            raise InputError(Problem(where, row, allowed))
        require_columns(row, self.columns, where=where)
        problems = []
        for name in self.columns:
            is_number = any(name == one.name for one in self.numeric)
            try:
                (number if is_number else name_of)(row[name])
            except Exception:  # a cell may be any object
                allowed = "a number" if is_number else "a text, a number, a boolean, a date"
                allowed += ", or None if it is missing"
                problems.append(Problem(f"{where}, {name}", row[name], allowed))
        if problems:
            raise InputError(*problems)
        return row

    def save(self, folder: Path) -> list[Path]:
        """Write preprocess.json; return the paths written."""
        return [self._write(folder, width=self.width)]


def require_columns(given: Iterable[str], needed: Sequence[str], *, where: str) -> None:
    """Raise unless all needed columns are given.

    Raises:
        InputError: Columns are missing: the message lists all that are needed.
    """
    names = list(given)
    missing = [name for name in needed if name not in names]
    if missing:
        stated = f"no column {', '.join(missing)}"
        hint = did_you_mean(missing[0], names)
        raise InputError(Problem(where, stated, f"the columns {', '.join(needed)}", hint))


Preprocess = ImagePreprocess | TextPreprocess | TablePreprocess


def load(folder: Path) -> Preprocess:
    """Load the preprocessing written by `save`.

    Raises:
        InputError: There is no preprocess.json, or its content is invalid.
    """
    path = folder / FILE
    content = files.read_json(path, limit=LARGEST_FILE)
    if not isinstance(content, dict):
        given, allowed = type(content).__name__, "a JSON object, as limbeck writes it"
        raise InputError(Problem(str(path), given, allowed))
    version = content.get("version")
    if version != VERSION:
        fix = "It was written by another version of limbeck."
        raise InputError(Problem(str(path), f"version {version}", f"version {VERSION}", fix))
    if content.get("kind") == "text":
        content["tokenizer"] = files.read_text(folder / TOKENIZER, limit=LARGEST_FILE)
    adapter: TypeAdapter[Preprocess] = TypeAdapter(
        Annotated[ImagePreprocess | TextPreprocess | TablePreprocess, Field(discriminator="kind")]
    )
    try:
        return adapter.validate_json(json.dumps(content))
    except RecursionError as error:
        raise InputError(Problem(str(path), "values nested too deeply", WRITTEN)) from error
    except ValidationError as error:
        problems = [
            Problem(".".join([str(path), *map(str, one["loc"])]), one["input"], WRITTEN, one["msg"])
            for one in error.errors()[:MOST_PROBLEMS]
        ]
        raise InputError(*problems) from error
