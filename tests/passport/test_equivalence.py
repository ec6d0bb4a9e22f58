"""PASS, FAIL or NOT SHOWN, by the interval against the margin."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.errors import InputError
from limbeck.passport import DifferenceFacts, PassportFacts, build_passport, equivalence, verify
from limbeck.passport.equivalence import classify, read_robustness, robustness

shares = st.floats(-1, 1)


@settings(deadline=None)
@given(st.tuples(shares, shares).map(sorted), st.floats(0, 1), st.booleans())
def test_verdict_follows_from_the_losses_in_the_interval(ends, margin, higher) -> None:
    low, high = ends
    item = DifferenceFacts("a", 0.0, low, high, margin, "higher" if higher else "lower")
    losses = (-low, -high) if higher else (low, high)
    expected = "PASS" if max(losses) <= margin else "FAIL" if min(losses) > margin else "NOT SHOWN"
    assert classify(item) == expected
    # Negated figures with the opposite direction have the same verdict.
    turned = DifferenceFacts("a", 0.0, -high, -low, margin, "lower" if higher else "higher")
    assert classify(turned) == expected


def line(low: float | None, high: float | None) -> DifferenceFacts:
    return DifferenceFacts("a", -0.05, low, high, margin=0.1)


PASS, FAIL, OPEN = line(-0.08, 0.0), line(-0.5, -0.2), line(-0.2, 0.0)


@pytest.mark.parametrize(
    ("lines", "verdict"),
    [
        ([], "NOT SHOWN"),
        ([PASS], "PASS"),
        ([PASS, OPEN], "NOT SHOWN"),
        ([PASS, OPEN, FAIL], "FAIL"),
        ([line(None, 0.0)], "NOT SHOWN"),
        ([line(-0.05, None)], "NOT SHOWN"),
        ([line(math.nan, math.nan)], "NOT SHOWN"),
        ([line(-math.inf, math.inf)], "NOT SHOWN"),
        ([line(-0.1, -0.1)], "PASS"),
    ],
)
def test_overall_verdict_is_the_worst_line(lines: list[DifferenceFacts], verdict: str) -> None:
    assert equivalence(lines).verdict == verdict


@pytest.mark.parametrize(
    "change", [{"margin": -1.0}, {"margin": math.nan}, {"better": "more"}, {"low": 1.0}]
)
def test_invalid_arguments_raise_input_error(change) -> None:
    with pytest.raises(InputError):
        equivalence([dataclasses.replace(PASS, **change)])


def test_robustness_round_trip_and_forged_verdicts() -> None:
    text = robustness([PASS, FAIL, line(None, math.nan), line(0, 1)])
    assert robustness(read_robustness(text, "here")) == text
    with pytest.raises(InputError, match="verdicts that follow"):
        read_robustness(text.replace("FAIL", "PASS"), "here")


def test_passport_contains_the_robustness_verdict(facts: PassportFacts, write) -> None:
    facts = dataclasses.replace(facts, robustness=(PASS, FAIL))
    student = build_passport(facts)["metadata"]["component"]
    (stated,) = (i["value"] for i in student["properties"] if i["name"] == "limbeck:robustness")
    assert json.loads(stated)["verdict"] == "FAIL"
    write(facts)
    assert verify(facts.folder).ok
