"""The Pareto front, and its knee."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from limbeck.errors import InputError, Problem, check_choice

Direction = Literal["minimize", "maximize"]


def pareto(points: ArrayLike, directions: Sequence[Direction]) -> NDArray[np.bool_]:
    """Return the mask `[n]` of the Pareto front: the points that no other point dominates.

    A point dominates another if it is at least as good in every coordinate and better in one; of
    points that are equal in all, none dominates.

    Args:
        points: `[n, k]`, finite.
        directions: Whether each of the `k` coordinates is minimized or maximized.

    Raises:
        InputError: A number is not finite, or the number of directions is not that of coordinates.

    Example:
        >>> pareto([[1, 0.90], [2, 0.95], [3, 0.94]], ["minimize", "maximize"]).tolist()
        [True, True, False]
    """
    costs = _costs(points, directions)
    no_worse = (costs[:, None] <= costs[None]).all(axis=2)
    better = (costs[:, None] < costs[None]).any(axis=2)
    return ~np.asarray((no_worse & better).any(axis=0))


def knee(points: ArrayLike, directions: Sequence[Direction]) -> int | None:
    r"""Return the index of the knee of a front, beyond which one coordinate improves little.

    With both coordinates scaled to $[0, 1]$ over the front and oriented so that small is good, the
    ends of the front are $(0, 1)$ and $(1, 0)$. The knee is the point farthest from the line
    between them, on its better side: the largest $(1 - x - y)/\sqrt 2$.

    Args:
        points: The front, `[n, 2]`, finite.
        directions: Whether each coordinate is minimized or maximized.

    Returns:
        The knee's index (the first of equals); None if no point lies on the better side of the
        line, as with fewer than three points.

    Raises:
        InputError: A number is not finite, or there are not two coordinates.

    Example:
        >>> knee([[1, 0.60], [2, 0.95], [9, 0.97]], ["minimize", "maximize"])
        1
        >>> knee([[1, 0.60], [2, 0.95]], ["minimize", "maximize"]) is None
        True

    Source: Das, Structural Optimization 1999 (the bulge of the front over its ends).
    """
    costs = _costs(points, directions)
    if costs.shape[1] != 2:
        raise InputError(Problem("points", f"{costs.shape[1]} coordinates", "two coordinates"))
    if len(costs) < 3 or not np.ptp(costs, axis=0).all():
        return None
    bulge = 1 - ((costs - costs.min(axis=0)) / np.ptp(costs, axis=0)).sum(axis=1)
    best = int(bulge.argmax())
    # Rounding may put a point of the line above it.
    return best if bulge[best] > 1e-9 else None


def _costs(points: ArrayLike, directions: Sequence[Direction]) -> NDArray[np.float64]:
    """Convert every coordinate so that small is good."""
    for direction in directions:
        check_choice(direction, ("minimize", "maximize"), where="directions")
    array = np.asarray(points, dtype=np.float64).reshape(-1, len(directions))
    if len(array) != len(np.asarray(points)):
        given = f"{len(directions)} for points of shape {np.shape(points)}"
        raise InputError(Problem("directions", given, "one for each coordinate"))
    if not np.isfinite(array).all():
        raise InputError(Problem("points", "NaN or infinity", "finite numbers"))
    return array * np.where([direction == "maximize" for direction in directions], -1.0, 1.0)
