"""Folders of files with one folder per class, `train/cat/1.png`, shared by sources of them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from limbeck.data.files import resolve
from limbeck.data.loaded import Loaded
from limbeck.errors import InputError, Problem, gathering

if TYPE_CHECKING:
    import datasets

    from limbeck.data.spec import DataSpec

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
SHOWN = 5


@dataclass(frozen=True)
class Kind:
    """The files that a source reads from folders.

    Attributes:
        name: What a file is, in messages; its plural has an s.
        column: The column of the files' paths.
        suffixes: The endings of the files, in small letters.
    """

    name: str
    column: str
    suffixes: tuple[str, ...]

    @property
    def allowed(self) -> str:
        """Return what is allowed, for messages."""
        return f"folders that hold a folder of {self.name}s for each class"

    def fits(self, path: Path) -> bool:
        """Return whether a file is of this kind."""
        return path.suffix.lower() in self.suffixes


def read_folders(spec: DataSpec, kind: Kind, feature: datasets.Image | datasets.Value) -> Loaded:
    """Load the files of each split; the classes are the names of its folders.

    `files` maps each split to the parent of the class folders, or to the class folders themselves
    (`train/*`). Each split has its own class folders; labels are mapped by name.

    Args:
        spec: The `data` section of a recipe.
        kind: The files to read.
        feature: The type of their column in `datasets`.

    Raises:
        InputError: A folder is missing or holds no such files, or they are not exactly one folder
            deep: the class would be ambiguous.
    """
    files = resolve(spec.files)
    problems: list[Problem] = []
    splits: dict[str, datasets.Dataset] = {}
    notes: list[str] = []
    for split, paths in files.items():
        with gathering(problems):
            splits[split], ignored = _split(paths, kind, feature, where=f"data.files.{split}")
            if ignored:
                notes.append(f"{split}: left out, as no {kind.name}s: {_listed(ignored)}")
    if problems:
        raise InputError(*problems)
    return Loaded(splits, files, notes=tuple(notes))


def _split(
    paths: list[Path], kind: Kind, feature: datasets.Image | datasets.Value, *, where: str
) -> tuple[datasets.Dataset, list[str]]:
    import datasets
    import pyarrow  # type: ignore[import-untyped]

    folders, beside = _class_folders(paths, kind, where)
    ignored = [path.name for path in beside]
    # Paths of a million files as Python objects would take several times the memory.
    found: dict[str, list[pyarrow.Array]] = {}
    deeper: list[str] = []
    for folder in folders:
        own = []
        for entry in sorted(os.scandir(folder.absolute()), key=lambda one: one.name):
            if entry.is_dir():
                if any(kind.fits(file) for file in Path(entry.path).rglob("*")):
                    deeper.append(f"{folder.name}/{entry.name}")
            elif entry.is_file() and kind.fits(Path(entry.name)):
                own.append(entry.path)
            else:
                ignored.append(f"{folder.name}/{entry.name}")
        if own:
            found.setdefault(folder.name, []).append(pyarrow.array(own, pyarrow.string()))
    fix = "Name in data.files the folder that holds the classes' folders."
    if deeper:
        given = f"{kind.name}s two folders deep: {_listed(deeper)}"
        raise InputError(Problem(where, given, kind.allowed, fix))
    if not found:
        given = f"no {kind.name} one folder deep in {_listed([str(path) for path in paths])}"
        raise InputError(Problem(where, given, kind.allowed, fix))
    names = sorted(found)
    parts = [(label, part) for label, name in enumerate(names) for part in found[name]]
    cells = pyarrow.concat_arrays([part for _, part in parts])
    if isinstance(feature, datasets.Image):
        cells = feature.cast_storage(cells)
    labels = np.repeat([label for label, _ in parts], [len(part) for _, part in parts])
    table = pyarrow.table({kind.column: cells, "label": labels.astype(np.int64)})
    features = {kind.column: feature, "label": datasets.ClassLabel(names=names)}
    info = datasets.DatasetInfo(features=datasets.Features(features))
    return datasets.Dataset(datasets.table.InMemoryTable(table), info=info), ignored


def _class_folders(paths: list[Path], kind: Kind, where: str) -> tuple[list[Path], list[Path]]:
    """Return the class folders, and the files beside them."""
    children = [child for path in paths if path.is_dir() for child in sorted(path.iterdir())]
    wrong = [path for path in paths if not path.is_dir()]
    wrong += [child for child in children if child.name in METADATA]
    if wrong:
        fix = (
            f"A table of paths of {kind.name}s is read by source: csv; archives are to be unpacked."
        )
        raise InputError(Problem(where, str(wrong[0]), kind.allowed, fix))
    folders = [child for child in children if child.is_dir() and not child.name.startswith(".")]
    beside = [child for child in children if child not in folders]
    flat = [child for child in beside if kind.fits(child)]
    if flat and not folders and len(paths) > 1:
        return paths, []
    if flat:
        given = (
            f"{kind.name}s outside of any class's folder: {_listed([str(path) for path in flat])}"
        )
        raise InputError(Problem(where, given, kind.allowed))
    return folders, beside


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
