"""The contract of a modality: one file, or one folder, each in `limbeck/data/modalities`.

A modality owns how raw columns become tensors: its keys in the `data` section, the columns that it
reads, the preparation of the splits with normalisation and augmentation, its preprocessing, which
ships with the student and serves raw values, and the code that shows its use. No other module
distinguishes modalities. Its module imports neither torch nor datasets; what prepares the splits is
imported inside `prepare`.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, cast

from limbeck.core.registry import Registry
from limbeck.data.settings import Section, Settings
from limbeck.errors import InputError

if TYPE_CHECKING:
    import datasets
    import numpy as np
    from numpy.typing import NDArray

    from limbeck.data.label import Labels
    from limbeck.data.loaded import Loaded
    from limbeck.data.preprocess import Preprocess
    from limbeck.data.rows import Samples
    from limbeck.data.spec import DataSpec
    from limbeck.data.split import Division, Prepared

MODALITIES = Registry("limbeck.data.modalities", kind="data", attribute="modality")

KeysT = TypeVar("KeysT", bound=Settings)
Rows = dict[str, tuple[str, "NDArray[np.int64]"]]
"""The source's split and the indices of the samples in it, by split."""


@dataclass(frozen=True)
class Usage:
    """Code of the model card that prepares an input for the ONNX file.

    Attributes:
        argument: An argument of `limbeck predict`.
        packages: The packages that the code imports, beside onnxruntime.
        imports: Import lines beside json, numpy and onnxruntime.
        code: Code after `prepare`, the content of preprocess.json, that defines each input by its
            name in a batch.
        inputs: The names of the inputs, in the order of the model's parameters.
        rows: Whether the code prepares several inputs at once, not one.
    """

    argument: str
    packages: str
    code: str
    inputs: tuple[str, ...]
    imports: str = ""
    rows: bool = False


class Modality(ABC, Generic[KeysT]):
    """A kind of data; the `modality` of its file in `limbeck/data/modalities`.

    Attributes:
        name: The name of its file; the key of its section in a recipe, and the `kind` of its
            preprocessing.
        keys: A model whose fields are keys of the `data` section. All have defaults; the one with
            the modality's name is a `Section` or None.
        preprocess: The dataclass of its preprocessing, with `kind: Literal[name]`.
        usage: Code of the model card.
        training_only: Keys that change training batches only, such as augmentation.
        later: Settings of its section that are left out of the data's fingerprint if not given, by
            which it stays as before they were added.
        owns_labels: Whether `labels` returns labels of its own: a kind of label in the recipe is
            then refused.
        entries: The names of batch entries that are no inputs of a model, beyond those of labels.
        hint: What a message on a missing column adds.
    """

    name: ClassVar[str]
    keys: ClassVar[type[Settings]]
    preprocess: ClassVar[type[Preprocess]]
    usage: ClassVar[Usage]
    training_only: ClassVar[frozenset[str]] = frozenset()
    later: ClassVar[frozenset[str]] = frozenset()
    owns_labels: ClassVar[bool] = False
    entries: ClassVar[frozenset[str]] = frozenset()
    hint: ClassVar[str] = "The columns of a table are named in data.table."

    def of(self, spec: DataSpec) -> KeysT:
        """Return the data section, typed with the keys of this modality."""
        return cast("KeysT", spec)

    def section(self, spec: DataSpec) -> Section | None:
        """Return the settings that a recipe gives under the modality's name."""
        found: Section | None = getattr(spec, self.name)
        return found

    def check(self, spec: DataSpec) -> None:
        """Check the section of this modality; raise `ValueError` or `RefusedError`."""

    def recognised_by(self, spec: DataSpec) -> str | None:
        """Return the column whose existence selects the modality; None: only its section does."""
        return None

    @abstractmethod
    def columns(self, spec: DataSpec) -> dict[str, str]:
        """Return the columns that are read, each with its key in the recipe."""

    def arrange(self, spec: DataSpec, loaded: Loaded) -> Loaded:
        """Return the source's splits as those of the modality, before labels are read.

        A graph adds the nodes of validation and test to training, without their labels.

        Raises:
            InputError: The rows do not fit; the message lists every problem.
        """
        return loaded

    def labels(self, spec: DataSpec, loaded: Loaded) -> Labels | None:
        """Read labels that follow from the samples, such as the next rows of a series.

        The number of samples is that of the strata: a sample need not be one row of the source.

        Raises:
            InputError: A label is invalid; the message lists every problem.
        """
        return None

    def divide(
        self, spec: DataSpec, loaded: Loaded, labels: Labels
    ) -> tuple[Rows, tuple[str, ...]] | None:
        """Return the samples of train, validation and test, with notes for the report.

        None divides the samples by the settings of the recipe: at random, stratified by label.
        """
        return None

    @abstractmethod
    def prepare(
        self, spec: DataSpec, loaded: Loaded, division: Division, *, workdir: Path
    ) -> Prepared:
        """Build the splits; statistics are those of the training samples only.

        Args:
            spec: The whole data section.
            loaded: The data of the source.
            division: The samples of each split, with their labels; `division.split` builds each.
            workdir: A folder for files that the preparation makes.

        Raises:
            InputError: Samples are invalid; the message lists every problem.
        """

    def files(self, spec: DataSpec, loaded: Loaded) -> dict[str, str]:
        """Return hashes of the files that rows reference, by their names in the rows."""
        return {}


class StreamedModality(Modality[KeysT]):
    """A modality whose rows can be prepared some at a time, as a stream needs it."""

    @abstractmethod
    def samples(
        self,
        spec: DataSpec,
        rows: datasets.Dataset,
        preprocess: Preprocess,
        numbers: NDArray[np.int64],
    ) -> Samples:
        """Return rows of a stream as samples.

        Args:
            spec: The whole data section.
            rows: The rows.
            preprocess: Their preprocessing.
            numbers: The number of each row in the stream, for messages.

        Raises:
            InputError: A row is invalid.
        """


def loadable(registry: Registry) -> list[Any]:
    """Return all objects of a registry; a plug-in that fails to load is left out with a warning.

    The keys of a recipe come from them, so that one broken package would stop every recipe.
    """
    found = []
    for name in registry.names():
        try:
            found.append(registry.load(name))
        except InputError as error:
            if name in registry.builtin():
                raise
            warnings.warn(f"left out: {error}", stacklevel=2)
    return found


def modalities() -> list[Modality[Settings]]:
    """Return all modalities, in alphabetical order of their names."""
    return loadable(MODALITIES)


def modality_of(spec: DataSpec, columns: Mapping[str, object] | list[str]) -> Modality[Settings]:
    """Return the modality of a recipe: the one whose section it gives, else by existing columns.

    Args:
        spec: The data section.
        columns: The names of the training split's columns.
    """
    known = modalities()
    given = [one for one in known if one.section(spec) is not None]
    recognisable = [one for one in known if one.recognised_by(spec) is not None]
    found = [one for one in recognisable if one.recognised_by(spec) in columns]
    return [*given, *found, *recognisable][0]
