"""Verdicts: whether the interval of a measured value lies within what the claim predicts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from limbeck.core.measurement import Result
from limbeck.evaluate.intervals import Summary, summarize
from limbeck.studies.study import Expectation

Verdict = Literal["supported", "refuted", "mixed", "undecided"]
"""`mixed`: some expectations hold, others fail. `undecided`: an interval has the bound inside."""

Values = Mapping[str, Sequence[Mapping[str, float]]]
"""Measured values by name, one mapping per seed, by arm."""


class Check(Result):
    """An expectation, and what was measured.

    Attributes:
        what: The compared quantity.
        bound: The predicted bound.
        measured: The value per seed, the mean, and the interval over seeds.
        verdict: Whether the whole interval is inside of the bound or outside.
    """

    what: str
    bound: str
    measured: Summary
    verdict: Verdict


def judge(expectation: Expectation, values: Values, *, deterministic: bool = False) -> Check:
    """Compare a measured value with its bound.

    Differences and ratios are paired: they are computed for each seed, then averaged. The verdict
    is by the 95 % Student's interval of the mean; a single value decides only if the measure does
    not depend on the seed.

    Raises:
        KeyError: An arm did not measure the value.

    Example:
        >>> rule = Expectation(value="accuracy", of="a", minus="b", above=0)
        >>> scores = {"a": [0.9, 0.92, 0.91], "b": [0.8, 0.83, 0.81]}
        >>> rows = {arm: [{"accuracy": one} for one in many] for arm, many in scores.items()}
        >>> judge(rule, rows).verdict
        'supported'
    """

    def of(arm: str) -> list[float]:
        return [one[expectation.value] for one in values[arm]]

    numbers = of(expectation.of)
    if expectation.minus is not None:
        numbers = [a - b for a, b in zip(numbers, of(expectation.minus), strict=True)]
    elif expectation.over is not None:
        numbers = [a / b for a, b in zip(numbers, of(expectation.over), strict=True)]
    measured = summarize(numbers)
    low, high = _ends(measured, deterministic=deterministic)
    above = -math.inf if expectation.above is None else expectation.above
    below = math.inf if expectation.below is None else expectation.below
    verdict: Verdict = "undecided"
    if above < low and high < below:
        verdict = "supported"
    elif high <= above or low >= below:
        verdict = "refuted"
    return Check(what=expectation.what, bound=expectation.bound, measured=measured, verdict=verdict)


def _ends(measured: Summary, *, deterministic: bool) -> tuple[float, float]:
    if not math.isfinite(measured.mean):
        return -math.inf, math.inf
    if measured.interval is None:
        return (measured.mean, measured.mean) if deterministic else (-math.inf, math.inf)
    return measured.interval.low, measured.interval.high


def conclude(checks: Sequence[Check]) -> Verdict:
    """Return the verdict on the claim, which holds if every expectation does.

    It is supported if all are, refuted if one is and none is supported, and mixed if some are
    supported and others refuted; otherwise undecided.

    Example:
        >>> conclude([])
        'undecided'
    """
    found = {one.verdict for one in checks}
    if "refuted" in found:
        return "mixed" if "supported" in found else "refuted"
    return "supported" if found == {"supported"} else "undecided"
