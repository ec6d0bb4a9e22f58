"""Fingerprints: short hashes of contents."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import types
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.core import user_code
from limbeck.core.files import open_regular

if TYPE_CHECKING:
    from torch import Tensor, nn


# Packages that present and certify results; they do not compute them.
PRESENTATION = {"cli", "display", "report", "passport", "studies", "sweep"}


def of_json(content: object) -> str:
    """Hash plain data; the order of keys does not matter.

    Example:
        >>> of_json({"a": 1, "b": 2}) == of_json({"b": 2, "a": 1})
        True
    """
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def of_file(path: Path) -> str:
    """Hash a regular file's bytes (sha256), without reading it whole into memory.

    Raises:
        OSError: The file cannot be read, or is a device, a pipe or a folder.
    """
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_of(folder: Path) -> dict[str, Path]:
    """Return the files below a folder by relative name; links to folders are followed.

    A link to one of its parent folders is not followed.
    """
    found: dict[str, Path] = {}
    pending: list[tuple[Path, tuple[str, ...]]] = [(folder, (os.path.realpath(folder),))]
    while pending:
        current, parents = pending.pop()
        for entry in os.scandir(current):
            real = os.path.realpath(entry.path)
            if entry.is_dir() and real not in parents:
                pending.append((Path(entry.path), (*parents, real)))
            elif entry.is_file():
                found[Path(entry.path).relative_to(folder).as_posix()] = Path(entry.path)
    return dict(sorted(found.items()))


def of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Hash named tensors: names, shapes, types and bytes, in the order of the names.

    Example:
        >>> import torch
        >>> of_tensors({"w": torch.zeros(2)}) == of_tensors({"w": torch.zeros(2)})
        True
        >>> of_tensors({"w": torch.zeros(2)}) == of_tensors({"w": torch.zeros(3)})
        False
    """
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        # Viewed as bytes, since numpy has no bfloat16.
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def of_module(module: nn.Module) -> str:
    """Hash everything that determines a module's output: structure, tensors, attributes, user code.

    The code of installed packages is not hashed: their versions identify it.

    Example:
        >>> from torch import nn
        >>> of_module(nn.Dropout(0.1)) == of_module(nn.Dropout(0.1))
        True
        >>> of_module(nn.Dropout(0.1)) == of_module(nn.Dropout(0.2))
        False
    """
    digest = hashlib.sha256()
    for line in _Description().of_module(module):
        digest.update(line.encode("utf-8", "surrogatepass") + b"\n")
    kinds = sorted({type(part).__module__ for part in module.modules()})
    code = sorted(user_code.fingerprint_of(name) for name in kinds)
    digest.update(of_json([found for found in code if found]).encode())
    return digest.hexdigest()


DEEPEST_VALUE = 12
LARGEST_FILE = 2**30


class _Description:
    """A description of a module and everything reachable from it, equal in every process."""

    def __init__(self) -> None:
        self._seen: set[int] = set()
        self._kept: list[object] = []

    def of_module(self, module: nn.Module) -> Iterator[str]:
        from torch import nn

        internal = vars(nn.Module()).keys()
        for path, part in module.named_modules(remove_duplicate=False):
            self._seen.add(id(part))
            yield f"{path}: {_name(type(part))}"
            tensors = {**part._parameters, **part._buffers}
            for name, tensor in tensors.items():
                yield f"{path}.{name}={None if tensor is None else of_tensors({name: tensor})}"
                yield f"{path}.{name}:{tensor is not None and tensor.requires_grad}"
            for name in sorted(vars(part).keys() - internal):
                yield f"{path}.{name}={self.of_value(vars(part)[name], 0)}"

    def of_value(self, value: object, depth: int) -> str:
        """Describe a value; an object by its class and attributes, never by its address."""
        import numpy as np
        import torch

        if value is None or isinstance(value, bool | int | float | complex | bytes):
            return repr(value)
        if isinstance(value, str | os.PathLike):
            return f"{os.fspath(value)!r}{_content(os.fspath(value))}"
        if isinstance(value, torch.Tensor):
            return of_tensors({"": value})
        if isinstance(value, np.ndarray) and value.dtype != object:
            array = np.ascontiguousarray(value)
            return f"{array.dtype}{array.shape}{hashlib.sha256(array.tobytes()).hexdigest()}"
        if isinstance(value, torch.dtype | torch.device | np.generic | type(...)):
            return repr(value)
        if id(value) in self._seen:
            return "seen"
        if depth > DEEPEST_VALUE:
            return "deep"
        self._seen.add(id(value))
        self._kept.append(value)  # so that no other object reuses its id
        return self._of_object(value, depth + 1)

    def _of_object(self, value: object, depth: int) -> str:
        from torch import nn

        if isinstance(value, nn.Module):
            return "".join(self.of_module(value))
        if isinstance(value, Mapping):
            pairs = [(self.of_value(key, depth), self.of_value(value[key], depth)) for key in value]
            return f"{_name(type(value))}{pairs}"
        if isinstance(value, Set):
            return f"{_name(type(value))}{sorted(self.of_value(one, depth) for one in value)}"
        if isinstance(value, Sequence):
            return f"{_name(type(value))}{[self.of_value(one, depth) for one in value]}"
        if isinstance(value, functools.partial):
            parts = (value.func, value.args, value.keywords)
            return f"partial{[self.of_value(one, depth) for one in parts]}"
        if isinstance(value, types.MethodType):
            return f"{_name(type(value.__self__))}.{value.__func__.__qualname__}"
        if isinstance(value, types.FunctionType):
            closed = [cell.cell_contents for cell in value.__closure__ or () if _is_full(cell)]
            inside = [closed, value.__defaults__, value.__kwdefaults__]
            code = value.__code__.co_code.hex() + str(value.__code__.co_names)
            described = [self.of_value(one, depth) for one in inside]
            return f"{_name(value)}{code}{described}"
        if isinstance(value, type | types.BuiltinFunctionType | types.ModuleType):
            return _name(value)
        attributes = sorted(getattr(value, "__dict__", {}).items())
        described = [f"{name}={self.of_value(item, depth)}" for name, item in attributes]
        return f"{_name(type(value))}{described}"


def _name(thing: object) -> str:
    # A module loaded from a file has the file's location in its name, after an @.
    module = str(getattr(thing, "__module__", "")).partition("@")[0]
    return f"{module}.{getattr(thing, '__qualname__', '')}"


def _is_full(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:  # not assigned yet
        return False


def _content(path: str | bytes) -> str:
    """Hash the file at a path, if it exists: it may be read while the model runs."""
    try:
        if len(path) > 4096 or not os.path.isfile(path) or os.path.getsize(path) > LARGEST_FILE:
            return ""
        return of_file(Path(os.fsdecode(path)))
    except (OSError, ValueError):
        return ""


def of_code() -> str:
    """Hash limbeck's own source, so that results of other versions are not reused.

    Example:
        >>> of_code() == of_code()
        True
    """
    root = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        package = path.relative_to(root).parts[0]
        if package not in PRESENTATION:
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
