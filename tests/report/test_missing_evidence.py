"""Missing evidence: every claim without a measurement is listed on the page."""

import pytest

from limbeck.report.missing_evidence import missing_evidence
from limbeck.report.page import render_page
from limbeck.report.result import RunResult


def without(result: RunResult, **changes: object) -> RunResult:
    """Return the run with other costs of the exported student."""
    link = result.chain[-1]
    cost = link.measured[0].cost.model_copy(update=changes)
    first = link.measured[0].model_copy(update={"cost": cost})
    shipped = link.model_copy(update={"measured": (first, *link.measured[1:])})
    return result.model_copy(update={"chain": (*result.chain[:-1], shipped)})


@pytest.mark.parametrize(
    ("changes", "claim", "words"),
    [
        ({"peak_memory_bytes": 0}, "Memory", "peak memory"),
        ({"latency": ()}, "Latency", "latency"),
        ({"energy": None}, "Energy", "energy per inference"),
    ],
)
def test_a_missing_cost_is_listed(digits, changes, claim, words):
    assert words not in " ".join(text for _, text in missing_evidence(digits))
    lacking = missing_evidence(without(digits, **changes))
    assert any(name == claim and words in text for name, text in lacking)


def test_a_missing_baseline_is_listed(digits):
    alone = digits.model_copy(update={"comparison": None, "baseline": None})
    assert any(name == "Distillation gain" for name, _ in missing_evidence(alone))
    assert not any(name == "Distillation gain" for name, _ in missing_evidence(digits))


def test_an_unknown_teacher_is_listed(digits, minimal):
    nameless = digits.model_copy(update={"recipe": {**digits.recipe, "teacher": None}})
    assert any("architecture of the teacher" in text for _, text in missing_evidence(nameless))
    teacher = {"source": "limbeck", "name": "net", "checkpoint": "net.safetensors"}
    loaded = digits.model_copy(update={"recipe": {**digits.recipe, "teacher": teacher}})
    assert any("trained elsewhere" in text for _, text in missing_evidence(loaded))
    assert any("no teacher" in text for _, text in missing_evidence(minimal))


def test_the_page_has_the_limitations(digits):
    page = render_page(without(digits, peak_memory_bytes=0))
    assert "Limitations" in page
    assert "may have grown" in page


def test_a_missing_training_energy_is_listed(digits):
    assert any("energy of the training" in text for _, text in missing_evidence(digits))
