"""Checkpoint loading: tensors by name from any common format, without executing code."""

from __future__ import annotations

import argparse
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from limbeck.core import files
from limbeck.errors import InputError, Problem

FILE = "model.safetensors"
FOLDER_FILES = (FILE, f"{FILE}.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""The files that a folder is searched for, in this order."""

INDEX = ".index.json"
LARGEST_INDEX = 50_000_000
LARGEST_PICKLE = 500_000_000
MOST_TENSORS = 500_000
ALLOWED = "a safetensors file, a PyTorch checkpoint (.pt, .pth, .th, .bin, .ckpt) of tensors"
POINTER = b"version https://git-lfs.github.com/spec/"
"""The first bytes of a file that Git LFS has not downloaded."""

WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""The parts that torch.compile, FSDP and activation checkpointing add to names."""


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a checkpoint.

    Attributes:
        tensors: The tensors by name; the names in a nested dictionary start with its key and a dot.
        aliases: The names of shared tensors that the file omits, with the stored name of each.
    """

    tensors: dict[str, Tensor]
    aliases: dict[str, str] = field(default_factory=dict)


def find(path: str) -> Path:
    """Resolve a checkpoint path: as given, or in the folder LIMBECK_DATA.

    Raises:
        InputError: The file does not exist, or the folder holds none.
    """
    data = Path(os.environ.get("LIMBECK_DATA") or ".")
    for candidate in (Path(path), data / path):
        names = FOLDER_FILES if candidate.is_dir() else ("",)
        for name in names:
            if (candidate / name).is_file():
                return candidate / name
    fix = f"No such file: {Path(path).absolute()}"
    if Path(path).exists() and not Path(path).is_dir():
        fix = f"It is not a regular file: {Path(path).absolute()}"
    elif not Path(path).is_absolute():
        fix += f", nor {(data / path).absolute()} (the folder LIMBECK_DATA)"
    allowed = f"{ALLOWED}, or a folder that holds {' or '.join(FOLDER_FILES)}"
    raise InputError(Problem("model.checkpoint", path, allowed, fix))


def files_of(file: Path) -> list[Path]:
    """Return a checkpoint's files: the index and its shards, or the single file.

    Raises:
        InputError: The index is malformed, or a shard is absent or not beside it.
    """
    return [file, *_shards(file)] if file.name.endswith(INDEX) else [file]


def read_checkpoint(file: Path) -> Checkpoint:
    """Read a safetensors file, an index of shards, or a PyTorch checkpoint with `weights_only`.

    Raises:
        InputError: The file is damaged, of an unknown format, or holds pickled objects.
    """
    if not file.name.endswith(INDEX):
        return _read(file)
    whole = Checkpoint({})
    for shard in _shards(file):
        part = _read(shard)
        whole.tensors.update(part.tensors)
        whole.aliases.update(part.aliases)
    return whole


def _error(file: Path, given: str, allowed: str, fix: str = "") -> InputError:
    return InputError(Problem("model.checkpoint", f"{file}: {given}", allowed, fix))


def _shards(index: Path) -> list[Path]:
    allowed = "an index with a weight_map of tensor names to files beside it"
    try:
        content = files.read_json(index, limit=LARGEST_INDEX)
        names = sorted(set(content["weight_map"].values()))
    except (InputError, KeyError, TypeError, AttributeError) as error:
        raise _error(index, "not an index", allowed, f"{type(error).__name__}: {error}") from error
    wrong = [name for name in names if not isinstance(name, str) or Path(name).name != name]
    if wrong:
        raise _error(index, f"a shard named {wrong[0]!r}", allowed)
    absent = [name for name in names if not (index.parent / name).is_file()]
    if absent:
        fix = f"Missing: {', '.join(absent[:8])}"
        raise _error(index, f"{len(absent)} of {len(names)} shards missing", "every shard", fix)
    return [index.parent / name for name in names]


def _read(file: Path) -> Checkpoint:
    try:
        with files.open_regular(file) as stream:
            start = stream.read(9)
    except OSError as error:
        raise _error(file, error.strerror or str(error), ALLOWED) from error
    if start == POINTER[:9]:
        fix = "Download what it points to: git lfs pull, in the repository that the file is from."
        raise _error(file, "a pointer of Git LFS, not the file itself", ALLOWED, fix)
    if start[8:9] == b"{" or file.suffix == ".safetensors":
        return _safetensors(file)
    if start[:4] == b"PK\x03\x04":
        _check_archive(file)
    elif start[:1] != b"\x80":
        raise _error(file, "neither safetensors nor a PyTorch checkpoint", ALLOWED)
    return _torch(file)


def _safetensors(file: Path) -> Checkpoint:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
            aliases = {name: of for name, of in (stored.metadata() or {}).items() if of in tensors}
    except (SafetensorError, OSError, ValueError, RuntimeError, AttributeError, KeyError) as error:
        raise _error(file, "damaged", "a whole safetensors file", str(error)) from error
    return Checkpoint(_plain_names(tensors), aliases)


def _check_archive(file: Path) -> None:
    """Raise an error on archives that torch.save does not write: compressed ones may be huge."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise _error(file, "damaged", "a whole PyTorch checkpoint", str(error)) from error
    if any("/code/" in entry.filename for entry in entries):
        fix = "Save its weights: torch.save(torch.jit.load(path).state_dict(), 'weights.pt')."
        raise _error(file, "a TorchScript archive, which is a program", ALLOWED, fix)
    names = [entry.filename for entry in entries]
    packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    size = sum(entry.file_size for entry in entries)
    if packed or size > file.stat().st_size or len(names) != len(set(names)):
        raise _error(file, "a compressed archive", ALLOWED, "Write it with torch.save.")
    pickles = sum(entry.file_size for entry in entries if entry.filename.endswith(".pkl"))
    if pickles > LARGEST_PICKLE:
        raise _error(file, f"{pickles:,} bytes of pickled objects", ALLOWED)


def _torch(file: Path) -> Checkpoint:
    # Types that hold only values and are common in training checkpoints.
    dtypes = {type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "u1", "b1")}
    scalar = np.float64(0).__reduce__()[0]
    names = [scalar, (scalar, "numpy.core.multiarray.scalar")]
    inert: list[Any] = [argparse.Namespace, np.dtype, *dtypes, *names]
    try:
        with torch.serialization.safe_globals(inert):
            content = torch.load(file, map_location="cpu", weights_only=True)
    # The unpickler may raise any exception on malformed input.
    except Exception as error:
        raise _unpickling_error(file, error) from error
    if isinstance(content, Tensor):
        raise _error(file, "a single tensor", "tensors by name: model.state_dict()")
    tensors = dict(_flattened(content, file))
    if not tensors:
        raise _error(file, f"no tensors in a {type(content).__name__}", ALLOWED)
    return Checkpoint(_plain_names(tensors))


def _unpickling_error(file: Path, error: Exception) -> InputError:
    text = str(error)
    if "nsupported global" in text or "WeightsUnpickler" in text or "weights_only" in text.lower():
        fix = (
            "Objects in a pickle can run code when they are read, so they are not. Where you trust "
            "the file, save its tensors alone: c = torch.load(path, weights_only=False); "
            "torch.save(c.state_dict() if hasattr(c, 'state_dict') else c['state_dict'], new_path)."
        )
        given = "pickled objects"
        # Older formats and corrupt files are detected only by an exception.
        with suppress(Exception):
            types = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(file))
            given += f" ({', '.join(types[:4])})" if types else ""
        return _error(file, given, ALLOWED, fix)
    first = (text.strip().splitlines() or [type(error).__name__])[0]
    return _error(file, "damaged", "a whole PyTorch checkpoint", first[:300])


def _flattened(content: object, file: Path) -> Iterator[tuple[str, Tensor]]:
    """Iterate over nested dictionaries once each; lists and other values hold no named tensors."""
    waiting: list[tuple[str, object]] = [("", content)]
    seen: set[int] = set()
    count = 0
    while waiting:
        prefix, part = waiting.pop()
        if not isinstance(part, Mapping) or id(part) in seen:
            continue
        seen.add(id(part))
        for key, value in reversed(list(part.items())):
            name = f"{prefix}{key}"
            if isinstance(value, Tensor):
                count += 1
                if count > MOST_TENSORS:
                    raise _error(file, f"more than {MOST_TENSORS:,} tensors", ALLOWED)
                yield name, value.detach()
            elif name.count(".") < 100 and len(seen) < MOST_TENSORS:
                waiting.append((f"{name}.", value))


def _plain_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove wrapper prefixes from names, if the names stay distinct."""
    plain = {}
    for name, tensor in tensors.items():
        short = name
        for wrapper in WRAPPERS:
            short = short.replace(wrapper, "")
        plain[name if short in plain or (short != name and short in tensors) else short] = tensor
    return plain
