"""Do two maps of the same input mark the same places?"""

from __future__ import annotations

import math

import numpy as np
import scipy
from numpy.typing import NDArray

Array = NDArray[np.float64]


def cosine(one: Array, other: Array) -> Array:
    r"""Give the cosine of the angle between two maps, `[n]`; NaN where one is zero everywhere.

    $$\frac{a \cdot b}{\lVert a \rVert \, \lVert b \rVert}$$

    Args:
        one: Maps, `[n, places]`.
        other: Maps of the same inputs, `[n, places]`.

    Example:
        >>> cosine(np.array([[1.0, 0.0], [1.0, 1.0]]), np.array([[2.0, 0.0], [1.0, -1.0]]))
        array([1., 0.])
    """
    length = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return _ratio((one * other).sum(axis=1), length)


def spearman(one: Array, other: Array) -> Array:
    """Give the correlation of the places' ranks, `[n]`; NaN where a map is the same everywhere.

    Args:
        one: Maps, `[n, places]`.
        other: Maps of the same inputs, `[n, places]`.

    Example:
        >>> spearman(np.array([[1.0, 2.0, 9.0]]), np.array([[1.0, 4.0, 5.0]]))
        array([1.])

    Source: Spearman, American Journal of Psychology 1904.
    """
    ranks = [scipy.stats.rankdata(maps, axis=1) for maps in (one, other)]
    return cosine(*(rank - rank.mean(axis=1, keepdims=True) for rank in ranks))


def top_overlap(one: Array, other: Array, *, share: float = 0.1) -> Array:
    r"""Give which share of the strongest places two maps have in common, `[n]`.

    $$\frac1k \sum_i \min(m^a_i, m^b_i)$$

    where m is 1 for the k strongest places, whatever their sign. Places as strong as the k-th share
    what is left of k among them.

    Args:
        one: Maps, `[n, places]`.
        other: Maps of the same inputs, `[n, places]`.
        share: How many places count, of all of them; at least one.

    Example:
        >>> top_overlap(np.array([[3.0, -2.0, 1.0, 0.0]]), np.array([[0.0, 5.0, 1.0, 2.0]]),
        ...             share=0.5)
        array([0.5])
    """
    count = max(1, math.ceil(share * one.shape[1]))
    return np.minimum(_strongest(one, count), _strongest(other, count)).sum(axis=1) / count


def _strongest(maps: Array, count: int) -> Array:
    """Say how much of each place is among the strongest, `[n, places]`; each row sums to count."""
    strength = np.abs(maps)
    least = -np.partition(-strength, count - 1, axis=1)[:, count - 1 : count]
    above, tied = strength > least, strength == least
    left = (count - above.sum(axis=1)) / tied.sum(axis=1)
    return above + tied * left[:, None]


def _ratio(part: Array, of: Array) -> Array:
    return np.divide(part, of, out=np.full(of.shape, np.nan), where=of > 0)
