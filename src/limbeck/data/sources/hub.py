"""Data sets of the Hugging Face hub, or a local folder laid out like one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limbeck.data.loaded import Loaded, quiet
from limbeck.errors import InputError, Problem, did_you_mean

if TYPE_CHECKING:
    from limbeck.data.spec import DataSpec


def load(spec: DataSpec) -> Loaded:
    """Load a data set by its name; `files` may say which of its splits is which.

    Raises:
        InputError: It cannot be had, or has no such split.
    """
    import datasets

    where = f"{spec.name}@{spec.revision}" if spec.revision else spec.name
    try:
        with quiet():
            found = datasets.load_dataset(spec.name, spec.config, revision=spec.revision)
    # The hub's client fails in many ways: no network, no such name, no right to read, a bad file.
    except Exception as error:
        fix = f"It could not be loaded: {type(error).__name__}: {error}"
        raise InputError(Problem("data.name", where, "a data set on the hub", fix)) from error
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
    splits = {split: found[name] for split, name in wanted.items()}
    return Loaded(splits, licence=splits["train"].info.license or "")
