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


def corrected_errors(
    resamples: Resamples, student: Values, teacher: Values | None = None
) -> PairedEstimate:
    r"""Estimate the expected calibration errors of the population, corrected for their upward bias.

    With $g_b$ the mean of (correct - confidence) over all samples, counted in bin b, the plain
    error is $\sum_b |g_b|$, which is positive on a sample even for a calibrated model. The interval
    holds the errors t that the observed one does not reject,

    $$\Pr\Big(\sum_b |t\, d_b + \varepsilon_b| \le \sum_b |g_b|\Big) \in [0.025, 0.975]$$

    where $\varepsilon$ are the bootstrap's deviations from g, and d divides the error among the
    bins, $d_b \propto \mathrm{sign}(g_b) \sqrt{g_b^2 + \mathrm{var}\,\varepsilon_b}$. The value is
    the t at which the probability is one half. The population's error is over the same bins. In
    simulation, 93 to 98 % of the intervals of calibrated and overconfident models on 200 to 1000
    samples held the population's error; of a calibrated model's plain percentile intervals, none.

    The interval of the difference, student less teacher, is conservative (96 to 97 % of 1500 on 300
    samples): with ρ the correlation of the plain errors over the resamples, its lower end is

    $$\hat s - \hat t - \sqrt{(\hat s - l_s)^2 + (u_t - \hat t)^2
      - 2\rho (\hat s - l_s)(u_t - \hat t)}$$

    Args:
        resamples: The bootstrap resamples.
        student: Its `metrics.gaps`, `[samples, bins]`.
        teacher: The same of the teacher.

    Example:
        >>> from limbeck.evaluate.calibration.metrics import equal_width
        >>> random = np.random.default_rng(1)
        >>> confidence = random.uniform(0.5, 1, 500)
        >>> gap = (random.random(500) < confidence) - confidence
        >>> found = corrected_errors(Resamples(500), equal_width(confidence).spread(gap))
        >>> found.student.interval.low
        0.0

    Source: the inversion of a test, as in Casella and Berger, Statistical Inference, 9.2.1; for the
    bias Bröcker, Quarterly Journal of the Royal Meteorological Society 2012; for the difference
    Zou and Donner, Statistics in Medicine 2008.
    """
    drawn = resamples.distribution(lambda counts: mean(counts, student))
    one = _inverted(student, drawn)
    if teacher is None:
        return PairedEstimate(student=one)
    teacher_drawn = resamples.distribution(lambda counts: mean(counts, teacher))
    other = _inverted(teacher, teacher_drawn)
    plain = [np.abs(values).sum(axis=1) for values in (drawn, teacher_drawn)]
    constant = any(error.std() == 0 for error in plain)
    correlation = 0.0 if constant else float(np.corrcoef(*plain)[0, 1])
    difference = _difference(one, other, correlation)
    return PairedEstimate(student=one, teacher=other, difference=difference)


def _inverted(gaps: Values, drawn: Values) -> Estimate:
    gap = gaps.mean(axis=0)
    noise = drawn - gap
    observed = float(np.abs(gap).sum())
    shape = _shape(gap, noise)

    def excess(error: float, level: float) -> float:
        """Compute by how much this quantile, under the given error, exceeds the observed error."""
        return float(np.quantile(np.abs(error * shape + noise).sum(axis=1), level)) - observed

    def solve(level: float) -> float:
        """Solve for the error whose quantile equals the observed one; monotone in the error."""
        if excess(0.0, level) >= 0:
            return 0.0
        if excess(1.0, level) <= 0:
            return 1.0
        return float(scipy.optimize.brentq(excess, 0.0, 1.0, args=(level,), xtol=FINE))

    interval = Interval(low=solve(0.975), high=solve(0.025), method="inverted bootstrap test")
    return Estimate(value=solve(0.5), interval=interval)


def _shape(gap: Values, noise: Values) -> Values:
    """Compute each bin's share of the error.

    A share is at least the bin's noise: otherwise a bin whose observed error is small by chance
    would count as pure noise, and the correction would be too large.
    """
    size = np.sqrt(gap**2 + noise.var(axis=0))
    total = size.sum()
    return np.asarray(np.copysign(size / total, gap)) if total > 0 else np.ones_like(gap) / len(gap)


def _difference(one: Estimate, other: Estimate, correlation: float) -> Estimate:
    assert one.interval is not None
    assert other.interval is not None

    def distance(a: float, b: float) -> float:
        return math.sqrt(max(0.0, a**2 + b**2 - 2 * correlation * a * b))

    value = one.value - other.value
    interval = Interval(
        low=value - distance(one.value - one.interval.low, other.interval.high - other.value),
        high=value + distance(one.interval.high - one.value, other.value - other.interval.low),
        method="square-and-add of inverted bootstrap tests",
    )
    return Estimate(value=value, interval=interval)


RANGE = (0.01, 100.0)
"""The search range of the temperature."""


class Temperature(Result):
    """The divisor of the logits; 1, and not `fitted`, if the samples do not bound it.

    It is unbounded where every prediction is correct (the likelihood rises as T falls to 0), and
    where predictions are no better than chance (it rises with T).
    """

    value: float
    fitted: bool


def fit_temperature(predictions: Predictions) -> Temperature:
    r"""Fit the temperature of maximum likelihood.

    $$T = \arg\min_T \; -\frac1n \sum_i \log \mathrm{softmax}(z_i / T)_{y_i}$$

    This is convex in the inverse temperature: its derivative, the mean logit under the model less
    the label's, increases, and its only root is bracketed, in float64. Samples whose label has
    probability 0 have it at any temperature and are left out.

    Args:
        predictions: Logits and labels of samples that no metric is computed from.

    Example:
        >>> from limbeck.export.predictor import Predictions
        >>> logits = np.array([[4.0, 0.0]] * 4, dtype=np.float32)
        >>> round(fit_temperature(Predictions(logits, np.array([0, 0, 0, 1]))).value, 3)
        3.641

    Source: Guo et al., ICML 2017 (arXiv:1706.04599).
    """
    log_p = log_probabilities(predictions.logits)
    label_log_p = log_p[np.arange(len(predictions)), predictions.labels]
    possible = np.isfinite(label_log_p)
    log_p, label_log_p = log_p[possible], label_log_p[possible]
    # An infinite logit of probability 0 adds nothing to the mean.
    finite = np.where(np.isfinite(log_p), log_p, 0.0)

    def derivative(inverse: float) -> float:
        expected = (scipy.special.softmax(inverse * log_p, axis=1) * finite).sum(axis=1)
        return float((expected - label_log_p).mean())

    largest, smallest = 1 / RANGE[0], 1 / RANGE[1]
    if not possible.any() or derivative(largest) <= 0 or derivative(smallest) >= 0:
        return Temperature(value=1.0, fitted=False)
    root = scipy.optimize.brentq(derivative, smallest, largest)
    return Temperature(value=1 / root, fitted=True)


def scaled(log_p: Values, temperature: Temperature) -> Values:
    """Apply a temperature to log-probabilities, `[n, classes]`; the order of classes is unchanged.

    Example:
        >>> half = scaled(np.log([[0.8, 0.2]]), Temperature(value=0.5, fitted=True))
        >>> np.exp(half).round(4).tolist()
        [[0.9412, 0.0588]]
    """
    return np.asarray(scipy.special.log_softmax(log_p / temperature.value, axis=1))
