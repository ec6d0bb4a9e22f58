"""Temperature scaling: a temperature fitted by maximum likelihood."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy
from numpy.typing import NDArray

from limbeck.evaluate.interval import Result
from limbeck.evaluate.probabilities import log_probabilities

if TYPE_CHECKING:
    from limbeck.export.predictor import Answers

RANGE = (0.01, 100.0)
"""The search range of the temperature."""


class Temperature(Result):
    """The divisor of the logits; 1, and not `fitted`, if the samples do not bound it.

    It is unbounded where every prediction is correct (the likelihood rises as T falls to 0), and
    where predictions are no better than chance (it rises with T).
    """

    value: float
    fitted: bool


def fit_temperature(answers: Answers) -> Temperature:
    r"""Fit the temperature of maximum likelihood.

    $$T = \arg\min_T \; -\frac1n \sum_i \log \mathrm{softmax}(z_i / T)_{y_i}$$

    This is convex in the inverse temperature: its derivative, the mean logit under the model less
    the label's, increases, and its only root is bracketed, in float64. Samples whose label has
    probability 0 have it at any temperature and are left out.

    Args:
        answers: Logits `[n, classes]` and labels `[n]` of samples that no metric is computed from.

    Example:
        >>> from limbeck.export.predictor import Answers
        >>> logits = np.array([[4.0, 0.0]] * 4, dtype=np.float32)
        >>> round(fit_temperature(Answers(logits, np.array([0, 0, 0, 1]))).value, 3)
        3.641

    Source: Guo et al., ICML 2017 (arXiv:1706.04599).
    """
    log_p = log_probabilities(answers.logits)
    own = log_p[np.arange(len(answers)), answers.labels]
    log_p, own = log_p[np.isfinite(own)], own[np.isfinite(own)]
    # An infinite logit of probability 0 adds nothing to the mean.
    finite = np.where(np.isfinite(log_p), log_p, 0.0)

    def slope(inverse: float) -> float:
        expected = (scipy.special.softmax(inverse * log_p, axis=1) * finite).sum(axis=1)
        return float((expected - own).mean())

    coldest, hottest = 1 / RANGE[0], 1 / RANGE[1]
    if not len(own) or slope(coldest) <= 0 or slope(hottest) >= 0:
        return Temperature(value=1.0, fitted=False)
    return Temperature(value=1 / scipy.optimize.brentq(slope, hottest, coldest), fitted=True)


def scaled(log_p: NDArray[np.float64], temperature: Temperature) -> NDArray[np.float64]:
    """Apply a temperature to log-probabilities, `[n, classes]`; the order of classes is unchanged.

    Example:
        >>> half = scaled(np.log([[0.8, 0.2]]), Temperature(value=0.5, fitted=True))
        >>> np.exp(half).round(4).tolist()
        [[0.9412, 0.0588]]
    """
    return np.asarray(scipy.special.log_softmax(log_p / temperature.value, axis=1))
