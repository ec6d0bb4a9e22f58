"""Bias-corrected expected calibration error (ECE) of the population, with a confidence interval."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import scipy
from numpy.typing import NDArray

from limbeck.core.measurement import Interval, Result
from limbeck.evaluate.bootstrap import PairedEstimate, Resamples, mean
from limbeck.evaluate.comparison import Estimate
from limbeck.evaluate.metrics import log_probabilities

if TYPE_CHECKING:
    from limbeck.export.predictor import Predictions


Values = NDArray[np.float64]
FINE = 1e-6
"""Tolerance to which an end of an interval is solved."""


def corrected_error(resamples: Resamples, gaps: Values) -> Estimate:
    r"""Estimate the expected calibration error of the population, corrected for its upward bias.

    With $g_b$ the mean of (right - confidence) over all samples, counted in bin b, the plain error
    is $\sum_b |g_b|$, which is positive on a sample even for a calibrated model. The interval holds
    the errors t that the observed one does not reject,

    $$\Pr\Big(\sum_b |t\, d_b + \varepsilon_b| \le \sum_b |g_b|\Big) \in [0.025, 0.975]$$

    where $\varepsilon$ are the bootstrap's deviations from g, and d divides the error among the
    bins, $d_b \propto \mathrm{sign}(g_b) \sqrt{g_b^2 + \mathrm{var}\,\varepsilon_b}$. The value is
    the t at which the probability is one half. The population's error is over the same bins.

    In simulation, on 300 samples of a calibrated, an overconfident and a strongly overconfident
    model, 94 to 95 % of 1500 intervals held the population's error, and on 200 and 1000 samples 93
    to 98 % of 400; of plain percentile intervals of the calibrated model none did.

    Args:
        resamples: The bootstrap resamples.
        gaps: Right less confidence in the column of the sample's bin, `[samples, bins]`.

    Example:
        >>> from limbeck.evaluate.calibration.metrics import equal_width
        >>> random = np.random.default_rng(1)
        >>> sure = random.uniform(0.5, 1, 500)
        >>> right = (random.random(500) < sure).astype(float)
        >>> corrected_error(Resamples(500), equal_width(sure).spread(right - sure)).interval.low
        0.0

    Source: the inversion of a test, as in Casella and Berger, Statistical Inference, 9.2.1; for the
    bias Bröcker, Quarterly Journal of the Royal Meteorological Society 2012.
    """
    return _inverted(gaps, resamples.distribution(lambda counts: mean(counts, gaps)))


def corrected_errors(
    resamples: Resamples, student: Values, teacher: Values | None
) -> PairedEstimate:
    r"""Estimate the calibration errors of both models, and the difference from both intervals.

    $$\hat s - \hat t - \sqrt{(\hat s - l_s)^2 + (u_t - \hat t)^2
      - 2\rho (\hat s - l_s)(u_t - \hat t)}$$

    is the lower end, the upper one likewise, with ρ the correlation of the two plain errors over
    the draws, which are the same for both. In simulation, 96 to 97 % of 1500 such intervals on 300
    samples held the difference: they are conservative.

    Args:
        resamples: The bootstrap resamples.
        student: Right less confidence in the column of the sample's bin, `[samples, bins]`.
        teacher: The same of the teacher.

    Source: Zou and Donner, Statistics in Medicine 2008.
    """
    drawn = resamples.distribution(lambda counts: mean(counts, student))
    one = _inverted(student, drawn)
    if teacher is None:
        return PairedEstimate(student=one)
    beside = resamples.distribution(lambda counts: mean(counts, teacher))
    other = _inverted(teacher, beside)
    correlation = _correlation(np.abs(drawn).sum(axis=1), np.abs(beside).sum(axis=1))
    return PairedEstimate(
        student=one, teacher=other, difference=_difference(one, other, correlation)
    )


def _inverted(gaps: Values, drawn: Values) -> Estimate:
    gap = gaps.mean(axis=0)
    noise = drawn - gap
    observed = float(np.abs(gap).sum())
    shape = _shape(gap, noise)

    def beyond(error: float, level: float) -> float:
        """Compute by how much this quantile, under the given error, exceeds the observed error."""
        return float(np.quantile(np.abs(error * shape + noise).sum(axis=1), level)) - observed

    def where(level: float) -> float:
        """Solve for the error whose quantile equals the observed one; monotone in the error."""
        if beyond(0.0, level) >= 0:
            return 0.0
        if beyond(1.0, level) <= 0:
            return 1.0
        return float(scipy.optimize.brentq(beyond, 0.0, 1.0, args=(level,), xtol=FINE))

    interval = Interval(low=where(0.975), high=where(0.025), method="inverted bootstrap test")
    return Estimate(value=where(0.5), interval=interval)


def _shape(gap: Values, noise: Values) -> Values:
    """Compute each bin's share of the error, with no share below the bin's noise.

    Without that bound, a bin whose observed error is small by chance would count as pure noise, and
    the correction would be too large.
    """
    size = np.sqrt(gap**2 + noise.var(axis=0))
    total = size.sum()
    return np.asarray(np.copysign(size / total, gap)) if total > 0 else np.ones_like(gap) / len(gap)


def _correlation(one: Values, other: Values) -> float:
    if one.std() == 0 or other.std() == 0:
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])


def _difference(one: Estimate, other: Estimate, correlation: float) -> Estimate:
    assert one.interval is not None
    assert other.interval is not None
    value = one.value - other.value
    down = _joined(one.value - one.interval.low, other.interval.high - other.value, correlation)
    up = _joined(one.interval.high - one.value, other.value - other.interval.low, correlation)
    method = "square-and-add of inverted bootstrap tests"
    return Estimate(
        value=value, interval=Interval(low=value - down, high=value + up, method=method)
    )


def _joined(one: float, other: float, correlation: float) -> float:
    return math.sqrt(max(0.0, one**2 + other**2 - 2 * correlation * one * other))


RANGE = (0.01, 100.0)
"""The search range of the temperature."""


class Temperature(Result):
    """The divisor of the logits; 1, and not `fitted`, if the samples do not bound it.

    It is unbounded where every prediction is correct (the likelihood rises as T falls to 0), and
    where predictions are no better than chance (it rises with T).
    """

    value: float
    fitted: bool


def fit_temperature(answers: Predictions) -> Temperature:
    r"""Fit the temperature of maximum likelihood.

    $$T = \arg\min_T \; -\frac1n \sum_i \log \mathrm{softmax}(z_i / T)_{y_i}$$

    This is convex in the inverse temperature: its derivative, the mean logit under the model less
    the label's, increases, and its only root is bracketed, in float64. Samples whose label has
    probability 0 have it at any temperature and are left out.

    Args:
        answers: Logits `[n, classes]` and labels `[n]` of samples that no metric is computed from.

    Example:
        >>> from limbeck.export.predictor import Predictions
        >>> logits = np.array([[4.0, 0.0]] * 4, dtype=np.float32)
        >>> round(fit_temperature(Predictions(logits, np.array([0, 0, 0, 1]))).value, 3)
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
