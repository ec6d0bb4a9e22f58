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

    folders, beside = _class_folders(paths, where)
    ignored = [path.name for path in beside]
    images: dict[str, list[str]] = {}
    deeper: list[str] = []
    for folder in folders:
        for path in sorted(folder.iterdir()):
            if path.is_dir():
                if any(_is_image(file) for file in path.rglob("*")):
                    deeper.append(f"{folder.name}/{path.name}")
            elif path.is_file() and _is_image(path):
                images.setdefault(folder.name, []).append(str(path.absolute()))
            else:
                ignored.append(f"{folder.name}/{path.name}")
    fix = "Name in data.files the folder that holds the classes' folders."
    if deeper:
        given = f"images two folders deep: {_listed(deeper)}"
        raise InputError(Problem(where, given, ALLOWED, fix))
    if not images:
        given = f"no image one folder deep in {_listed([str(path) for path in paths])}"
        raise InputError(Problem(where, given, ALLOWED, fix))
    names = sorted(images)
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=names)}
    content = {
        "image": [path for name in names for path in images[name]],
        "label": [index for index, name in enumerate(names) for _ in images[name]],
    }
    return datasets.Dataset.from_dict(content, datasets.Features(features)), ignored


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
