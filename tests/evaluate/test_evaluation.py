"""Every evaluation is registered, runs on two trained networks, and survives a JSON round trip."""

from __future__ import annotations

import dataclasses
import json
import re

import contexts
import pytest

from limbeck.errors import InputError
from limbeck.evaluate.context import Workload, describe
from limbeck.evaluate.evaluation import (
    EVALUATIONS,
    RESULTS,
    WORKLOADS,
    Evaluation,
    check,
    check_fit,
    estimate,
    evaluate,
    evaluate_one,
    fits,
)
from limbeck.export.predictor import predict
from limbeck.report.sections import SECTIONS
from limbeck.tasks import TASKS, is_classifier, shares_inputs

BRIEF = {
    "attribution": {"samples": 4, "steps": 4},
    "model_extraction": {"budgets": [20, 40]},
    "robustness": {"attack_samples": 8, "queries": 5, "steps": 2, "restarts": 1},
}
NAMES = EVALUATIONS.names()


@pytest.fixture(scope="module")
def found() -> Evaluation:
    context = contexts.digits(samples=60, max_samples=20)
    return evaluate(context, {name: BRIEF.get(name, {}) for name in NAMES})


def test_every_evaluation_has_a_result_and_a_section():
    assert SECTIONS.names() == RESULTS.names() == NAMES
    assert len(NAMES) == 9


@pytest.mark.parametrize("name", NAMES)
def test_comparisons_are_complete(found, name):
    [result] = [one for one in found.results if one.evaluation == name]
    assert result.comparisons or result.notes
    for comparison in result.comparisons:
        assert comparison.method.endswith(".")
        assert comparison.summary.endswith(".")
        assert comparison.margin >= 0
        assert (comparison.verdict == "no reference") == (comparison.difference is None)


def test_the_result_survives_a_json_round_trip(found):
    assert Evaluation.model_validate(json.loads(found.model_dump_json())) == found


def test_without_a_teacher_there_is_no_reference():
    context = contexts.digits(samples=40, max_samples=10, teacher=False)
    alone = evaluate(context, {name: BRIEF.get(name, {}) for name in NAMES})
    assert {comparison.verdict for comparison in alone.comparisons} == {"no reference"}


def test_all_problems_are_reported_at_once():
    wrong = {"fidelty": {}, "robustness": {"atack_samples": 3, "steps": "many"}}
    with pytest.raises(InputError) as caught:
        check(wrong)
    message = str(caught.value)
    assert 'did you mean "fidelity"' in message
    assert 'did you mean "attack_samples"' in message
    assert "evaluations.robustness.steps: got 'many'" in message


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


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("cost", "diagnosis")])
def test_the_predictions_announced_are_those_made(name):
    announced = estimate(counted(samples=60, max_samples=20), name, BRIEF.get(name, {}))
    [number] = re.findall(r"([\d,]+) predictions", announced)
    context = counted(samples=60, max_samples=20)
    evaluate_one(context, name, BRIEF.get(name, {}))
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


@pytest.mark.parametrize(
    ("task", "fit"),
    [
        ("image_classification", EVALUATIONS.names()),
        ("node_classification", ["calibration", "cost", "diagnosis", "fairness", "fidelity"]),
        ("token_classification", ["cost", "diagnosis"]),
        ("series_forecasting", ["cost", "diagnosis"]),
    ],
)
def test_evaluations_that_do_not_fit_a_task_are_refused(task, fit):
    kinds = {
        "classifier": is_classifier(TASKS.load(task)),
        "shared": shares_inputs(TASKS.load(task)),
    }
    assert [name for name in EVALUATIONS.names() if fits(name, **kinds)] == fit
    check_fit(fit, **kinds, where="evaluations")
    for name in set(EVALUATIONS.names()) - set(fit):
        with pytest.raises(
            InputError, match=rf"evaluations: got '{name}'; allowed: {', '.join(fit)}: "
        ):
            check_fit([name], **kinds, where="evaluations")
