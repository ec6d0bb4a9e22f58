"""Every question is found, asked of two real nets, and comes back from JSON as it was."""

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


def test_every_question_has_a_result_and_a_chapter():
    assert SECTIONS.names() == RESULTS.names() == NAMES
    assert len(NAMES) == 8


@pytest.mark.parametrize("name", NAMES)
def test_findings_are_whole(found, name):
    [asked] = [one for one in found.results if one.evaluation == name]
    assert asked.comparisons or asked.notes
    for finding in asked.comparisons:
        assert finding.method.endswith(".")
        assert finding.summary.endswith(".")
        assert finding.margin >= 0
        assert (finding.verdict == "no reference") == (finding.difference is None)


def test_it_comes_back_from_json(found):
    assert Evaluation.model_validate(json.loads(found.model_dump_json())) == found


def test_without_a_teacher_everything_stands_alone():
    context = contexts.digits(samples=40, max_samples=10, teacher=False)
    alone = evaluate(context, {name: BRIEF.get(name, {}) for name in NAMES})
    assert {finding.verdict for finding in alone.comparisons} == {"no reference"}


def test_what_is_wrong_is_said_at_once():
    wrong = {"fidelty": {}, "robustness": {"atack_samples": 3, "steps": "many"}}
    with pytest.raises(InputError) as refused:
        check(wrong)
    said = str(refused.value)
    assert 'did you mean "fidelity"' in said
    assert 'did you mean "attack_samples"' in said
    assert "evaluations.robustness.steps: got 'many'" in said
