"""Every evaluation is registered, runs on two trained networks, and survives a JSON round trip."""

from __future__ import annotations

import json

import contexts
import pytest

from limbeck.errors import InputError
from limbeck.evaluate.evaluation import EVALUATIONS, RESULTS, Evaluation, check, evaluate
from limbeck.report.sections import SECTIONS

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
    assert len(NAMES) == 8


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
