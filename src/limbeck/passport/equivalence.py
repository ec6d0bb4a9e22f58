"""Non-inferiority test of a student's robustness within stated margins: PASS, FAIL or NOT SHOWN.

The test uses the interval of each difference, as in clinical trials: the absence of a significant
difference does not prove equivalence.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from limbeck.errors import InputError, Problem
from limbeck.passport.document import canonical, json_of, member, refuse
from limbeck.passport.facts import DifferenceFacts

Judgement = Literal["PASS", "FAIL", "NOT SHOWN"]


@dataclass(frozen=True)
class Equivalence:
    """The result of a non-inferiority test of the student's robustness.

    Attributes:
        verdict: `FAIL` if one line fails, else `NOT SHOWN` if one is not shown or there is none.
        lines: Each difference and its own verdict.
    """

    verdict: Judgement
    lines: tuple[tuple[DifferenceFacts, Judgement], ...]


def equivalence(differences: Iterable[DifferenceFacts]) -> Equivalence:
    """Test whether a student's robustness is non-inferior to its teacher's.

    Args:
        differences: Student minus teacher, each with its interval and margin.

    Raises:
        InputError: A margin is negative or not finite, an interval's ends are swapped, or `better`
            is neither `higher` nor `lower`.

    Example:
        >>> pgd = DifferenceFacts("accuracy under PGD", -0.004, -0.012, 0.003, margin=0.02)
        >>> noise = DifferenceFacts("accuracy under noise", -0.01, -0.03, 0.01, margin=0.02)
        >>> equivalence([pgd]).verdict, equivalence([pgd, noise]).verdict
        ('PASS', 'NOT SHOWN')
    """
    given = tuple(differences)
    problems = [problem for item in given for problem in _odd(item)]
    if problems:
        raise InputError(*problems)
    lines = tuple((item, judge(item)) for item in given)
    return Equivalence(_together([judgement for _, judgement in lines]), lines)


def robustness(differences: Iterable[DifferenceFacts]) -> str:
    """Write the verdict and the figures behind it as the text of the passport property.

    Raises:
        InputError: As `equivalence`.

    Example:
        >>> robustness([DifferenceFacts("accuracy under PGD", -0.25, -0.5, 0.0, margin=0.5)])
        '{"lines":[{"better":"higher",..."verdict":"PASS"}],"verdict":"PASS"}'
    """
    found = equivalence(differences)
    lines = [{**_plain(item), "verdict": judgement} for item, judgement in found.lines]
    return canonical({"verdict": found.verdict, "lines": lines})


def read_robustness(text: str, where: str) -> tuple[DifferenceFacts, ...]:
    """Parse the differences from the text written by `robustness`.

    Raises:
        InputError: It has another format, or the verdicts do not follow from the differences.
    """
    content = json_of(text, dict, where)
    found = tuple(_difference(item, where) for item in member(content, "lines", list, where))
    if robustness(found) != text:
        refuse(where, text, "verdicts that follow from their differences")
    return found


def judge(item: DifferenceFacts) -> Judgement:
    """Return the verdict on one difference from its interval.

    `PASS`: the interval contains no loss larger than the margin. `FAIL`: it contains only such
    losses. `NOT SHOWN`: it contains both, or there is no interval.

    Example:
        >>> judge(DifferenceFacts("latency", 3.0, 2.0, 4.0, margin=1.0, better="lower"))
        'FAIL'
    """
    if item.low is None or item.high is None:
        return "NOT SHOWN"
    worst, best = (item.low, item.high) if item.better == "higher" else (-item.high, -item.low)
    if worst >= -item.margin:
        return "PASS"
    return "FAIL" if best < -item.margin else "NOT SHOWN"


def _together(judgements: Sequence[Judgement]) -> Judgement:
    if "FAIL" in judgements:
        return "FAIL"
    return "PASS" if judgements and set(judgements) == {"PASS"} else "NOT SHOWN"


def _odd(item: DifferenceFacts) -> Iterable[Problem]:
    if not (math.isfinite(item.margin) and item.margin >= 0):
        yield Problem(f"{item.name}: margin", item.margin, "a number of 0 or more")
    if item.better not in ("higher", "lower"):
        yield Problem(f"{item.name}: better", item.better, "higher, lower")
    if item.low is not None and item.high is not None and item.low > item.high:
        yield Problem(f"{item.name}: interval", (item.low, item.high), "low, then high")


def _plain(item: DifferenceFacts) -> dict[str, Any]:
    # Integers are written as floats too, so that a round trip is exact.
    numbers = ("difference", "low", "high", "margin")
    return {
        key: float(value) if key in numbers and value is not None else value
        for key, value in vars(item).items()
    }


def _difference(item: Any, where: str) -> DifferenceFacts:
    ends = [_end(item, key, where) for key in ("low", "high")]
    return DifferenceFacts(
        name=member(item, "name", str, where),
        difference=member(item, "difference", float, where),
        low=ends[0],
        high=ends[1],
        margin=member(item, "margin", float, where),
        better=member(item, "better", str, where),
    )


def _end(item: Any, key: str, where: str) -> float | None:
    if isinstance(item, dict) and item.get(key) is None:
        return None
    return float(member(item, key, float, where))
