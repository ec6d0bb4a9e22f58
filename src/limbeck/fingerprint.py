"""Short names for contents: the same bytes, the same name."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


# The rooms that show and certify results; they do not make them.
SHOWING = {"cli", "report", "passport", "studies", "sweep"}


def of_json(content: Any) -> str:
    """Hash plain data; the order of keys does not matter.

    Example:
        >>> of_json({"a": 1, "b": 2}) == of_json({"b": 2, "a": 1})
        True
    """
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def of_file(path: Path) -> str:
    """Hash a file's bytes (sha256), without reading it whole into memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
        # Viewed as bytes, since numpy knows no bfloat16.
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def of_code() -> str:
    """Hash limbeck's own source, so that work done by other code is not taken for this one's.

    Example:
        >>> of_code() == of_code()
        True
    """
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        room = path.relative_to(root).parts[0]
        if room not in SHOWING:
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
