"""Cache of torch's ONNX operator registry, built once per process.

`torch.onnx.export` rebuilds the registry for every file, which takes up to a quarter of an export's
time, and a recipe exports after each stage.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any

_known: dict[object, Any] = {}
_lock = RLock()


@contextmanager
def listed_once() -> Iterator[None]:
    """Share the registry between exports in this context; do nothing if torch has it elsewhere.

    Example:
        >>> with listed_once():
        ...     pass
    """
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry
    except ImportError:  # private API: other versions of torch may have it elsewhere
        yield
        return
    with _lock:
        original = vars(ONNXRegistry).get("from_torchlib")
        if not isinstance(original, classmethod):
            yield
            return
        shared = staticmethod(_shared(ONNXRegistry.from_torchlib))
        ONNXRegistry.from_torchlib = shared  # type: ignore[method-assign]
        try:
            yield
        finally:
            ONNXRegistry.from_torchlib = original  # type: ignore[method-assign,assignment]


def _shared(listed: Callable[..., Any]) -> Callable[..., Any]:
    def from_torchlib(*opset: Any, **options: Any) -> Any:
        key = (*opset, *sorted(options.items()))
        if key not in _known:
            _known[key] = listed(*opset, **options)
        registry = copy.copy(_known[key])
        # An export adds its own operators; the next may have others.
        registry.functions = {name: list(found) for name, found in registry.functions.items()}
        return registry

    return from_torchlib
