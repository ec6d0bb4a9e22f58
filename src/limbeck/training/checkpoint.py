"""Checkpoints: the complete training state in one file, written atomically.

A checkpoint is one safetensors file: tensors by name, everything else as JSON in the header, and a
hash of both, so that a corrupt file is detected before any of it is used. The last two are kept.
"""

from __future__ import annotations

import hashlib
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
    """An unusable checkpoint: truncated, corrupt, or of another training."""


@dataclass(frozen=True)
class Content:
    """The content of a checkpoint: named tensors, and plain data."""

    tensors: dict[str, Tensor]
    plain: dict[str, Any]


def save(folder: Path, content: Content, *, step: int) -> None:
    """Write a checkpoint, then delete all but the last two.

    Raises:
        WriteError: The disk is full or the folder cannot be written to; older ones are unchanged.
    """
    # One copy per tensor: safetensors rejects shared memory, as of tied weights.
    tensors = {
        name: tensor.detach().cpu().clone().contiguous() for name, tensor in content.tensors.items()
    }
    plain = json.dumps(content.plain)
    header = {"plain": plain, "sha256": _hash(tensors, plain)}
    path = folder / f"{step:09d}.safetensors"
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, metadata=header)
        except SafetensorError as error:
            raise WriteError(f"{path}: could not be written ({error}).") from error
    # Also the partial files of processes killed during a write.
    _remove([*_files(folder)[:-KEPT], *folder.glob(".*.partial")])


def load(path: Path) -> Content:
    """Read a checkpoint and verify its hash.

    Raises:
        CheckpointError: The file is truncated or corrupt.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
        if header["sha256"] != _hash(tensors, header["plain"]):
            raise CheckpointError(f"{path}: damaged; its contents do not match its hash.")
        return Content(tensors, json.loads(header["plain"]))
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: truncated or damaged ({error}).") from error


def latest(folder: Path) -> Content | None:
    """Read the newest valid checkpoint; warn about invalid ones.

    Raises:
        CheckpointError: There are checkpoints, but none is valid.
    """
    problems = []
    for path in reversed(_files(folder)):
        try:
            content = load(path)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        if problems:
            lost = "\n".join(problems)
            warnings.warn(f"{lost}\nGoing on from {path.name}, the one before it.", stacklevel=2)
        return content
    if problems:
        advice = f"Delete {folder} to train from the beginning."
        raise CheckpointError("\n".join([*problems, advice]))
    return None


def clear(folder: Path) -> None:
    """Remove every checkpoint, so that a new training does not resume from an older one.

    Raises:
        WriteError: A checkpoint cannot be removed.
    """
    _remove(_files(folder))


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _remove(paths: list[Path]) -> None:
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise WriteError(f"{path}: could not be removed ({error.strerror}).") from error


def _hash(tensors: dict[str, Tensor], plain: str) -> str:
    return hashlib.sha256((fingerprint.of_tensors(tensors) + plain).encode()).hexdigest()
