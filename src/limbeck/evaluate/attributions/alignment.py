"""Attribution similarity: cosine, rank correlation, and overlap of the top positions."""

from __future__ import annotations

import math

import numpy as np
import scipy
from numpy.typing import NDArray

Array = NDArray[np.float64]


def cosine(one: Array, other: Array) -> Array:
    r"""Compute the cosine similarity of two maps, `[n]`; NaN where one is zero everywhere.

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
    """Compute Spearman's rank correlation of two maps, `[n]`; NaN where a map is constant.

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
    r"""Compute the share of the top-k positions that two maps have in common, `[n]`.

    $$\frac1k \sum_i \min(m^a_i, m^b_i)$$

    where m is 1 for the k positions of largest absolute value. Positions tied with the k-th share
    the rest of k equally.

    Args:
        one: Maps, `[n, places]`.
        other: Maps of the same inputs, `[n, places]`.
        share: k as a share of all positions; at least one position.

    Example:
        >>> top_overlap(np.array([[3.0, -2.0, 1.0, 0.0]]), np.array([[0.0, 5.0, 1.0, 2.0]]),
        ...             share=0.5)
        array([0.5])
    """
    count = max(1, math.ceil(share * one.shape[1]))
    return np.minimum(_strongest(one, count), _strongest(other, count)).sum(axis=1) / count


def _strongest(maps: Array, count: int) -> Array:
    """Compute the membership of each position in the top k, `[n, places]`; each row sums to k."""
    strength = np.abs(maps)
    least = -np.partition(-strength, count - 1, axis=1)[:, count - 1 : count]
    above, tied = strength > least, strength == least
    left = (count - above.sum(axis=1)) / tied.sum(axis=1)
    return above + tied * left[:, None]


def _ratio(part: Array, of: Array) -> Array:
    return np.divide(part, of, out=np.full(of.shape, np.nan), where=of > 0)
