"""Image folders with one folder per class: `train/cat/1.png`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from limbeck.data.files import resolve
from limbeck.data.loaded import Loaded
from limbeck.errors import InputError, Problem, gathering

if TYPE_CHECKING:
    import datasets

    from limbeck.data.spec import DataSpec

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".gif", ".bmp", ".dib", ".tif", ".tiff"),
    *(".webp", ".avif", ".jp2", ".ppm", ".pgm", ".pbm", ".pnm", ".pcx", ".tga", ".ico"),
)
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
ALLOWED = "folders that hold a folder of images for each class"
SHOWN = 5


def load(spec: DataSpec) -> Loaded:
    """Load the images of each split; the classes are the names of its folders.

    `files` maps each split to the parent of the class folders, or to the class folders themselves
    (`train/*`). Each split has its own class folders; labels are mapped by name.

    Raises:
        InputError: A folder is missing or holds no images, or images are not exactly one folder
            deep: the class would be ambiguous.
    """
    files = resolve(spec.files)
    problems: list[Problem] = []
    splits: dict[str, datasets.Dataset] = {}
    notes: list[str] = []
    for split, paths in files.items():
        with gathering(problems):
            splits[split], ignored = _split(paths, where=f"data.files.{split}")
            if ignored:
                notes.append(f"{split}: left out, as no images: {_listed(ignored)}")
    if problems:
        raise InputError(*problems)
    return Loaded(splits, files, notes=tuple(notes))


def _split(paths: list[Path], *, where: str) -> tuple[datasets.Dataset, list[str]]:
    import datasets
    import pyarrow  # type: ignore[import-untyped]

    folders, beside = _class_folders(paths, where)
    ignored = [path.name for path in beside]
    # Paths of a million images as Python objects would take several times the memory.
    images: dict[str, list[pyarrow.Array]] = {}
    deeper: list[str] = []
    for folder in folders:
        own = []
        for entry in sorted(os.scandir(folder.absolute()), key=lambda one: one.name):
            if entry.is_dir():
                if any(_is_image(file) for file in Path(entry.path).rglob("*")):
                    deeper.append(f"{folder.name}/{entry.name}")
            elif entry.is_file() and _is_image(Path(entry.name)):
                own.append(entry.path)
            else:
                ignored.append(f"{folder.name}/{entry.name}")
        if own:
            images.setdefault(folder.name, []).append(pyarrow.array(own, pyarrow.string()))
    fix = "Name in data.files the folder that holds the classes' folders."
    if deeper:
        given = f"images two folders deep: {_listed(deeper)}"
        raise InputError(Problem(where, given, ALLOWED, fix))
    if not images:
        given = f"no image one folder deep in {_listed([str(path) for path in paths])}"
        raise InputError(Problem(where, given, ALLOWED, fix))
    names = sorted(images)
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=names)}
    parts = [(label, part) for label, name in enumerate(names) for part in images[name]]
    paths = pyarrow.concat_arrays([part for _, part in parts])
    labels = np.repeat([label for label, _ in parts], [len(part) for _, part in parts])
    stored = [pyarrow.nulls(len(paths), pyarrow.binary()), paths]
    cells = pyarrow.StructArray.from_arrays(stored, ["bytes", "path"])
    table = pyarrow.table({"image": cells, "label": labels.astype(np.int64)})
    info = datasets.DatasetInfo(features=datasets.Features(features))
    return datasets.Dataset(datasets.table.InMemoryTable(table), info=info), ignored


def _class_folders(paths: list[Path], where: str) -> tuple[list[Path], list[Path]]:
    """Return the class folders, and the files beside them."""
    children = [child for path in paths if path.is_dir() for child in sorted(path.iterdir())]
    wrong = [path for path in paths if not path.is_dir()]
    wrong += [child for child in children if child.name in METADATA]
    if wrong:
        fix = "A table of image paths is read by source: csv; archives are to be unpacked."
        raise InputError(Problem(where, str(wrong[0]), ALLOWED, fix))
    folders = [child for child in children if child.is_dir() and not child.name.startswith(".")]
    beside = [child for child in children if child not in folders]
    flat = [child for child in beside if _is_image(child)]
    if flat and not folders and len(paths) > 1:
        return paths, []
    if flat:
        given = f"images outside of any class's folder: {_listed([str(path) for path in flat])}"
        raise InputError(Problem(where, given, ALLOWED))
    return folders, beside


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
