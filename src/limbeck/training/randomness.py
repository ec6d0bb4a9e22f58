"""All random states of a process, as tensors and plain data."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor


def capture() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the random states of torch (every device), numpy and Python.

    Example:
        >>> tensors, plain = capture()
        >>> first = torch.rand(1)
        >>> restore(tensors, plain)
        >>> bool(torch.rand(1) == first)
        True
    """
    version, keys, gauss = random.getstate()
    name, words, position, has_gauss, cached = np.random.get_state()
    tensors = {
        "torch": torch.get_rng_state(),
        "numpy": torch.from_numpy(np.array(words, dtype=np.int64)),
    }
    if torch.cuda.is_available():
        for index, state in enumerate(torch.cuda.get_rng_state_all()):
            tensors[f"cuda{index:03d}"] = state
    plain = {
        "python": [version, list(keys), gauss],
        "numpy": [str(name), int(position), int(has_gauss), float(cached)],
    }
    return tensors, plain


def restore(tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
    """Restore the random states."""
    torch.set_rng_state(tensors["torch"])
    devices = [tensors[name] for name in sorted(tensors) if name.startswith("cuda")]
    if devices and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(devices[: torch.cuda.device_count()])
    version, keys, gauss = plain["python"]
    random.setstate((version, tuple(keys), gauss))
    name, position, has_gauss, cached = plain["numpy"]
    words = tensors["numpy"].numpy().astype(np.uint32)
    np.random.set_state((name, words, position, has_gauss, cached))
