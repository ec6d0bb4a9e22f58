"""What a recipe says about its data."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    model_validator,
)

from limbeck.errors import did_you_mean
from limbeck.registry import Registry

SOURCES = Registry("limbeck.data.sources", kind="data.source", attribute="load")

Fraction = Annotated[float, Field(gt=0, lt=1)]
# Upper bounds are where a value can only be a slip, and would exhaust the memory or never end.
Rows = Annotated[int, Field(gt=0, le=10**12)]
SplitName = Literal["train", "validation", "test"]
ADDED = {"table", "groups"}
NO_CONTENT = {"files", "licence", "augment", "name", "max_overlap"}
"""What changes neither rows nor tensors, or is hashed elsewhere."""
LARGEST_SIDE = 4096
"""Height or width of pictures in pixels: a larger one fills the memory with a single batch."""
LONGEST_TEXT = 131_072
"""Tokens of a text: the context of the longest encoders there are."""
MOST_VIEWS = 10_000
LARGEST_SEED = 2**63 - 1

Level = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]
Deviation = Annotated[float, Field(gt=1e-7, le=1e6, allow_inf_nan=False)]
Move = Annotated[int, Field(ge=0, le=LARGEST_SIDE)]


def _known_source(name: str) -> str:
    allowed = SOURCES.names()
    if name not in allowed:
        raise ValueError(f"allowed: {', '.join(allowed)}. {did_you_mean(name, allowed)}".strip())
    return name


def _twice(columns: tuple[str, ...]) -> str:
    return ", ".join(sorted(name for name, count in Counter(columns).items() if count > 1))


class _Settings(BaseModel):
    """Settings that refuse unknown keys and cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Columns(_Settings):
    """What the columns are called in the source."""

    image: str = "image"
    text: str = "text"
    label: str = "label"


class ImageSpec(_Settings):
    """How pictures become tensors.

    Attributes:
        size: Height and width after resizing; as they are if not given (then all must be alike).
        channels: 1 for grey, 3 for colour; as the pictures are if not given.
        mean: What to subtract from each channel, in [0, 1]; measured on the training rows if not
            given.
        std: What to divide each channel by; measured on the training rows if not given.
    """

    size: Annotated[int, Field(gt=0, le=LARGEST_SIDE)] | None = None
    channels: Literal[1, 3] | None = None
    mean: tuple[Level, ...] | None = None
    std: tuple[Deviation, ...] | None = None

    @model_validator(mode="after")
    def _one_number_a_channel(self) -> Self:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) not in (
                {self.channels} if self.channels else {1, 3}
            ):
                raise ValueError(f"{name} has {len(values)} numbers; allowed: one a channel")
        if self.mean and self.std and len(self.mean) != len(self.std):
            raise ValueError("mean and std differ in length; allowed: one number a channel in both")
        return self


class WordPieceSpec(_Settings):
    """A tokenizer to be trained on the training texts."""

    vocab_size: Annotated[int, Field(ge=8, le=1_000_000)] = 8000


class TrainTokenizer(_Settings):
    """The form `{train: {vocab_size: 8000}}` of `text.tokenizer`."""

    train: WordPieceSpec = WordPieceSpec()


class TextSpec(_Settings):
    """How texts become tensors.

    Attributes:
        tokenizer: A local tokenizer.json or the folder that holds one, a name on the Hugging Face
            hub, or `{train: {vocab_size: 8000}}` for a WordPiece tokenizer trained in the run.
        max_length: Texts are cut to this many tokens, special ones counted.
    """

    tokenizer: str | TrainTokenizer = TrainTokenizer()
    max_length: Annotated[int, Field(ge=4, le=LONGEST_TEXT)] = 64


