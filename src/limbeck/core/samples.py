"""Samples of a batch, whose inputs may have axes of their own, such as the edges of a graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

BATCH = "batch"
"""The name of the axis that counts samples."""

Axes: TypeAlias = Mapping[str, Sequence[object]]
"""The names of each input's axes, from the first on."""

ArrayT = TypeVar("ArrayT", "Tensor", "NDArray[Any]")


def sample_axis(name: str, axes: Axes) -> int | None:
    """Return the number of the axis that counts samples; None if none of an input does.

    An entry that is no input, such as the labels, has its samples first.

    Example:
        >>> axes = {"features": ("nodes",), "nodes": ("batch",)}
        >>> [sample_axis(name, axes) for name in ("features", "nodes", "labels")]
        [None, 0, 0]
    """
    if name not in axes:
        return 0
    return list(axes[name]).index(BATCH) if BATCH in axes[name] else None


def count_samples(batch: Mapping[str, ArrayT], axes: Axes) -> int:
    """Return the number of samples of a batch.

    Args:
        batch: Tensors or arrays by name.
        axes: The names of each input's axes.

    Example:
        >>> import numpy as np
        >>> axes = {"features": ("nodes",), "nodes": ("batch",)}
        >>> count_samples({"features": np.zeros((7, 2)), "nodes": np.array([0, 3])}, axes)
        2
    """
    for name, value in batch.items():
        place = sample_axis(name, axes)
        if place is not None and value.ndim > place:
            return int(value.shape[place])
    return 1


def select_samples(
    batch: Mapping[str, ArrayT], axes: Axes, rows: Sequence[int] | NDArray[np.int64] | slice
) -> dict[str, ArrayT]:
    """Select samples of a batch; inputs without an axis `batch` are returned whole.

    Args:
        batch: Tensors or arrays by name.
        axes: The names of each input's axes.
        rows: The numbers of the samples.

    Example:
        >>> import numpy as np
        >>> batch = {"features": np.zeros((7, 2)), "nodes": np.array([4, 6]), "labels": np.eye(2)}
        >>> axes = {"features": ("nodes",), "nodes": ("batch",)}
        >>> found = select_samples(batch, axes, [1])
        >>> found["features"].shape, found["nodes"].tolist(), found["labels"].tolist()
        ((7, 2), [6], [[0.0, 1.0]])
    """
    found = {}
    for name, value in batch.items():
        place = sample_axis(name, axes)
        found[name] = value if place is None else value[(slice(None),) * place + (rows,)]
    return found
