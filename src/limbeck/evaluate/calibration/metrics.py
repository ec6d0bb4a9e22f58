"""Expected, maximum, debiased and static calibration error over confidence bins (ECE, MCE, SCE)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from limbeck.core.measurement import Result
from limbeck.evaluate.metrics import brier, log_probabilities, losses

if TYPE_CHECKING:
    from limbeck.export.predictor import Predictions


Values = NDArray[np.float64]
JUST_UNDER_ONE = np.nextafter(np.float32(1), np.float32(0))


class Bin(Result):
    """The samples of confidence `low` to `high`: their number, mean confidence and accuracy."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Binning:
    """The assignment of samples to bins.

    Attributes:
        edges: The bin edges in rising order, `[bins + 1]`.
        place: The bin index of each sample, `[samples]`.
    """

    edges: Values
    place: NDArray[np.int64]

    def sums(self, values: Values) -> Values:
        """Compute the sum of values, `[samples]`, within each bin: `[bins]`."""
        bins = len(self.edges) - 1
        return np.asarray(np.bincount(self.place, weights=values, minlength=bins), np.float64)

    def spread(self, values: Values) -> Values:
        """Write values, `[samples]`, each into the column of its bin: `[samples, bins]`."""
        columns = np.zeros((len(values), len(self.edges) - 1))
        columns[np.arange(len(values)), self.place] = values
        return columns


def equal_width(confidence: Values, *, bins: int = 15) -> Binning:
    """Assign confidences `[samples]` to bins of equal width over [0, 1], as torchmetrics does.

    Example:
        >>> equal_width(np.array([0.1, 0.6, 1.0]), bins=2).place.tolist()
        [0, 1, 1]

    Source: Guo et al., ICML 2017 (arXiv:1706.04599).
    """
    # In float32, as in torchmetrics: a confidence on an edge must fall on the same side.
    edges = np.linspace(0, 1, bins + 1, dtype=np.float32)
    clipped = np.minimum(confidence.astype(np.float32), JUST_UNDER_ONE)
    place = np.searchsorted(edges, clipped, side="right") - 1
    return Binning(edges.astype(np.float64), place.astype(np.int64))


def equal_mass(confidence: Values, *, bins: int = 15) -> Binning:
    """Assign confidences to bins of about equally many samples; equal confidences share a bin.

    Some bins stay empty if many confidences are equal.

    Example:
        >>> equal_mass(np.array([0.1, 0.7, 0.8, 0.9]), bins=2).place.tolist()
        [0, 0, 1, 1]

    Source: Nixon et al., CVPR Workshops 2019 (arXiv:1904.01685).
    """
    edges = np.quantile(confidence, np.linspace(0, 1, bins + 1))
    return Binning(edges, np.searchsorted(edges[1:-1], confidence).astype(np.int64))


def expected_calibration_error(confidence: Values, right: Values, binning: Binning) -> float:
    r"""Compute the expected calibration error (ECE); `right` is 1 for a correct prediction, else 0.

    $$\mathrm{ECE} = \sum_b \frac{n_b}{n} \, |\mathrm{acc}_b - \mathrm{conf}_b|$$

    Example:
        >>> confidence = np.array([0.75, 0.75])
        >>> expected_calibration_error(confidence, np.array([1.0, 0.0]), equal_width(confidence))
        0.25
    """
    return float(np.abs(binning.sums(right - confidence)).sum() / len(right))


def max_calibration_error(confidence: Values, right: Values, binning: Binning) -> float:
    """Compute the maximum calibration error (MCE): the largest gap over all non-empty bins.

    Source: Naeini et al., AAAI 2015.
    """
    count = np.maximum(binning.sums(np.ones_like(right)), 1)
    return float(np.max(np.abs(binning.sums(right - confidence)) / count))


def debiased_calibration_error(confidence: Values, right: Values, binning: Binning) -> float:
    r"""Compute the debiased root mean squared calibration error.

    $$\sqrt{\max\Big(0, \sum_b \frac{n_b}{n}\Big[(\mathrm{acc}_b - \mathrm{conf}_b)^2
      - \frac{\mathrm{acc}_b (1 - \mathrm{acc}_b)}{n_b - 1}\Big]\Big)}$$

    A bin of one sample has no variance estimate and is left out.

    Source: Kumar et al., NeurIPS 2019 (arXiv:1909.10155).
    """
    count = binning.sums(np.ones_like(right))
    several = count > 1
    count = count[several]
    accuracy = binning.sums(right)[several] / count
    gap = binning.sums(right - confidence)[several] / count
    squared = (gap**2 - accuracy * (1 - accuracy) / (count - 1)) * count / len(right)
    return float(np.sqrt(max(0.0, squared.sum())))