class TableSpec(_Settings):
    """Which columns of a table a model sees, and as what.

    Attributes:
        numeric: Columns of numbers: mean and deviation of the training rows become 0 and 1, a
            missing number the mean; another feature says which were missing, if any were.
        categorical: Columns of names or codes: a feature a value that the training rows have, and
            one for any other.
    """

    numeric: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns in use."""
        return self.numeric + self.categorical

    @model_validator(mode="after")
    def _each_column_once(self) -> Self:
        if not self.columns:
            raise ValueError("numeric and categorical are empty; allowed: at least one column")
        if twice := _twice(self.columns):
            raise ValueError(f"{twice} stands twice; allowed: once, in numeric or in categorical")
        return self


class AugmentSpec(_Settings):
    """How training pictures are varied, each by its own random numbers.

    Attributes:
        crop: Pad with this many black pixels on each side, then cut out the old size at random.
        flip: Mirror half of the pictures left to right.
        shift: Move by up to this many pixels in each direction, filling with black.
        views: How many variants of a picture there are; epochs go round them. Without it every
            epoch is new, and a teacher's answers cannot be recorded.
    """

    crop: Move = 0
    flip: bool = False
    shift: Move = 0
    views: Annotated[int, Field(gt=0, le=MOST_VIEWS)] | None = None


class DataSpec(_Settings):
    """The `data` part of a recipe.

    Attributes:
        source: Where the data comes from: a file in `limbeck/data/sources`.
        name: The data set's name: in scikit-learn, on the hub, or `module:function` for `python`.
        config: The hub data set's configuration.
        revision: The hub data set's commit, tag or branch.
        files: The files of each split; relative ones lie in the folder LIMBECK_DATA. For `hub`,
            the names of its splits.
        columns: What the columns are called.
        validation: The share of the training rows kept for validation, if `files` names none.
        test: The share of all rows kept for the test, if the source has no test split.
        split_seed: Which rows these are; it does not depend on the run's seed.
        image: How pictures become tensors.
        text: How texts become tensors; giving it makes the data text.
        table: Which columns become features; giving it makes the data a table.
        groups: Columns that say to whom a row belongs, such as sex: kept beside the validation and
            test rows, for the question of fairness, whether or not a model sees them.
        augment: How training pictures are varied.
        max_overlap: The largest share of the validation or test rows that may equal a training row
            of the same label in its content: pixels, text or features. Equal rows that are
            expected in a table of few values are not counted.
        limit: Use only so many rows of a split, with the classes in their proportions.
        classes: The classes' names, in the order of the labels.
        licence: The data's licence; taken from the SOURCE.txt beside the files if not given.

    Example:
        >>> DataSpec(source="sklearn", name="digits").validation
        0.1
    """

    source: Annotated[
        str, AfterValidator(_known_source), Field(json_schema_extra={"enum": [*SOURCES.names()]})
    ]
    name: str = ""
    config: str | None = None
    revision: str | None = None
    files: dict[SplitName, str | tuple[str, ...]] = {}
    columns: Columns = Columns()
    validation: Fraction = 0.1
    test: Fraction = 0.2
    split_seed: Annotated[int, Field(ge=0, le=LARGEST_SEED)] = 0
    image: ImageSpec | None = None
    text: TextSpec | None = None
    table: TableSpec | None = None
    groups: tuple[str, ...] = ()
    augment: AugmentSpec | None = None
    max_overlap: Annotated[float, Field(ge=0, le=1)] = 0.1
    limit: dict[SplitName, Rows] = {}
    classes: tuple[str, ...] | None = None
    licence: str | None = None

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        parts = (("image", self.image), ("text", self.text), ("table", self.table))
        given = [name for name, part in parts if part is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are given; allowed: one of them")
        if (self.text or self.table) and self.augment:
            raise ValueError(f"augment is given for a {given[0]}; allowed: for images. Remove it")
        if self.table and self.columns.label in self.table.columns:
            raise ValueError(f"table has the label {self.columns.label}; allowed: what is known")
        if twice := _twice(self.groups):
            raise ValueError(f"groups names {twice} twice; allowed: each column once")
        if self.source in {"parquet", "csv", "imagefolder"} and "train" not in self.files:
            raise ValueError(
                f"files.train is missing; {self.source} needs it: files: {{train: PATH}}"
            )
        if self.source in {"sklearn", "hub", "python"} and not self.name:
            raise ValueError(f"name is missing; {self.source} needs it")
        if self.source != "hub" and (self.config or self.revision):
            raise ValueError("config and revision are given; allowed: with source: hub only")
        if self.classes and len(set(self.classes)) != len(self.classes):
            raise ValueError("classes names the same class twice")
        return self

    def identity(self) -> dict[str, Any]:
        """Give what decides which rows and tensors come out, apart from the files and augmentation.

        Where the files lie and under which licence does not change them.
        """
        content = self.model_dump(mode="json", exclude=NO_CONTENT)
        # Data that has neither keeps the name that it had before there were any.
        return {key: value for key, value in content.items() if key not in ADDED or value}
