"""Settings of the `data` section of a recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field, create_model, model_validator

from limbeck.core.registry import Registry
from limbeck.data.label import LABELS, LabelKind
from limbeck.data.modality import Modality, StreamedModality, loadable, modalities
from limbeck.data.settings import Fraction, Rows, Section, Seed, Settings, SplitName, duplicates
from limbeck.errors import Problem, RefusedError, did_you_mean

if TYPE_CHECKING:
    from typing import Self

STREAMS = Registry(
    "limbeck.data.sources", kind="data.source", attribute="stream", group="limbeck.data_sources"
)
STREAMED = ("hub", "parquet", "webdataset")
"""The sources that have `stream`."""
SOURCES = Registry(
    "limbeck.data.sources", kind="data.source", attribute="load", group="limbeck.data_sources"
)
_MODALITIES: list[Modality[Settings]] = modalities()
_KINDS: list[LabelKind[Settings]] = loadable(LABELS)
NOT_INPUTS = frozenset({"index", "view", "weight"}).union(
    *(kind.entries for kind in _KINDS), *(modality.entries for modality in _MODALITIES)
)
"""Batch entries that are not inputs of a model."""
NO_CONTENT = {"files", "licence", "name", "max_overlap"}.union(
    *(modality.training_only for modality in _MODALITIES)
)
"""Settings that change neither rows nor tensors, or are hashed elsewhere."""
NEED_FILES = {
    *("audiofolder", "csv", "imagefolder", "json", "npz", "parquet", "text", "webdataset"),
}
"""Sources that read the files that a recipe names."""
FIRST = {
    *("source", "config", "revision", "columns", "validation", "test", "split_seed"),
    *("image", "text", "max_samples", "classes"),
}
"""Settings that the fingerprint contains also if they are not given; of all others it contains what
is given, so that data without them keeps its fingerprint."""


def _check_source(name: str) -> str:
    allowed = SOURCES.names()
    if name not in allowed:
        raise ValueError(f"allowed: {', '.join(allowed)}. {did_you_mean(name, allowed)}".strip())
    return name


class Columns(Settings):
    """Column names of the source."""

    image: str = "image"
    text: str = "text"
    label: str = "label"
    weight: Annotated[
        str | None,
        Field(description="Weights of rows, at least 0; they count in losses and scores."),
    ] = None


class SplitSpec(Settings):
    """Settings of splits by a column, or by folds of cross-validation.

    Attributes:
        group: A column of groups, such as patients: no group is in two splits.
        time: A column of times: the last rows are the test, those before them the validation.
        folds: The number of folds of cross-validation: the test is one of them, in place of the
            share `test`. Folds are stratified by label; with `group` they are of whole groups.
        fold: The number of the test's fold, from 0.
    """

    group: str | None = None
    time: str | None = None
    folds: Annotated[int, Field(ge=2, le=1000)] | None = None
    fold: Annotated[int, Field(ge=0, le=999)] | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the column in use."""
        return tuple(filter(None, (self.group, self.time)))

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        if (self.folds is None) != (self.fold is None):
            missing, given = ("fold", "folds") if self.fold is None else ("folds", "fold")
            raise ValueError(
                f"{missing} is missing; allowed: with {given}, as {{folds: 5, fold: 0}}"
            )
        if self.folds is not None and self.fold is not None:
            if self.time is not None:
                raise ValueError("time and folds are given; allowed: one of them")
            if self.fold >= self.folds:
                raise ValueError(f"fold is {self.fold}; allowed: 0 to {self.folds - 1}")
        elif (self.group is None) == (self.time is None):
            raise ValueError(
                "group, time or folds is needed; allowed: one of them, or group with folds"
            )
        return self


