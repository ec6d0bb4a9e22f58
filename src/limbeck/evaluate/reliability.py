"""Calibration metrics of one model: ECE and its variants, MCE, Brier score, NLL."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from limbeck.evaluate import binning
from limbeck.evaluate.binning import Bin
from limbeck.evaluate.interval import Result
from limbeck.evaluate.probabilities import brier, losses

Values = NDArray[np.float64]


class Reliability(Result):
    """The calibration metrics of one model.

    Attributes:
        ece: Expected calibration error over bins of equal width, as in the literature.
        ece_equal_mass: The same over bins of equally many samples.
        ece_class_wise: The same of every class's probability, averaged over the classes.
        ece_debiased: Debiased root mean squared error over bins of equal mass.
        mce: Maximum calibration error over bins of equal width.
        brier: Mean Brier score, in [0, 2].
        nll: Mean negative log-likelihood, in nats.
        bins: The bins of equal width, for the reliability diagram.
    """

    ece: float
    ece_equal_mass: float
    ece_class_wise: float
    ece_debiased: float
    mce: float
    brier: float
    nll: float
    bins: tuple[Bin, ...]


def reliability(log_p: Values, labels: NDArray[np.int64], *, bins: int = 15) -> Reliability:
    """Compute the calibration metrics.

    Args:
        log_p: Log-probabilities, `[samples, classes]`.
        labels: `[samples]`.
        bins: Number of bins.

    Example:
        >>> found = reliability(np.log([[0.75, 0.25], [0.75, 0.25]]), np.array([0, 1]))
        >>> round(found.ece, 4), round(found.mce, 4), round(found.brier, 4)
        (0.25, 0.25, 0.625)
    """
    confidence, right = top(log_p, labels)
    width = binning.equal_width(confidence, bins=bins)
    mass = binning.equal_mass(confidence, bins=bins)
    return Reliability(
        ece=binning.expected_error(confidence, right, width),
        ece_equal_mass=binning.expected_error(confidence, right, mass),
        ece_class_wise=binning.class_wise_error(np.exp(log_p), labels, bins=bins),
        ece_debiased=binning.debiased_error(confidence, right, mass),
        mce=binning.largest_error(confidence, right, width),
        brier=float(brier(log_p, labels).mean()),
        nll=float(losses(log_p, labels).mean()),
        bins=binning.diagram(confidence, right, width),
    )


def top(log_p: Values, labels: NDArray[np.int64]) -> tuple[Values, Values]:
    """Return the confidence of the top-1 prediction and its correctness: `[samples]` each."""
    return np.exp(log_p.max(axis=1)), (log_p.argmax(axis=1) == labels).astype(np.float64)


def gaps(log_p: Values, labels: NDArray[np.int64], *, bins: int = 15) -> Values:
    """Write right less confidence into the column of the bin of equal width: `[samples, bins]`."""
    confidence, right = top(log_p, labels)
    return binning.equal_width(confidence, bins=bins).spread(right - confidence)
