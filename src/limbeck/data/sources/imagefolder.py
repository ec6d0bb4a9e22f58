"""Image folders with one folder per class: `train/cat/1.png`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

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
            splits[split], left_out = _split(paths, where=f"data.files.{split}")
            if left_out:
                notes.append(f"{split}: left out, as no pictures: {_listed(left_out)}")
    if problems:
        raise InputError(*problems)
    return Loaded(splits, files, notes=tuple(notes))


def _split(paths: list[Path], *, where: str) -> tuple[datasets.Dataset, list[str]]:
    import datasets

    folders, loose = _class_folders(paths, where)
    left_out = [path.name for path in loose]
    pictures: dict[str, list[str]] = {}
    deeper: list[str] = []
    for folder in folders:
        for path in sorted(folder.iterdir()):
            if path.is_dir():
                if _pictures(path):
                    deeper.append(f"{folder.name}/{path.name}")
            elif path.is_file() and path.suffix.lower() in SUFFIXES:
                pictures.setdefault(folder.name, []).append(str(path.absolute()))
            else:
                left_out.append(f"{folder.name}/{path.name}")
    fix = "Name in data.files the folder that holds the classes' folders."
    allowed = "a folder that holds a folder of pictures for each class"
    if deeper:
        given = f"pictures two folders deep: {_listed(deeper)}"
        raise InputError(Problem(where, given, allowed, fix))
    if not pictures:
        given = f"no picture one folder deep in {_listed([str(path) for path in paths])}"
        raise InputError(Problem(where, given, allowed, fix))
    names = sorted(pictures)
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=names)}
    content = {
        "image": [path for name in names for path in pictures[name]],
        "label": [number for number, name in enumerate(names) for _ in pictures[name]],
    }
    return datasets.Dataset.from_dict(content, datasets.Features(features)), left_out


def _class_folders(paths: list[Path], where: str) -> tuple[list[Path], list[Path]]:
    """Return the class folders, and the files beside them."""
    fix = "A table of picture paths is read by source: csv; archives are to be unpacked."
    allowed = "folders that hold a folder of pictures for each class"
    for path in paths:
        if not path.is_dir():
            raise InputError(Problem(where, str(path), allowed, fix))
    inside = [child for path in paths for child in sorted(path.iterdir())]
    stated = [child for child in inside if child.name in METADATA]
    if stated:
        raise InputError(Problem(where, str(stated[0]), allowed, fix))
    folders = [child for child in inside if child.is_dir() and not child.name.startswith(".")]
    loose = [child for child in inside if child not in folders]
    flat = [child for child in loose if child.suffix.lower() in SUFFIXES]
    if flat and not folders and len(paths) > 1:
        return paths, []
    if flat:
        given = f"pictures outside of any class's folder: {_listed([str(path) for path in flat])}"
        raise InputError(Problem(where, given, allowed))
    return folders, loose


def _pictures(folder: Path) -> bool:
    return any(path.suffix.lower() in SUFFIXES for path in folder.rglob("*"))


def _listed(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" * (len(names) > SHOWN))
