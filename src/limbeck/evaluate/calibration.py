"""When the model says 80 %, is it right 80 % of the time?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from limbeck.evaluate.binning import Bin
from limbeck.evaluate.interval import Result
from limbeck.evaluate.probabilities import log_probabilities
from limbeck.evaluate.reliability import reliability

if TYPE_CHECKING:
    from limbeck.export.predictor import Answers


class Calibration(Result):
    """What is measured of every file: calibration error, log-likelihood, and the bins.

    The calibration question has the other ways to measure it, with intervals.
    """

    ece: float
    nll: float
    bins: tuple[Bin, ...]


def calibration(answers: Answers, *, bins: int = 15) -> Calibration:
    r"""Compare how sure the model is with how often it is right.

    $$\mathrm{ECE} = \sum_b \frac{n_b}{n} \, |\mathrm{acc}_b - \mathrm{conf}_b|, \qquad
      \mathrm{NLL} = -\frac1n \sum_i \log p_{i,y_i}$$

    Log-likelihood is in nats; all in float64.

    Args:
        answers: Logits `[n, classes]` and labels `[n]`.
        bins: How many bins of equal width divide the confidences from 0 to 1.

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
