"""Warnings in the verdict: majority-class accuracy, implausible gains, unsteady latency."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest

from limbeck.evaluate.costs import Latency, latency_ratio
from limbeck.evaluate.intervals import summarize, wilson
from limbeck.evaluate.measure import latencies
from limbeck.pipeline.recipe import Budget
from limbeck.pipeline.results import _budget, unsteady
from limbeck.report import verdict
from limbeck.report.compare import render_comparison
from limbeck.report.result import Link, RunResult
from limbeck.report.verdict import figures, verdict_lines


def with_accuracy(link: Link, correct: int, rows: list[int]) -> Link:
    """Return a link with `correct` correct predictions over classes of the sizes in `rows`."""
    total = sum(rows)
    confusion = np.diag(rows)
    wrong = total - correct
    for row in itertools.cycle(range(len(rows))):  # move the diagonal to the next class
        if wrong == 0:
            break
        if confusion[row, row]:
            confusion[row, row] -= 1
            confusion[row, (row + 1) % len(rows)] += 1
            wrong -= 1
    (measured, *_) = link.measured
    found = measured.score.model_copy(
        update={
            "value": correct / total,
            "interval": wilson(correct, total),
            "samples": total,
        }
    )
    changed = measured.model_copy(
        update={"scores": (found,), "confusion": tuple(map(tuple, confusion.tolist()))}
    )
    return link.model_copy(update={"measured": (changed,), "score": summarize([correct / total])})


def run_of(result: RunResult, teacher: int, student: int, rows: list[int]) -> RunResult:
    chain = (
        with_accuracy(result.chain[0], teacher, rows),
        *result.chain[1:-1],
        with_accuracy(result.chain[-1], student, rows),
    )
    return result.model_copy(update={"chain": chain, "budget": ()})


def test_a_student_at_majority_class_accuracy_retains_nothing(digits: RunResult) -> None:
    # 70 % of the samples are of one class, and the student classifies 70 % correctly.
    result = run_of(digits, teacher=950, student=702, rows=[700, 200, 100])
    text = verdict.sentence(result)
    assert "keeps" not in text
    assert "no better than always predicting the most frequent class (70.0 %)" in text
    assert figures(result).retained_above_majority == pytest.approx(0.002 / 0.25)


def test_a_student_above_majority_class_accuracy_has_its_retained_accuracy(
    digits: RunResult,
) -> None:
    result = run_of(digits, teacher=950, student=930, rows=[700, 200, 100])
    assert "keeps 97.9 % of its accuracy" in verdict.sentence(result)
    text = "\n".join(verdict_lines(result))
    assert "92.0 % of its margin over the majority-class baseline (70.0 %)" in text


def test_a_teacher_at_chance_is_reported(digits: RunResult) -> None:
    result = run_of(digits, teacher=345, student=900, rows=[334, 333, 333])
    text = verdict.sentence(result)
    assert "its teacher, with 34.5 % accuracy, is no better than" in text
    assert "exceeds" not in text
    assert "keeps" not in text


@pytest.mark.parametrize(("teacher", "student"), [(600, 990), (880, 985)])
def test_a_student_far_above_its_teacher_has_possible_causes(
    digits: RunResult, teacher: int, student: int
) -> None:
    text = verdict.sentence(run_of(digits, teacher, student, rows=[250] * 4))
    assert "possible causes" in text
    assert "keeps all" not in text


def steady(p50: float, blocks: tuple[float, ...] = (), **more: float) -> Latency:
    return Latency(threads=1, p50=p50, p90=p50 * 1.05, p99=p50 * 1.1, runs=100, blocks=blocks)


def test_a_ratio_of_latencies_has_a_range_over_shared_blocks() -> None:
    teacher = steady(4.0, (4.0, 8.0, 4.0, 4.0, 4.4, 4.0, 3.6, 4.0, 4.0, 4.0))
    student = steady(2.0, (2.0, 4.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 1.0, 2.0))
    # Both doubled in the second block: the ratio did not. One block at each end is left out.
    assert latency_ratio(teacher, student) == pytest.approx((2.0, 2.2))
    assert latency_ratio(steady(4.0), student) is None


def test_interleaved_measurements_have_shared_blocks() -> None:
    def sleep(seconds: float):
        return lambda: time.sleep(seconds)

    found = latencies({"a": sleep(0.004), "b": sleep(0.001)}, threads=1, seconds=0.3)
    assert len(found["a"].blocks) == len(found["b"].blocks) == 10
    low, high = latency_ratio(found["a"], found["b"])
    assert 1 < low <= found["a"].p50 / found["b"].p50 <= high
    assert found["a"].p10 <= found["a"].p50 <= found["a"].p90


def shaken(link: Link, p10: float, p50: float, p90: float) -> Link:
    latency = Latency(
        threads=1, p50=p50, p90=p90, p99=p90 * 2, runs=50, p10=p10, blocks=(p50,), load=2.5
    )
    (measured, *more) = link.measured
    cost = measured.cost.model_copy(update={"latency": (latency,)})
    changed = measured.model_copy(update={"cost": cost})
    return link.model_copy(update={"measured": (changed, *more)})


@pytest.mark.parametrize(
    ("p90", "limit", "word"),
    [(2.0, 1.0, "inconclusive"), (2.0, 3.0, "met"), (2.0, 0.1, "missed"), (0.95, 0.9, "met")],
)
def test_a_budget_within_an_unsteady_latency_is_inconclusive(
    digits: RunResult, p90: float, limit: float, word: str
) -> None:
    chain = (*digits.chain[:-1], shaken(digits.chain[-1], 0.8, 0.9, p90))
    (check,) = _budget(Budget(latency_ms=limit), chain)
    assert check.word == word
    result = digits.model_copy(update={"chain": chain, "budget": (check,)})
    assert result.within_budget == (word == "met")
    assert (word in "\n".join(verdict_lines(result)).lower()) or word == "met"
    if word == "inconclusive":
        assert "measurement is inconclusive" in verdict.sentence(result)
        assert "inconclusive: latency" in render_comparison([result, result])


def test_an_unsteady_machine_is_noted_with_its_load(digits: RunResult) -> None:
    assert list(unsteady(digits.chain)) == []
    chain = (*digits.chain[:-1], shaken(digits.chain[-1], 0.8, 0.9, 3.6))
    (note,) = unsteady(chain)
    assert "4.0 times the median" in note
    assert "load average was 2.5" in note
