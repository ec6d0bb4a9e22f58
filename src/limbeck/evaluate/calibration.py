"""Expected calibration error (ECE) and negative log-likelihood (NLL) of an exported file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limbeck.evaluate.binning import Bin
from limbeck.evaluate.interval import Result
from limbeck.evaluate.probabilities import log_probabilities
from limbeck.evaluate.reliability import reliability

if TYPE_CHECKING:
    from limbeck.export.predictor import Answers


class Calibration(Result):
    """The calibration metrics computed for every file: ECE, NLL, and the bins.

    The calibration evaluation adds further metrics and confidence intervals.
    """

    ece: float
    nll: float
    bins: tuple[Bin, ...]


def calibration(answers: Answers, *, bins: int = 15) -> Calibration:
    r"""Compute the expected calibration error and the negative log-likelihood.

    $$\mathrm{ECE} = \sum_b \frac{n_b}{n} \, |\mathrm{acc}_b - \mathrm{conf}_b|, \qquad
      \mathrm{NLL} = -\frac1n \sum_i \log p_{i,y_i}$$

    NLL is in nats; all in float64.

    Args:
        answers: Logits `[n, classes]` and labels `[n]`.
        bins: Number of bins of equal width over [0, 1].

    Example:
        >>> import numpy as np
        >>> from limbeck.export.predictor import Answers
        >>> found = calibration(Answers(np.zeros((2, 2), dtype=np.float32), np.array([0, 0])))
        >>> found.ece, round(found.nll, 4)
        (0.5, 0.6931)

    Source: Guo et al., ICML 2017 (arXiv:1706.04599).
    """
    found = reliability(log_probabilities(answers.logits), answers.labels, bins=bins)
    return Calibration(ece=found.ece, nll=found.nll, bins=found.bins)
