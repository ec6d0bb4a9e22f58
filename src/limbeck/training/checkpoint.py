"""Checkpoints: the whole state of a training in one file that is there whole or not at all.

A checkpoint is one safetensors file: tensors under their names, everything else as JSON in the header, and a hash of the
tensors, so that a damaged file is noticed before anything is loaded from it. The last two are kept.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from limbeck import fingerprint
from limbeck.atomic import WriteError, replacing
from limbeck.errors import LimbeckError

KEPT = 2


class CheckpointError(LimbeckError):
    """A checkpoint cannot be used: it is truncated, damaged, or of another training."""


@dataclass(frozen=True)
class State:
    """The state of a training: named tensors, and plain data beside them."""

    tensors: dict[str, Tensor]
    plain: dict[str, Any]


def save(folder: Path, state: State, *, step: int) -> None:
    """Write a checkpoint, then drop all but the last two.

    Raises:
        WriteError: The disk is full or the folder cannot be written to; older checkpoints are unharmed.
    """
    # A copy a tensor: safetensors refuses tensors that share memory, as tied weights do.
    tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.tensors.items()}
    header = {"plain": json.dumps(state.plain), "sha256": fingerprint.of_tensors(tensors)}
    path = folder / f"{step:09d}.safetensors"
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, metadata=header)
        except SafetensorError as error:
            raise WriteError(f"{path}: could not be written ({error}).") from error
    for old in _files(folder)[:-KEPT]:
        old.unlink()


def load(path: Path) -> State:
    """Read a checkpoint and hold it against its hash.

    Raises:
        CheckpointError: The file is truncated or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        if header["sha256"] != fingerprint.of_tensors(tensors):
            raise CheckpointError(f"{path}: damaged; its contents do not match its hash.")
        return State(tensors, json.loads(header["plain"]))
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: truncated or damaged ({error}).") from error


def latest(folder: Path) -> State | None:
    """Read the newest checkpoint that is sound; say which ones were not.

    Raises:
        CheckpointError: There are checkpoints and none is sound.
    """
    problems = []
    for path in reversed(_files(folder)):
        try:
            state = load(path)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        if problems:
            lost = "\n".join(problems)
            warnings.warn(f"{lost}\nGoing on from the checkpoint before it, {path.name}.", stacklevel=2)
        return state
    if problems:
        advice = f"Delete {folder} to train this stage from its beginning."
        raise CheckpointError("\n".join([*problems, advice]))
    return None


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))
