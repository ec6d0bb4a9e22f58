"""Parameter counts of models that may be too large to build."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from limbeck.core import fingerprint
from limbeck.core.process import LimitError, call_limited

if TYPE_CHECKING:
    from torch import nn

_counts: dict[str, int | LimitError] = {}


def count_parameters(key: object, build: Callable[[], nn.Module]) -> int:
    """Count a model's parameters on the meta device, in a child with limited time and memory.

    Args:
        key: The model's settings, as JSON: each model is built once per process.
        build: Builds the model.

    Raises:
        LimitError: The build exceeds a limit, or raises an exception.
    """
    import torch

    # The first draw on the meta device imports hundreds of modules of torch: here, so that the
    # child's limit on time is for the model alone.
    torch.empty(1, device="meta").normal_()

    def count() -> int:
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in build().parameters())

    name = fingerprint.of_json(key)
    if name not in _counts:
        try:
            _counts[name] = int(call_limited(count))
        except LimitError as error:
            _counts[name] = error
    result = _counts[name]
    if isinstance(result, LimitError):
        raise result
    return result
