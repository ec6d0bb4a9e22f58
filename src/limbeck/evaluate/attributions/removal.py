"""Deletion score: the loss of probability when the top positions of a map are removed."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import scipy
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Answer = Callable[[Mask], NDArray[np.float32]]


def strongest(maps: Array, there: Mask, *, share: float) -> Mask:
    """Return the mask of each input's positions of highest attribution: `[n, places]`.

    Args:
        maps: The attribution of each position, `[n, places]`.
        there: The positions of each input (others are padding), `[n, places]`.
        share: The share of them that is marked; at least one.

    Example:
        >>> strongest(np.array([[1.0, 3.0, -5.0, 9.0]]), np.array([[True, True, True, False]]),
        ...           share=0.3)
        array([[False,  True, False, False]])
    """
    order = np.argsort(np.where(there, -maps, np.inf), axis=1, kind="stable")
    count = np.array([max(1, math.ceil(share * n)) for n in there.sum(axis=1)])
    rank = np.argsort(order, axis=1, kind="stable")
    return (rank < count[:, None]) & there


def fall(answer: Answer, marked: Mask, classes: NDArray[np.int64]) -> Array:
    """Compute the deletion score: the decrease of probability without some positions, `[n]`.

    Args:
        answer: Predicts the inputs without the positions of a mask: logits, `[n, classes]`.
        marked: The removed positions, `[n, places]`.
        classes: The class of the probability, `[n]`.

    Source: Samek et al., TNNLS 2017 (arXiv:1509.06321).
    """
    rows = np.arange(len(classes))
    nothing = np.zeros_like(marked)
    before, after = (
        scipy.special.softmax(answer(mask).astype(np.float64), axis=1)[rows, classes]
        for mask in (nothing, marked)
    )
    return before - after
