"""The median as a bootstrap statistic."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from limbeck.evaluate.bootstrap import Statistic


def median_of(values: NDArray[np.float64]) -> Statistic:
    """Return the statistic of the median of one value per sample, the lower of the two middle ones.

    Example:
        >>> float(median_of(np.array([3.0, 1.0, 2.0]))(np.ones((1, 3)))[0])
        2.0
    """
    order = np.argsort(values, kind="stable")
    ordered = values[order]

    def median(counts: NDArray[np.float64]) -> NDArray[np.float64]:
        below = np.cumsum(counts[:, order], axis=1)
        return ordered[(2 * below < below[:, -1:]).sum(axis=1)]

    return median
