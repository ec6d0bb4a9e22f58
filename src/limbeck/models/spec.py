"""Settings of the `teacher` and `student` sections of a recipe."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from limbeck.core.registry import Registry
from limbeck.errors import Problem, RefusedError, did_you_mean

SOURCES = Registry(
    "limbeck.models.sources", kind="model.source", attribute="source", group="limbeck.model_sources"
)


def _check_source(name: str) -> str:
    allowed = SOURCES.names()
    if name not in allowed:
        raise ValueError(f"allowed: {', '.join(allowed)}. {did_you_mean(name, allowed)}".strip())
    return name


class Normalization(BaseModel):
    """The channel statistics of a model's input normalisation: `(pixel - mean) / std`.

    Attributes:
        mean: The mean per channel of pixels in [0, 1].
        std: The standard deviation per channel.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: tuple[Annotated[float, Field(ge=-1e6, le=1e6)], ...] = Field(min_length=1, max_length=64)
    std: tuple[Annotated[float, Field(gt=1e-7, le=1e6)], ...] = Field(min_length=1, max_length=64)

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        if len(self.mean) != len(self.std):
            raise ValueError("mean and std differ in length; allowed: one number per channel each")
        return self


class Loading(BaseModel):
    r"""Settings for matching a checkpoint's tensors with the model's; all must match by default.

    Attributes:
        prefix: The prefix of the model's names in the file, such as `state_dict_ema`; inferred if
            not given, and only needed if several sets of weights in the file fit.
        rename: Dotted parts of the file's names, and their names in the model: `{fc: linear,
            downsample.0: shortcut.0}`.
        keys: Patterns of the file's names, as regular expressions, and what replaces them:
            `{"^backbone\.(.*)": "\1"}`. `^` is the start of a name, after any prefix.
        skip: Names, or dotted prefixes of names, that are neither loaded nor required.
        partial: Whether to load the tensors whose name and shape fit, and to leave the others; the
            notes of the run list those loaded, missing and unexpected.
        head: `fresh` keeps the initialisation of the last layer, which computes the logits: for a
            checkpoint of other classes, or without a head.

    Example:
        >>> Loading(rename={"fc": "linear"}).renamed("module.fc.weight")
        'module.linear.weight'
        >>> Loading(keys={r"^backbone\.(.*)": r"\1"}).renamed("module.backbone.conv.weight")
        'module.conv.weight'
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prefix: str | None = None
    rename: dict[Annotated[str, Field(min_length=1)], str] = Field({}, max_length=1000)
    keys: dict[Annotated[str, Field(min_length=1, max_length=1000)], str] = Field(
        {}, max_length=1000
    )
    skip: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(max_length=1000)] = ()
    partial: bool = False
    head: Literal["fresh"] | None = None

    @model_validator(mode="after")
    def _check_keys(self) -> Self:
        for pattern, replacement in self.keys.items():
            try:
                re.compile(pattern).sub(replacement, "")
            except (re.error, IndexError) as error:
                given = f"{pattern!r}: {replacement!r}"
                allowed = "a regular expression, and a replacement with its groups"
                raise RefusedError(Problem("keys", given, allowed, str(error))) from error
        return self

    def renamed(self, name: str) -> str:
        """Return a tensor's name with the dotted parts renamed and the patterns replaced."""
        for old, new in self.rename.items():
            name = f".{name}.".replace(f".{old}.", f".{new}." if new else ".").strip(".")
        for pattern, replacement in self.keys.items():
            name = _replaced(name, pattern, replacement)
        return name

    def skips(self, name: str) -> bool:
        """Return whether a tensor is neither loaded nor required."""
        return any(name == part or name.startswith(f"{part.rstrip('.')}.") for part in self.skip)


Layers: TypeAlias = (
    Annotated[list[Annotated[int, Field(ge=0, le=10_000)]], Field(min_length=1, max_length=10_000)]
    | Annotated[dict[str, str], Field(min_length=1, max_length=1000)]
)
"""The teacher's layer per layer of the student, or the teacher's path per path of the student."""


