"""When the model says 80 %, is it right 80 % of the time?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from limbeck.evaluate.interval import Result

if TYPE_CHECKING:
    from limbeck.export.predictor import Answers


class Bin(Result):
    """Samples of confidence between `low` and `high`: how many, how sure, how often right."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


class Calibration(Result):
    """Expected calibration error over bins of top confidence, log-likelihood, and the bins."""

    ece: float
    nll: float
    bins: tuple[Bin, ...]


def calibration(answers: Answers, *, bins: int = 15) -> Calibration:
    r"""Compare how sure the model is with how often it is right.

    $$\mathrm{ECE} = \sum_b \frac{n_b}{n} \, |\mathrm{acc}_b - \mathrm{conf}_b|, \qquad
      \mathrm{NLL} = -\frac1n \sum_i \log p_{i,y_i}$$

    The error is torchmetrics' `multiclass_calibration_error`; the bins are those it sums over, for
    the reliability diagram. Log-likelihood is in nats, in float64.

    Args:
        answers: Logits `[n, classes]` and labels `[n]`.
        bins: How many bins of equal width divide the confidences from 0 to 1.

    Source: Guo et al., ICML 2017 (arXiv:1706.04599).
    """
    log_p = special.log_softmax(answers.logits.astype(np.float64), axis=1)
    nll = -log_p[np.arange(len(answers)), answers.labels].mean()
    # torchmetrics puts a confidence of exactly 1 into a bin of its own; just under 1 it falls into
    # the last.
    just_under_one = np.nextafter(np.float32(1), np.float32(0))
    probabilities = np.minimum(np.exp(log_p).astype(np.float32), just_under_one)
    return Calibration(
        ece=_ece(probabilities, answers.labels, bins),
        nll=float(nll),
        bins=_bins(probabilities, answers.labels, bins),
    )


def _ece(probabilities: NDArray[np.float32], labels: NDArray[np.int64], bins: int) -> float:
    import torch
    from torchmetrics.functional.classification import multiclass_calibration_error

    error = multiclass_calibration_error(
        torch.from_numpy(probabilities),
        torch.from_numpy(labels),
        num_classes=probabilities.shape[1],
        n_bins=bins,
        norm="l1",
    )
    return float(error)


def _bins(
    probabilities: NDArray[np.float32], labels: NDArray[np.int64], bins: int
) -> tuple[Bin, ...]:
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    edges = np.linspace(0, 1, bins + 1, dtype=np.float32)
    place = np.searchsorted(edges, confidence, side="right") - 1
    return tuple(
        _bin(float(edges[b]), float(edges[b + 1]), confidence[place == b], right[place == b])
        for b in range(bins)
    )


def _bin(low: float, high: float, confidence: NDArray[Any], right: NDArray[Any]) -> Bin:
    count = len(confidence)
    return Bin(
        low=low,
        high=high,
        count=count,
        confidence=float(confidence.mean(dtype=np.float64)) if count else 0.0,
        accuracy=float(right.mean()) if count else 0.0,
    )
