"""What a page must not claim: every half of a truth that is missing is named."""

import pytest

from limbeck.report.missing_evidence import missing_evidence
from limbeck.report.page import render_page
from limbeck.report.result import RunResult


def without(result: RunResult, **changes: object) -> RunResult:
    """The same run, with something left out of what ships."""
    link = result.chain[-1]
    cost = link.measured[0].cost.model_copy(update=changes)
    first = link.measured[0].model_copy(update={"cost": cost})
    shipped = link.model_copy(update={"measured": (first, *link.measured[1:])})
    return result.model_copy(update={"chain": (*result.chain[:-1], shipped)})


@pytest.mark.parametrize(
    ("changes", "claim", "words"),
    [
        ({"peak_memory_bytes": 0}, "Faster", "memory"),
        ({"latency": ()}, "Faster", "latency"),
        ({"energy": None}, "Greener", "energy per inference"),
    ],
)
def test_a_saving_without_its_other_half_is_named(digits, changes, claim, words):
    assert words not in " ".join(text for _, text in missing_evidence(digits))
    lacking = missing_evidence(without(digits, **changes))
    assert any(name == claim and words in text for name, text in lacking)


def test_a_student_without_its_torch_model_is_named(digits):
    alone = digits.model_copy(update={"comparison": None, "baseline": None})
    assert any(name == "Distilled" for name, _ in missing_evidence(alone))
    assert not any(name == "Distilled" for name, _ in missing_evidence(digits))


def test_a_teacher_that_is_not_known_is_named(digits, minimal):
    nameless = digits.model_copy(update={"recipe": {**digits.recipe, "teacher": None}})
    assert any("architecture of the teacher" in text for _, text in missing_evidence(nameless))
    teacher = {"source": "limbeck", "name": "net", "weights": "net.safetensors"}
    loaded = digits.model_copy(update={"recipe": {**digits.recipe, "teacher": teacher}})
    assert any("trained elsewhere" in text for _, text in missing_evidence(loaded))
    assert any("no teacher" in text for _, text in missing_evidence(minimal))


def test_the_page_says_what_it_cannot_claim(digits):
    page = render_page(without(digits, peak_memory_bytes=0))
    assert "Limitations" in page
    assert "may have grown" in page


def test_the_training_s_energy_is_part_of_green(digits, evaluated):
    assert any("training spent" in text for _, text in missing_evidence(digits))