class LayerInit(BaseModel):
    """The initial weights of a student: copies of its teacher's layers.

    Attributes:
        layers: The teacher's layer for each of the student's, such as `[0, 2, 4]`; or a mapping
            from the student's paths to the teacher's, such as
            `{"encoder.{i}": "encoder.{2i}"}`. Other weights are fresh.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: Layers


def _replaced(name: str, pattern: str, replacement: str) -> str:
    """Replace a pattern in a name; an anchored one at the start, after as few parts as possible."""
    if not pattern.startswith("^"):
        return re.sub(pattern, replacement, name)
    parts = name.split(".")
    for cut in range(len(parts)):
        inner = ".".join(parts[cut:])
        if re.match(pattern, inner):
            return ".".join(filter(None, [*parts[:cut], re.sub(pattern, replacement, inner)]))
    return name


class Expect(BaseModel):
    """The accuracy that the teacher must reach before distillation.

    Attributes:
        accuracy: The published accuracy. The run stops if the measured one is below the binomial
            interval of this share.
        tolerance: The largest allowed difference to `accuracy`, instead of the binomial interval.
        split: The split that it is measured on: `validation`, or `test` for a published test
            accuracy.
        above_chance: Whether to stop if the teacher is no better than the majority class.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    accuracy: float | None = Field(None, ge=0, le=1)
    tolerance: float | None = Field(None, ge=0, le=1)
    split: Literal["validation", "test"] = "validation"
    above_chance: bool = True

    @model_validator(mode="after")
    def _check_accuracy(self) -> Self:
        if self.accuracy is None and (self.tolerance is not None or self.split != "validation"):
            raise ValueError("tolerance or split is given; allowed: together with accuracy")
        return self


class ModelSpec(BaseModel):
    """The `teacher` or `student` section of a recipe; other keys are the model's arguments.

    Attributes:
        source: The model source: a module in `limbeck/models/sources`.
        name: The model's name in the source; for `python`, `module:callable` or `file.py:callable`.
        path: For `transformers`, instead of a name: a folder to load, which may lie in the folder
            LIMBECK_DATA, or a model's name on the Hugging Face hub, which is fetched once.
        revision: The commit, tag or branch of a model on the hub.
        checkpoint: The initial checkpoint: safetensors, sharded safetensors, or a PyTorch file
            (.pt, .pth, .th, .bin, .ckpt) of tensors; or a folder that holds model.safetensors.
        loading: The matching of the checkpoint's names, and the tensors to skip.
        output: The model output with the logits, if ambiguous: a field, a position, or `mean` for
            the mean of all heads.
        class_names: The class names in the order of the model's logits, spelled as in
            `data.classes`. Logits are then reordered to the data's order, and classes that the data
            lacks are dropped. Read from the model's own files if not given.
        normalization: The `mean` and `std` that the model was trained with, for pixels in [0, 1];
            `data` if they are the data's own. Read from the model's own files if not given. If they
            differ from the data's, the model renormalises its input.
        output_type: The type of the model's output: `logits`, or `probabilities` (a softmax) or
            `sigmoid` values, which are converted to logits.
        expect: The accuracy that a teacher must reach before distillation.

    Example:
        >>> ModelSpec(source="limbeck", name="digits_cnn", width=64).arguments
        {'width': 64}
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    source: Annotated[
        str, AfterValidator(_check_source), Field(json_schema_extra={"enum": SOURCES.builtin()})
    ]
    name: str = ""
    path: str | None = None
    revision: str | None = None
    checkpoint: str | None = None
    output: str | Annotated[int, Field(ge=-1000, le=1000)] | None = None
    loading: Loading = Loading()
    class_names: tuple[str, ...] | None = Field(None, min_length=2, max_length=100_000)
    normalization: Normalization | Literal["data"] | None = None
    output_type: Literal["logits", "probabilities", "sigmoid"] = "logits"
    expect: Expect | None = None

    @model_validator(mode="after")
    def _check_name(self) -> Self:
        if self.path is not None and self.source != "transformers":
            raise ValueError("path is given; allowed: with source: transformers only")
        if self.revision is not None and self.path is None:
            raise ValueError("revision is given; allowed: with path, a name on the hub")
        if not self.name and self.path is None:
            raise RefusedError(Problem.missing("name", f"`source: {self.source}` needs it."))
        if self.path is not None and (self.name or self.arguments):
            raise ValueError("path and a name or arguments are given; allowed: one of them")
        names = self.class_names or ()
        if len(set(names)) < len(names):
            raise ValueError("class_names names the same class twice; allowed: each class once")
        return self

    @property
    def folder(self) -> str | None:
        """Return the local folder of `path`; a model of the hub is fetched first.

        Raises:
            InputError: There is no such folder, and no such model that can be fetched.
        """
        from limbeck.models.folder import local_folder

        return None if self.path is None else local_folder(self.path, self.revision)

    @property
    def arguments(self) -> dict[str, Any]:
        """Return the model's own arguments."""
        return dict(self.model_extra or {})


def names(source: str) -> list[str]:
    """Return the model names of a source; none for a source of the user's own models.

    Raises:
        InputError: The source is unknown, or its library is not installed.

    Example:
        >>> "resnet20" in names("limbeck")
        True
    """
    return SOURCES.load(source).names()