def class_wise_calibration_error(
    probabilities: Values, labels: NDArray[np.int64], *, bins: int = 15
) -> float:
    r"""Compute the static (class-wise) calibration error (SCE), averaged over the classes.

    $$\mathrm{SCE} = \frac1C \sum_c \sum_b \frac{n_{bc}}{n} \, |\mathrm{share}_{bc}
      - \mathrm{conf}_{bc}|$$

    Example:
        >>> class_wise_calibration_error(np.array([[0.75, 0.25]]), np.array([0]))
        0.25

    Source: Nixon et al., CVPR Workshops 2019 (arXiv:1904.01685).
    """
    samples, classes = probabilities.shape
    errors = [
        expected_calibration_error(
            column, (labels == c).astype(np.float64), equal_width(column, bins=bins)
        )
        for c, column in enumerate(probabilities.T)
    ]
    return float(np.sum(errors) / classes) if samples else 0.0


def diagram(confidence: Values, right: Values, binning: Binning) -> tuple[Bin, ...]:
    """Compute a reliability diagram: sample count, mean confidence and accuracy per bin."""
    count = binning.sums(np.ones_like(right)).astype(np.int64)
    divisor = np.maximum(count, 1)
    columns = (
        binning.edges[:-1],
        binning.edges[1:],
        count.tolist(),
        binning.sums(confidence) / divisor,
        binning.sums(right) / divisor,
    )
    return tuple(
        Bin(low=low, high=high, count=n, confidence=c, accuracy=a)
        for low, high, n, c, a in zip(*columns, strict=True)
    )


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
    """Compute the calibration metrics of log-probabilities `[samples, classes]`.

    Example:
        >>> found = reliability(np.log([[0.75, 0.25], [0.75, 0.25]]), np.array([0, 1]))
        >>> round(found.ece, 4), round(found.mce, 4), round(found.brier, 4)
        (0.25, 0.25, 0.625)
    """
    confidence, right = top(log_p, labels)
    width = equal_width(confidence, bins=bins)
    mass = equal_mass(confidence, bins=bins)
    return Reliability(
        ece=expected_calibration_error(confidence, right, width),
        ece_equal_mass=expected_calibration_error(confidence, right, mass),
        ece_class_wise=class_wise_calibration_error(np.exp(log_p), labels, bins=bins),
        ece_debiased=debiased_calibration_error(confidence, right, mass),
        mce=max_calibration_error(confidence, right, width),
        brier=float(brier(log_p, labels).mean()),
        nll=float(losses(log_p, labels).mean()),
        bins=diagram(confidence, right, width),
    )


def top(log_p: Values, labels: NDArray[np.int64]) -> tuple[Values, Values]:
    """Return the confidence of the top-1 prediction and its correctness: `[samples]` each."""
    return np.exp(log_p.max(axis=1)), (log_p.argmax(axis=1) == labels).astype(np.float64)


def gaps(log_p: Values, labels: NDArray[np.int64], *, bins: int = 15) -> Values:
    """Compute correctness less confidence, in the column of the sample's bin: `[samples, bins]`."""
    confidence, right = top(log_p, labels)
    return equal_width(confidence, bins=bins).spread(right - confidence)


class Calibration(Result):
    """The calibration metrics computed for every file: ECE, NLL, and the bins.

    The calibration evaluation adds further metrics and confidence intervals.
    """

    ece: float
    nll: float
    bins: tuple[Bin, ...]


def calibration(predictions: Predictions, *, bins: int = 15) -> Calibration:
    """Compute the expected calibration error and the negative log-likelihood in nats, in float64.

    Example:
        >>> from limbeck.export.predictor import Predictions
        >>> found = calibration(Predictions(np.zeros((2, 2), dtype=np.float32), np.array([0, 0])))
        >>> found.ece, round(found.nll, 4)
        (0.5, 0.6931)

    Source: Guo et al., ICML 2017 (arXiv:1706.04599).
    """
    found = reliability(log_probabilities(predictions.logits), predictions.labels, bins=bins)
    return Calibration(ece=found.ece, nll=found.nll, bins=found.bins)
