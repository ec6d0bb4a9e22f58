"""Is what a map marks what the answer rests on? Take it away, and ask again."""

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
    """Mark each input's places that spoke most for the class: `[n, places]`.

    Args:
        maps: What each place had to do with the class, `[n, places]`.
        there: Which places an input has (others are padding), `[n, places]`.
        share: How many of them are marked; at least one.

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
    """Give how far a class's probability falls when the marked places are taken away, `[n]`.

    Args:
        answer: Answers the inputs without the places of a mask: logits, `[n, classes]`.
        marked: Which places go, `[n, places]`.
        classes: Whose probability, `[n]`.

    Source: Samek et al., TNNLS 2017 (arXiv:1509.06321).
    """
    rows = np.arange(len(classes))
    nothing = np.zeros_like(marked)
    before, after = (
        scipy.special.softmax(answer(mask).astype(np.float64), axis=1)[rows, classes]
        for mask in (nothing, marked)
    )
    return before - after