class _Base(Settings):
    """The `data` section of a recipe: the keys below, and those of each modality and kind of label.

    Attributes:
        source: The data source: a module in `limbeck/data/sources`.
        name: The data set's name: in scikit-learn, on the hub, or `module:function` for `python`.
        config: The hub data set's configuration.
        revision: The hub data set's commit, tag or branch.
        files: The files of each split; relative ones lie in the folder LIMBECK_DATA. For `hub`,
            the names of its splits.
        columns: The column names.
        split_column: The column that names the split of each row: train, validation (or val,
            valid, dev) or test; all rows are then in `files: {train: ...}`.
        validation: The share of the training rows kept for validation, if `files` names none.
        test: The share of all rows kept for the test, if the source has no test split.
        split: How splits that the source lacks are drawn: by whole groups, `{group: patient}`, the
            last rows, `{time: date}`, or folds, `{folds: 5, fold: 0}`; at random and stratified by
            label if not given.
        split_seed: The seed of the split; independent of the run's seed.
        sensitive_features: Sensitive feature columns, such as sex: kept with the validation and
            test rows for the fairness evaluation, whether or not they are model inputs.
        max_overlap: The largest share of the validation or test rows that may equal a training row
            of the same label in its content: pixels, text or features. Equal rows that are
            expected in a table of few values are not counted.
        max_samples: The maximum number of rows per split, stratified by class.
        streaming: Read training rows as a stream, for `steps`, and never all of them: of images
            from hub, parquet or webdataset. The first `max_samples.train` rows, by default 1,000,
            stand for the training split in statistics and calibration; validation and test are
            read up to `max_samples`.
        shuffle_buffer: The number of rows of a stream that are shuffled together, by default 1,000.
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
    files: dict[SplitName, str | tuple[str, ...]] = Field(default={})
    columns: Columns = Columns()
    split_column: str | None = None
    validation: Fraction = 0.1
    test: Fraction = 0.2
    split: SplitSpec | None = None
    split_seed: Seed = 0
    sensitive_features: tuple[str, ...] = ()
    max_overlap: Annotated[float, Field(ge=0, le=1)] = 0.1
    max_samples: dict[SplitName, Rows] = Field(default={})
    streaming: bool = False
    shuffle_buffer: Annotated[int, Field(ge=1, le=10**7)] | None = None
    licence: str | None = None

    @property
    def section(self) -> Section | None:
        """Return the settings of the modality that the recipe gives; None if it gives none."""
        found = (one.section(self._whole) for one in _MODALITIES)
        return next((one for one in found if one is not None), None)

    @property
    def _whole(self) -> DataSpec:
        return self  # type: ignore[return-value]  # the only class that is built from this one

    @model_validator(mode="after")
    def _check_parts(self) -> Self:
        spec = self._whole
        given = [one for one in _MODALITIES if one.section(spec) is not None]
        if len(given) > 1:
            names = " and ".join(one.name for one in given)
            raise ValueError(f"{names} are given; allowed: one of them")
        labels = [kind for kind in _KINDS if kind.given(spec)]
        for modality in given:
            for other in _MODALITIES:
                for key in other.training_only if other is not modality else ():
                    if getattr(self, key) is not None:
                        raise ValueError(
                            f"{key} is given for {modality.name} data; allowed: for {other.name} "
                            "data. Remove it"
                        )
            if modality.owns_labels and labels:
                raise ValueError(
                    f"{labels[0].given(spec)[0]} is given with {modality.name}, whose labels "
                    "follow from its samples; allowed: one of them"
                )
        if len(labels) > 1:
            names = " and ".join(kind.given(spec)[0] for kind in reversed(labels))
            raise ValueError(f"{names} are given; allowed: one of them")
        for modality in given:
            modality.check(spec)
        for kind in _KINDS:
            kind.check(spec)
        if repeated := duplicates(self.sensitive_features):
            raise ValueError(f"sensitive_features names {repeated} twice; allowed: each once")
        if self.source in NEED_FILES and "train" not in self.files:
            fix = f"`source: {self.source}` needs `files: {{train: PATH}}`."
            raise RefusedError(Problem.missing("files.train", fix))
        if self.source in {"sklearn", "hub", "python"} and not self.name:
            raise RefusedError(Problem.missing("name", f"`source: {self.source}` needs it."))
        if self.source != "hub" and (self.config or self.revision):
            raise ValueError("config and revision are given; allowed: with source: hub only")
        self._check_streaming()
        return self

    def _check_streaming(self) -> None:
        """Raise for what a stream does not allow, all of it together."""
        if not self.streaming:
            if self.shuffle_buffer is not None:
                raise ValueError("shuffle_buffer is given; allowed: with streaming: true")
            return
        spec = self._whole
        problems = []
        if self.source not in STREAMED:
            problems.append(Problem("streaming", True, f"with source: {', '.join(STREAMED)}"))
        for modality in _MODALITIES:
            if modality.section(spec) is not None and not isinstance(modality, StreamedModality):
                problems.append(Problem(modality.name, "a section", "images, with streaming"))
        given = {
            "split": self.split and self.split.model_dump(exclude_none=True),
            "split_column": self.split_column,
            "columns.weight": self.columns.weight,
            "unlabelled": getattr(spec, "unlabelled", False),
            "labelled": getattr(spec, "labelled", None),
            "class_weights": getattr(spec, "class_weights", None),
            **{key: True for kind in _KINDS if not kind.is_default for key in kind.given(spec)},
        }
        augment = getattr(spec, "augment", None)
        for name in ("mixup", "cutmix", "views"):
            given[f"augment.{name}"] = getattr(augment, name, None)
        allowed = "nothing, with streaming: rows cannot be reached by their index"
        problems += [Problem(name, one, allowed) for name, one in given.items() if one]
        if self.source != "hub":
            fix = "Rows cannot be drawn from a stream: name the files that hold them."
            missing = [name for name in ("validation", "test") if name not in self.files]
            problems += [Problem.missing(f"files.{name}", fix) for name in missing]
        if problems:
            raise RefusedError(*problems)

    def identity(self) -> dict[str, Any]:
        """Return the settings that determine rows and tensors, without files and augmentation.

        The files' location and licence do not change them.
        """
        content = self.model_dump(mode="json", exclude=NO_CONTENT)
        for modality in _MODALITIES:
            if own := content.get(modality.name):
                for key in modality.later:
                    if not own.get(key):
                        own.pop(key, None)
        if own := content.get("split"):
            for key in ("folds", "fold"):
                if own[key] is None:
                    own.pop(key)
        return {key: value for key, value in content.items() if key in FIRST or value}


if TYPE_CHECKING:

    class DataSpec(_Base):
        """The data section, with the keys of every modality and every kind of label."""

else:
    # The fields of the last base come first.
    _keys = [*(one.keys for one in _MODALITIES), *(kind.keys for kind in _KINDS)]
    DataSpec = create_model(
        "DataSpec",
        __base__=(*reversed(_keys), _Base),
        __doc__=_Base.__doc__,
        __module__=__name__,
    )
