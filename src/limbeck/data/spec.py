"""Settings of the `data` section of a recipe."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from limbeck.core.registry import Registry
from limbeck.errors import Problem, RefusedError, did_you_mean

SOURCES = Registry(
    "limbeck.data.sources", kind="data.source", attribute="load", group="limbeck.data_sources"
)
Fraction = Annotated[float, Field(gt=0, lt=1)]
# Upper bounds reject values that can only be a slip, and would exhaust the memory or never end.
Rows = Annotated[int, Field(gt=0, le=10**12)]
SplitName = Literal["train", "validation", "test"]
ADDED = {"table", "sensitive_features", "targets", "unlabelled"}
NO_CONTENT = {"files", "licence", "augment", "name", "max_overlap"}
"""Settings that change neither rows nor tensors, or are hashed elsewhere."""
NOT_INPUTS = frozenset({"labels", "index", "view", "weight", "labelled"})
"""Batch entries that are not inputs of a model."""
LARGEST_SIDE = 4096
"""The largest height or width in pixels: larger images fill the memory with a single batch."""
LONGEST_TEXT = 131_072
"""The most tokens of a text: the context of the longest existing encoders."""
MOST_VIEWS = 10_000
LARGEST_SEED = 2**63 - 1
Level = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]
Deviation = Annotated[float, Field(gt=1e-7, le=1e6, allow_inf_nan=False)]
Move = Annotated[int, Field(ge=0, le=LARGEST_SIDE)]


def _check_source(name: str) -> str:
    allowed = SOURCES.names()
    if name not in allowed:
        raise ValueError(f"allowed: {', '.join(allowed)}. {did_you_mean(name, allowed)}".strip())
    return name


def _duplicates(columns: tuple[str, ...]) -> str:
    return ", ".join(sorted(name for name, count in Counter(columns).items() if count > 1))


class _Settings(BaseModel):
    """Immutable settings that reject unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Columns(_Settings):
    """Column names of the source."""

    image: str = "image"
    text: str = "text"
    label: str = "label"
    weight: Annotated[
        str | None,
        Field(description="Weights of rows, at least 0; they count in losses and scores."),
    ] = None


class ImageSpec(_Settings):
    """Image preprocessing settings.

    Attributes:
        size: Height and width after resizing; unchanged if not given (then all must be equal).
        channels: 1 for grey, 3 for colour; inferred from the images if not given.
        mean: The mean per channel, in [0, 1]; computed on the training rows if not given.
        std: The standard deviation per channel; computed on the training rows if not given.
    """

    size: Annotated[int, Field(gt=0, le=LARGEST_SIDE)] | None = None
    channels: Literal[1, 3] | None = None
    mean: tuple[Level, ...] | None = None
    std: tuple[Deviation, ...] | None = None

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        lengths = {self.channels} if self.channels else {1, 3}
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) not in lengths:
                raise ValueError(f"{name} has {len(values)} numbers; allowed: one per channel")
        if self.mean and self.std and len(self.mean) != len(self.std):
            raise ValueError("mean and std differ in length; allowed: one number per channel each")
        return self


class WordPieceSpec(_Settings):
    """Settings of a tokenizer trained on the training texts."""

    vocab_size: Annotated[int, Field(ge=8, le=1_000_000)] = 8000


class TrainTokenizer(_Settings):
    """The setting `{train: {vocab_size: 8000}}` of `text.tokenizer`."""

    train: WordPieceSpec = WordPieceSpec()


class TextSpec(_Settings):
    """Text preprocessing settings.

    Attributes:
        tokenizer: A local tokenizer.json or the folder that holds one, a name on the Hugging Face
            hub, or `{train: {vocab_size: 8000}}` for a WordPiece tokenizer trained in the run.
        max_length: Texts are truncated to this many tokens, including special ones.
    """

    tokenizer: str | TrainTokenizer = TrainTokenizer()
    max_length: Annotated[int, Field(ge=4, le=LONGEST_TEXT)] = 64


