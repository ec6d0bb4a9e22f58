"""How often is the answer right, and what is it taken for when it is wrong?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from limbeck.evaluate.interval import Interval, Result, wilson


class Accuracy(Result):
    """The share of right answers, with Wilson's interval over the samples."""

    value: float
    interval: Interval
    correct: int
    total: int
