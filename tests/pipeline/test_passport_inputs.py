"""Evaluations of a run are collected into its student's passport."""

import contexts

from limbeck.evaluate.evaluation import Evaluation, evaluate
from limbeck.pipeline.passport_inputs import _robustness


def test_robustness_comparisons_are_passport_facts():
    settings = {
        "fidelity": {"n_resamples": 50},
        "robustness": {"parts": ("corruption",), "attack_samples": 8, "n_resamples": 50},
    }
    evaluated = evaluate(contexts.digits(max_samples=20), settings)
    # As it is loaded from run.json.
    evaluation = Evaluation.model_validate_json(evaluated.model_dump_json())
    _, robustness = evaluation.results
    expected = {one.name: one for one in robustness.comparisons if one.difference is not None}
    assert expected
    facts = list(_robustness(evaluation))
    assert [one.name for one in facts] == list(expected)
    for one in facts:
        comparison = expected[one.name]
        difference = comparison.difference
        assert one.difference == difference.value
        assert (one.low, one.high) == (difference.interval.low, difference.interval.high)
        assert (one.margin, one.better) == (comparison.margin, comparison.direction)


def test_without_robustness_there_are_no_facts():
    assert list(_robustness(None)) == []
    assert list(_robustness(Evaluation(results=()))) == []