class TableSpec(_Settings):
    """Table preprocessing settings.

    Attributes:
        numeric: Numeric columns, standardised by mean and standard deviation of the training rows;
            a missing number becomes the mean, with a second feature as missing indicator, if any
            were missing.
        categorical: Categorical columns, one-hot encoded: one feature per value in the training
            rows, and one for any other.
    """

    numeric: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Return all columns in use."""
        return self.numeric + self.categorical

    @model_validator(mode="after")
    def _check_columns(self) -> Self:
        if not self.columns:
            raise ValueError("numeric and categorical are empty; allowed: at least one column")
        if duplicates := _duplicates(self.columns):
            raise ValueError(
                f"{duplicates} is given twice; allowed: once, in numeric or categorical"
            )
        return self


class AugmentSpec(_Settings):
    """Augmentation settings of training images, each image with its own random numbers.

    Attributes:
        crop: Pad with this many black pixels on each side, then crop to the original size at
            random.
        flip: Flip half of the images horizontally.
        shift: Move by up to this many pixels in each direction, filling with black.
        views: The number of variants per image, which epochs cycle through. Without it every epoch
            has new variants, and teacher outputs cannot be cached.
    """

    crop: Move = 0
    flip: bool = False
    shift: Move = 0
    views: Annotated[int, Field(gt=0, le=MOST_VIEWS)] | None = None


class DataSpec(_Settings):
    """The `data` section of a recipe.

    Attributes:
        source: The data source: a module in `limbeck/data/sources`.
        name: The data set's name: in scikit-learn, on the hub, or `module:function` for `python`.
        config: The hub data set's configuration.
        revision: The hub data set's commit, tag or branch.
        files: The files of each split; relative ones lie in the folder LIMBECK_DATA. For `hub`,
            the names of its splits.
        columns: The column names.
        validation: The share of the training rows kept for validation, if `files` names none.
        test: The share of all rows kept for the test, if the source has no test split.
        split_seed: The seed of the split; independent of the run's seed.
        image: The image preprocessing.
        text: The text preprocessing; if given, the data is text.
        table: The feature columns; if given, the data is a table.
        sensitive_features: Sensitive feature columns, such as sex: kept with the validation and
            test rows for the fairness evaluation, whether or not they are model inputs.
        augment: The augmentation of training images.
        max_overlap: The largest share of the validation or test rows that may equal a training row
            of the same label in its content: pixels, text or features. Equal rows that are
            expected in a table of few values are not counted.
        max_samples: The maximum number of rows per split, stratified by class.
        classes: The class names, in the order of the labels.
        targets: Numeric target columns, for regression; the label column is then not used.
        unlabelled: Whether training rows may have no label: they train under the teacher alone.
        licence: The data's licence; read from the SOURCE.txt beside the files if not given.

    Example:
        >>> DataSpec(source="sklearn", name="digits").validation
        0.1
    """

    source: Annotated[
        str, AfterValidator(_check_source), Field(json_schema_extra={"enum": SOURCES.builtin()})
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
    sensitive_features: tuple[str, ...] = ()
    augment: AugmentSpec | None = None
    max_overlap: Annotated[float, Field(ge=0, le=1)] = 0.1
    max_samples: dict[SplitName, Rows] = {}
    classes: tuple[str, ...] | None = None
    targets: tuple[str, ...] = ()
    unlabelled: bool = False
    licence: str | None = None

    @model_validator(mode="after")
    def _check_parts(self) -> Self:
        parts = (("image", self.image), ("text", self.text), ("table", self.table))
        given = [name for name, part in parts if part is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are given; allowed: one of them")
        if (self.text or self.table) and self.augment:
            raise ValueError(f"augment is given for a {given[0]}; allowed: for images. Remove it")
        for label in self.targets or (self.columns.label,):
            if self.table and label in self.table.columns:
                part = "numeric" if label in self.table.numeric else "categorical"
                allowed = "feature columns only, without the label's"
                raise RefusedError(Problem(f"table.{part}", label, allowed))
        if self.targets and self.unlabelled:
            allowed = "false, with targets, of which every row needs all"
            raise RefusedError(Problem("unlabelled", True, allowed))
        if self.targets and self.classes:
            raise ValueError("targets and classes are given; allowed: one of them")
        if duplicates := _duplicates(self.targets):
            raise ValueError(f"targets names {duplicates} twice; allowed: each once")
        if duplicates := _duplicates(self.sensitive_features):
            raise ValueError(f"sensitive_features names {duplicates} twice; allowed: each once")
        if self.source in {"parquet", "csv", "imagefolder"} and "train" not in self.files:
            fix = f"`source: {self.source}` needs `files: {{train: PATH}}`."
            raise RefusedError(Problem.missing("files.train", fix))
        if self.source in {"sklearn", "hub", "python"} and not self.name:
            raise RefusedError(Problem.missing("name", f"`source: {self.source}` needs it."))
        if self.source != "hub" and (self.config or self.revision):
            raise ValueError("config and revision are given; allowed: with source: hub only")
        if self.classes and len(set(self.classes)) != len(self.classes):
            raise ValueError("classes names the same class twice")
        return self

    def identity(self) -> dict[str, Any]:
        """Return the settings that determine rows and tensors, without files and augmentation.

        The files' location and licence do not change them.
        """
        content = self.model_dump(mode="json", exclude=NO_CONTENT)
        # Data without these keys keeps the hash that it had before they were added.
        return {key: value for key, value in content.items() if key not in ADDED or value}
