"""Non-inferiority test of a student's robustness within stated margins: PASS, FAIL or NOT SHOWN.

The test uses the interval of each difference, as in clinical trials: the absence of a significant
difference does not prove equivalence.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from limbeck.errors import InputError, Problem
from limbeck.passport.document import canonical, json_of, member, refuse
from limbeck.passport.facts import DifferenceFacts

Verdict = Literal["PASS", "FAIL", "NOT SHOWN"]
_NUMBERS = ("difference", "low", "high", "margin")


@dataclass(frozen=True)
class Equivalence:
    """The result of a non-inferiority test of the student's robustness.

    Attributes:
        verdict: `FAIL` if one line fails, else `NOT SHOWN` if one is not shown or there is none.
        lines: Each difference with the verdict on it.
    """

    verdict: Verdict
    lines: tuple[tuple[DifferenceFacts, Verdict], ...]


def equivalence(differences: Iterable[DifferenceFacts]) -> Equivalence:
    """Test whether a student's robustness is non-inferior to its teacher's.

    Raises:
        InputError: A margin is negative or not finite, an interval's ends are swapped, or `better`
            is neither `higher` nor `lower`.

    Example:
        >>> pgd = DifferenceFacts("accuracy under PGD", -0.004, -0.012, 0.003, margin=0.02)
        >>> noise = DifferenceFacts("accuracy under noise", -0.01, -0.03, 0.01, margin=0.02)
        >>> equivalence([pgd]).verdict, equivalence([pgd, noise]).verdict
        ('PASS', 'NOT SHOWN')
    """
    tested = tuple(differences)
    problems = [problem for item in tested for problem in _invalid(item)]
    if problems:
        raise InputError(*problems)
    lines = tuple((item, classify(item)) for item in tested)
    verdicts = {verdict for _, verdict in lines}
    passed: Verdict = "PASS" if verdicts == {"PASS"} else "NOT SHOWN"
    return Equivalence("FAIL" if "FAIL" in verdicts else passed, lines)


def robustness(differences: Iterable[DifferenceFacts]) -> str:
    """Write the verdict and its figures as the text of the passport property."""
    found = equivalence(differences)
    lines = []
    for item, verdict in found.lines:
        # Integers are written as floats too, so that a round trip is exact.
        numbers = {
            key: None if (value := getattr(item, key)) is None else float(value) for key in _NUMBERS
        }
        lines.append({**vars(item), **numbers, "verdict": verdict})
    return canonical({"verdict": found.verdict, "lines": lines})


def read_robustness(text: str, where: str) -> tuple[DifferenceFacts, ...]:
    """Parse the text written by `robustness`; raise if the verdicts do not follow from it."""
    content = json_of(text, dict, where)
    found = tuple(_difference(item, where) for item in member(content, "lines", list, where))
    if robustness(found) != text:
        refuse(where, text, "verdicts that follow from their differences")
    return found


def classify(item: DifferenceFacts) -> Verdict:
    """Return the verdict on one difference from its interval.

    `PASS`: the interval contains no loss larger than the margin. `FAIL`: it contains only such
    losses. `NOT SHOWN`: it contains both, or there is no interval.
    """
    if item.low is None or item.high is None:
        return "NOT SHOWN"
    worst, best = (item.low, item.high) if item.better == "higher" else (-item.high, -item.low)
    if worst >= -item.margin:
        return "PASS"
    return "FAIL" if best < -item.margin else "NOT SHOWN"


def _invalid(item: DifferenceFacts) -> Iterable[Problem]:
    if not (math.isfinite(item.margin) and item.margin >= 0):
        yield Problem(f"{item.name}: margin", item.margin, "a number of 0 or more")
    if item.better not in ("higher", "lower"):
        yield Problem(f"{item.name}: better", item.better, "higher, lower")
    if item.low is not None and item.high is not None and item.low > item.high:
        yield Problem(f"{item.name}: interval", (item.low, item.high), "low, then high")


def _difference(item: Any, where: str) -> DifferenceFacts:
    low, high = (
        None
        if isinstance(item, dict) and item.get(key) is None
        else float(member(item, key, float, where))
        for key in ("low", "high")
    )
    return DifferenceFacts(
        name=member(item, "name", str, where),
        difference=member(item, "difference", float, where),
        low=low,
        high=high,
        margin=member(item, "margin", float, where),
        better=member(item, "better", str, where),
    )
