"""Data loading: from the `data` section of a recipe to three splits of batches."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.data import checks, prepare
from limbeck.data.divide import check_classes, divide
from limbeck.data.facts import Facts, fingerprint_of, name_of
from limbeck.data.files import stated_licence
from limbeck.data.groups import read_groups
from limbeck.data.labels import read_labels
from limbeck.data.overlap import check_overlap
from limbeck.data.prepare_table import tables
from limbeck.data.preprocess import Preprocess
from limbeck.data.spec import SOURCES, DataSpec
from limbeck.data.split import Split

if TYPE_CHECKING:
    from limbeck.data.loaded import Loaded


@dataclass(frozen=True)
class Data:
    """A loaded data set with its splits.

    Attributes:
        train: The training split; the only one that is augmented.
        validation: The validation split.
        test: The test split, used once, at the end.
        classes: The class names, in the order of the labels.
        preprocess: The preprocessing from an image, text or table row to model inputs; `save` it
            with the student.
        facts: Metadata for the report.
    """

    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    preprocess: Preprocess
    facts: Facts


def load(spec: DataSpec, *, workdir: Path) -> Data:
    """Load data, check it, split it and prepare it for batches.

    Args:
        spec: The `data` section of a recipe.
        workdir: The folder for a trained tokenizer.

    Raises:
        InputError: A file or column is missing, labels or values are wrong, or a split is empty.

    Example:
        >>> data = load(DataSpec(source="sklearn", name="digits"), workdir=Path())
        >>> len(data.train), len(data.validation), len(data.test)
        (1294, 144, 359)
        >>> data.train.__getitems__([0, 1])["image"].shape
        torch.Size([2, 1, 8, 8])
    """
    loaded: Loaded = SOURCES.load(spec.source)(spec)
    textual = _is_text(spec, loaded)
    columns = _columns(spec, loaded, textual=textual)
    checks.rows_are_there(loaded.splits)
    labels = read_labels(loaded.splits, spec.columns.label, spec.classes)
    rows, notes = divide(labels.rows, spec)
    checks.rows_are_there({name: numbers for name, (_, numbers) in rows.items()})
    mine = {name: labels.rows[source][numbers] for name, (source, numbers) in rows.items()}
    rare = check_classes(mine, labels.classes)
    groups = read_groups(loaded.splits, rows, spec.groups)
    division = prepare.Division(rows, labels.rows, groups)
    if spec.table:
        ready = tables(spec.table, loaded, division)
    elif textual:
        checks.texts_are_there(loaded.splits, spec.columns.text)
        ready = prepare.texts(spec, loaded, division, workdir=workdir)
    else:
        ready = prepare.images(spec, loaded, division)
    overlap = check_overlap(
        ready.hashes,
        mine,
        largest=spec.max_overlap,
        expected=ready.expected,
    )
    splits = ready.splits
    in_use = list(dict.fromkeys((*columns, *spec.groups)))
    facts = Facts(
        source=spec.source,
        name=name_of(spec, loaded),
        licence=_licence(spec, loaded),
        fingerprint=fingerprint_of(spec, loaded, in_use),
        classes=labels.classes,
        train=len(splits["train"]),
        validation=len(splits["validation"]),
        test=len(splits["test"]),
        notes=(*loaded.notes, *labels.notes, *notes, *rare, *ready.notes, *overlap),
    )
    preprocess = replace(ready.preprocess, classes=labels.classes)
    return Data(**splits, classes=labels.classes, preprocess=preprocess, facts=facts)


def _columns(spec: DataSpec, loaded: Loaded, *, textual: bool) -> tuple[str, ...]:
    """Return the columns of the samples and their labels; check that all exist."""
    columns = {spec.columns.text if textual else spec.columns.image: "data.columns"}
    if spec.table:
        columns = dict.fromkeys(spec.table.columns, "data.table")
    columns[spec.columns.label] = "data.columns"
    fix = "" if spec.table else "The columns of a table are named in data.table."
    checks.columns_are_there(loaded.splits, columns, fix=fix)
    return tuple(columns)


def _is_text(spec: DataSpec, loaded: Loaded) -> bool:
    """Return whether the data is text: by the recipe, else by the existing columns."""
    if spec.text or spec.image or spec.table:
        return spec.text is not None
    columns = loaded.splits["train"].column_names
    return spec.columns.text in columns and spec.columns.image not in columns


def _licence(spec: DataSpec, loaded: Loaded) -> str:
    return spec.licence or loaded.licence or stated_licence(loaded.files) or "not stated"
