"""When the model says 80 %, is it right 80 % of the time?"""

from __future__ import annotations

from limbeck.evaluate.interval import Result


class Bin(Result):
    """The samples whose confidence lies between `low` and `high`: how many, how confident, how often right."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


class Calibration(Result):
    """Expected calibration error (15 equal bins of top confidence), negative log-likelihood, and the bins."""

    ece: float
    nll: float
    bins: tuple[Bin, ...]
