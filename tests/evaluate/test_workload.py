"""The workload of an evaluation is estimated before it starts."""

from __future__ import annotations

import dataclasses
import re

import contexts
import pytest

from limbeck.evaluate.context import Workload, describe
from limbeck.evaluate.evaluation import EVALUATIONS, WORKLOADS, estimate, evaluate, evaluate_one
from limbeck.export.predictor import predict

BRIEF = {
    "attribution": {"samples": 4, "steps": 4},
    "calibration": {},
    "model_extraction": {"budgets": [20, 40]},
    "fidelity": {},
    "fairness": {},
    "robustness": {"attack_samples": 8, "queries": 5, "steps": 2, "restarts": 1},
    "uncertainty": {},
}


class Counting:
    """A predictor that counts its predictions."""

    def __init__(self, predictor):
        self.predictor, self.count = predictor, 0

    def predict(self, batch):
        self.count += len(next(iter(batch.values())))
        return self.predictor.predict(batch)


def counted(**sizes):
    """A student and a teacher that count their predictions."""
    context = contexts.digits(**sizes)
    sides = [
        dataclasses.replace(side, predictor=Counting(side.predictor))
        for side in (context.student, context.teacher)
    ]
    return dataclasses.replace(context, student=sides[0], teacher=sides[1])


@pytest.mark.parametrize("name", list(BRIEF))
def test_the_predictions_announced_are_those_made(name):
    announced = estimate(counted(samples=60, max_samples=20), name, BRIEF[name])
    [number] = re.findall(r"([\d,]+) predictions", announced)
    context = counted(samples=60, max_samples=20)
    evaluate_one(context, name, BRIEF[name])
    made = (context.student.predictor.count + context.teacher.predictor.count) / 2
    assert made / 2 <= int(number.replace(",", "")) <= 2 * made
    assert re.search(r", about \d+ s$", announced)


def test_every_evaluation_is_announced_before_it_starts():
    lines = []
    evaluate(
        contexts.digits(samples=40, max_samples=10), {"fairness": {}, "cost": {}}, log=lines.append
    )
    assert lines[0].startswith("evaluation fairness: 40 predictions of each model, about ")
    assert lines[1] == "evaluation cost: about 6 s"
    assert WORKLOADS.names() == EVALUATIONS.names()


def test_predictions_that_are_known_are_not_made_again():
    context = counted(samples=50)
    student, teacher = (
        dataclasses.replace(side, tested=predict(side.predictor, context.batches()))
        for side in (context.student, context.teacher)
    )
    known = dataclasses.replace(context, student=student, teacher=teacher)
    assert estimate(known, "fidelity", {}) == "about 1 s"
    before = student.predictor.count
    found = evaluate(known, {"fidelity": {}})
    assert student.predictor.count == before
    assert found.results[0].result == evaluate(context, {"fidelity": {}}).results[0].result


def test_seconds_are_measured_and_grow_with_the_work():
    context = contexts.digits(max_samples=20)
    seconds = [
        int(re.findall(r"about (\d+) s", describe(Workload(*counts), context))[0])
        for counts in ((10**6, 0), (0, 10**6), (2 * 10**6, 0), (10**6, 10**6, 1000.0))
    ]
    assert seconds[2] == pytest.approx(2 * seconds[0], abs=2)
    assert seconds[3] == pytest.approx(seconds[0] + seconds[1] + 1000, abs=2)
