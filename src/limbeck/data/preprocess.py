"""Preprocessing of raw values to arrays, saved with the student as preprocess.json.

The file is enough to reproduce it without limbeck; each modality's module describes its content. In
each, `kind` is the modality and `classes` are the class names in the order of the outputs;
`targets` are those of a regression, whose file returns them in their own units and whose weights
standardised.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Protocol, Self, TypeAlias, Union, cast

from pydantic import Field, TypeAdapter, ValidationError

from limbeck.core import files, fingerprint
from limbeck.data.modality import MODALITIES
from limbeck.errors import InputError, Problem, did_you_mean

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from limbeck.data.settings import Section

FILE, VERSION = "preprocess.json", 1
MOST_PROBLEMS = 20
WRITTEN = "the content that limbeck writes"
LARGEST_FILE = 256 * 2**20
Divisor = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Bounds: TypeAlias = tuple["NDArray[np.float32]", "NDArray[np.float32]"]
"""The least and the greatest model input per channel, `[channels]` each."""
Named = tuple[str, Any]
"""The name of an input in messages, and the input."""


@dataclass(frozen=True)
class Target:
    """A numeric target, with its mean and standard deviation over the training rows.

    `binary` is whether all training values are 0 or 1.
    """

    name: str
    mean: float
    std: Divisor
    binary: bool = False


@dataclass(frozen=True)
class Statistics:
    """The mean and standard deviation per channel that normalise inputs scaled to [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Tokenizer:
    """The tokenizer of a preprocessing: the text of its tokenizer.json, and its maximum length."""

    text: str
    max_length: int


@dataclass(frozen=True)
class HuggingFace:
    """The form of a folder that transformers loads.

    Attributes:
        pipeline: The pipeline's name, such as `image-classification`.
        model: The end of the class's name after `AutoModelFor`.
        example: An input of the pipeline, as code.
        code: Code that loads the model and defines `outputs`.
        arguments: Further arguments of the pipeline, as code.
        raw: The name in `code` of a list of texts in place of the prepared inputs; empty for none.
    """

    pipeline: str
    model: str
    example: str
    code: str
    arguments: str = ""
    raw: str = ""


class Stated(Protocol):
    """Statements in a trained model's files about its inputs; None if not stated."""

    @property
    def origin(self) -> str:
        """Return the files that were read, for messages."""
        ...

    @property
    def size(self) -> tuple[int, int] | None:
        """Return the height and width of images."""
        ...

    @property
    def interpolation(self) -> str | None:
        """Return the interpolation of the resize."""
        ...

    @property
    def tokenizer(self) -> Path | None:
        """Return the folder of the tokenizer's files."""
        ...

    @property
    def vocab_size(self) -> int | None:
        """Return the number of token embeddings."""
        ...

    @property
    def max_length(self) -> int | None:
        """Return the number of token positions."""
        ...

    @property
    def pad(self) -> int | None:
        """Return the id of the padding token."""
        ...

    @property
    def preprocess(self) -> Mapping[str, Any] | None:
        """Return the content of the preprocess.json beside the weights."""
        ...


class Comparison(Protocol):
    """The comparison of what a trained model's files state with the data's preprocessing."""

    @property
    def where(self) -> str:
        """Return the model's key in the recipe."""
        ...

    @property
    def found(self) -> Stated:
        """Return what the model's files state."""
        ...

    @property
    def trained(self) -> bool:
        """Return whether the model is trained further in this run."""
        ...

    @property
    def section(self) -> Section | None:
        """Return the modality's settings in the recipe, if it gives any."""
        ...

    def texts(self, count: int) -> list[str]:
        """Return the first training rows, as texts."""
        ...

    def note(self, text: str) -> None:
        """Add a note on the model."""
        ...

    def refuse(self, where: str, given: object, allowed: str, fix: str = "") -> None:
        """Add a contradiction."""
        ...


class Preprocess(ABC):
    """Preprocessing from one raw value to model inputs; each modality has a dataclass of it.

    Attributes:
        kind: The modality; in each class a `Literal` of its own, by which files are loaded.
        classes: The class names, in the order of the model's outputs.
        targets: A regression's targets, in the order of the model's outputs.
        sample_axes: The numbers of axes of an array that is one sample, not a batch.
        raw_texts: Whether raw rows are texts, `raw(row)["text"]`, which the call converts.
        huggingface: The form of a folder that transformers loads; None if there is none.
    """

    kind: str
    classes: tuple[str, ...]
    targets: tuple[Target, ...]
    sample_axes: ClassVar[tuple[int, ...]] = (0,)
    raw_texts: ClassVar[bool] = False
    huggingface: ClassVar[HuggingFace | None] = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns of a row that are needed; none if a sample is not a row."""
        return ()

    @property
    def outputs(self) -> tuple[str, ...]:
        """Return the names of a model's outputs per sample: the classes, or the targets."""
        return self.classes or tuple(one.name for one in self.targets)

    @property
    def statistics(self) -> Statistics | None:
        """Return the statistics that normalise inputs; None if there are none."""
        return None

    @property
    def bounds(self) -> Bounds | None:
        """Return the model inputs of the least and the greatest raw value; None if unbounded."""
        return None

    @property
    def tokenization(self) -> Tokenizer | None:
        """Return the tokenizer; None if there is none."""
        return None

    @property
    def fingerprint(self) -> str:
        """Return a hash of the preprocessing: equal inputs, equal hash."""
        content = self._content()
        del content["classes"], content["targets"]  # these change no input
        return fingerprint.of_json(content)

    def _content(self) -> dict[str, Any]:
        """Return the fields; those that are None are left out, as before they were added."""
        content = asdict(cast("Any", self))
        return {name: value for name, value in content.items() if value is not None}

    def _write(self, folder: Path, **more: object) -> Path:
        files.write_json(folder / FILE, {**self._content(), "version": VERSION, **more})
        return folder / FILE

    def model_inputs(self) -> dict[str, int]:
        """Return the input dimensions of a model, as arguments for `limbeck.models.build.build`."""
        return {}

    def image_processor(self) -> dict[str, Any] | None:
        """Return the arguments of `limbeck.export.huggingface.image_processor`; None for none."""
        return None

    def special_tokens(self) -> dict[str, int]:
        """Return the ids of a language model's special tokens: `bos`, `eos` and `pad`."""
        return {}

    @property
    def chat_template(self) -> str | None:
        """Return the chat template of a language model's tokenizer; None for none."""
        return None

    @abstractmethod
    def __call__(self, samples: Sequence[Any]) -> dict[str, NDArray[Any]]:
        """Convert values that `read` returned to model inputs, by name."""

    @abstractmethod
    def read(self, value: object, *, where: str) -> Any:
        """Return one raw value of a user, checked.

        Raises:
            InputError: The value is not of this modality.
        """

    def opened(self, value: Any, *, where: str) -> tuple[Any, tuple[int, int] | None]:
        """Return a raw value for `read`, and the height and width of an image; None of others.

        Raises:
            InputError: An image cannot be decoded.
        """
        return value, None

    def require(self, value: object, reads: Callable[[str], bool], *, where: str) -> None:
        """Check that a raw value states what a model reads.

        Args:
            value: A raw value, as for `read`.
            reads: Whether the model reads an input of this name.
            where: The name of the value in messages.

        Raises:
            InputError: A part is missing that the model reads.
        """
        return  # nothing is required by default

    def save(self, folder: Path) -> list[Path]:
        """Write preprocess.json; return the paths written."""
        return [self._write(folder)]

    @classmethod
    def complete(cls, content: dict[str, Any], folder: Path) -> dict[str, Any]:
        """Return the content of a preprocess.json with that of other files in its folder."""
        return content

    def named(self, argument: str, *, row_files: Sequence[str]) -> list[Named]:
        """Return the inputs that an argument of `limbeck predict` names, which is no file of rows.

        Args:
            argument: The argument.
            row_files: The endings of files of rows, for messages.

        Raises:
            InputError: It names no input.
        """
        endings = ", ".join(row_files)
        allowed = f"a file that ends in {endings}, or - for standard input"
        raise InputError(Problem("INPUTS", argument, allowed))

    def of_line(self, line: str) -> Any:
        """Return the input of one line of standard input."""
        return line

    def of_cell(self, cell: Any, folder: Path) -> Any:
        """Return the input of one cell of a file of rows; relative paths start at its folder."""
        return cell

    def of_rows(self, rows: Iterator[Named], folder: Path, column: str) -> Iterator[Named]:
        """Return the inputs of a file's rows: each row, or its cell in the column."""
        if self.columns:
            yield from rows
            return
        for where, row in rows:
            yield where, self.of_cell(row.get(column) if isinstance(row, Mapping) else row, folder)

    def compare(self, comparison: Comparison) -> None:
        """Compare the preprocessing with what a trained model's files state; see `Comparison`."""
        return  # nothing is compared by default

    def with_outputs(self, classes: tuple[str, ...], targets: tuple[Target, ...]) -> Self:
        """Return the preprocessing with the names of a model's outputs."""
        changed: Self = replace(cast("Any", self), classes=classes, targets=targets)
        return changed


def parse_record(line: str) -> Any:
    """Parse JSON; return other text unchanged, which is no row and raises when it is used."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return line


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
    known = {name: MODALITIES.load(name).preprocess for name in MODALITIES.names()}
    if isinstance(kind := content.get("kind"), str) and kind in known:
        content = known[kind].complete(content, folder)
    union: Any = Annotated[Union[tuple(known.values())], Field(discriminator="kind")]  # noqa: UP007
    adapter: TypeAdapter[Preprocess] = TypeAdapter(union)
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
