"""Hugging Face hub data sets, or a local folder with the same layout."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.data.loaded import Loaded, quiet
from limbeck.data.sources import csv, parquet
from limbeck.data.sources._files import read_files
from limbeck.data.streaming import Streams, opened
from limbeck.errors import InputError, Problem, did_you_mean

if TYPE_CHECKING:
    from limbeck.data.spec import DataSpec

READERS = {"parquet": parquet, "csv": csv}


def load(spec: DataSpec) -> Loaded:
    """Load a data set by its name; `files` may map the hub's splits to train, validation and test.

    No code of a data set is executed. A local folder of Parquet or CSV files is read as these
    sources read them, so that each split keeps its own class names and types.

    Raises:
        InputError: The data set cannot be loaded, or has no such split.
    """
    import datasets

    where = f"{spec.name}@{spec.revision}" if spec.revision else spec.name
    try:
        with quiet():
            source = {"path": spec.name, "name": spec.config, "revision": spec.revision}
            local = _local(spec, datasets.load_dataset_builder(**source))
            found: Any = local or datasets.load_dataset(**source)
    # The hub's client raises many exception types: network, name, access rights, corrupt file.
    except Exception as error:
        fix = f"It could not be loaded: {type(error).__name__}: {str(error)[:500]}"
        raise InputError(Problem("data.name", where, "a data set on the hub", fix)) from error
    wanted = _wanted(spec, found)
    if local is not None:
        files = {split: [Path(path) for path in local[name]] for split, name in wanted.items()}
        kind = _kind(str(files["train"][0]))
        return Loaded(read_files(files, READERS[kind].read, kind=kind))
    splits = {split: found[name] for split, name in wanted.items()}
    return Loaded(splits, licence=splits["train"].info.license or "")


def _wanted(spec: DataSpec, found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the name of each split in the data set: those of the recipe, else the usual ones.

    Raises:
        InputError: The data set has no such split, or there is no train split.
    """
    wanted: dict[str, Any] = dict(spec.files.items())
    wanted = wanted or {split: split for split in ("train", "validation", "test") if split in found}
    problems = [
        Problem(f"data.files.{split}", name, ", ".join(found), did_you_mean(name, found))
        for split, name in wanted.items()
        if name not in found
    ]
    if "train" not in wanted:
        problems.append(Problem("data.files", wanted, f"a train split, one of {', '.join(found)}"))
    if problems:
        raise InputError(*problems)
    return wanted


def stream(spec: DataSpec) -> Streams:
    """Return the splits of a data set as streams, in the order in which they are stored.

    Raises:
        InputError: The data set cannot be opened, or has no such split.
    """
    named: dict[str, Any] = {"name": spec.config, "revision": spec.revision}
    found = opened("data.name", spec.name, **named)
    wanted = _wanted(spec, found)
    others = {split: found[name] for split, name in wanted.items() if split != "train"}
    train = found[wanted["train"]]
    licence = train.info.license or ""
    identity = {**named, "path": spec.name}
    # A copy, since a position that is set stays set in the epochs that follow.
    return Streams(lambda _: copy.deepcopy(train), others, identity, licence=licence)


def _local(spec: DataSpec, builder: Any) -> dict[str, list[str]] | None:
    """Return the split files of a local folder, if they are Parquet or CSV of no declared type."""
    files = builder.config.data_files
    if not Path(spec.name).is_dir() or not files or builder.info.features is not None:
        return None
    listed = {str(split): [str(path) for path in paths] for split, paths in files.items()}
    kinds = {_kind(path) for paths in listed.values() for path in paths}
    return listed if len(kinds) == 1 and kinds < {*READERS} else None


def _kind(path: str) -> str:
    return next((kind for kind, one in READERS.items() if path.endswith(one.SUFFIXES)), "")
