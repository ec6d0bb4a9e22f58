"""One number that makes a model as sure as it is right: a temperature fitted by likelihood."""

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
"""Where a temperature is looked for."""


class Temperature(Result):
    """What logits are divided by; 1, and not `fitted`, if the samples set it no bound.

    A model that is right on every one of them would like to be ever surer, and one that is no
    better than chance ever less so; neither says how sure it should be of other samples.
    """

    value: float
    fitted: bool


def fit_temperature(answers: Answers) -> Temperature:
    r"""Find the temperature at which the labels are likeliest.

    $$T = \arg\min_T \; -\frac1n \sum_i \log \mathrm{softmax}(z_i / T)_{y_i}$$

    In the inverse temperature this is convex: its slope, the mean logit under the model less the
    label's, rises, and its only root is bracketed, in float64. Answers that rule their label out
    are as unlikely at any temperature and are left out.

    Args:
        answers: Logits `[n, classes]` and labels `[n]` of samples that no figure is taken from.

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
    # An infinite logit times no probability is no part of the mean.
    finite = np.where(np.isfinite(log_p), log_p, 0.0)

    def slope(inverse: float) -> float:
        expected = (scipy.special.softmax(inverse * log_p, axis=1) * finite).sum(axis=1)
        return float((expected - own).mean())

    coldest, hottest = 1 / RANGE[0], 1 / RANGE[1]
    if not len(own) or slope(coldest) <= 0 or slope(hottest) >= 0:
        return Temperature(value=1.0, fitted=False)
    return Temperature(value=1 / scipy.optimize.brentq(slope, hottest, coldest), fitted=True)


def scaled(log_p: NDArray[np.float64], temperature: Temperature) -> NDArray[np.float64]:
    """Give log-probabilities at a temperature, `[n, classes]`; the order of classes stays.

    Example:
        >>> half = scaled(np.log([[0.8, 0.2]]), Temperature(value=0.5, fitted=True))
        >>> np.exp(half).round(4).tolist()
        [[0.9412, 0.0588]]
    """
    return np.asarray(scipy.special.log_softmax(log_p / temperature.value, axis=1))
