"""Chapters on the page: every verdict is shown, leads to how it was measured, and is escaped."""

import re

import pytest

from limbeck.report.page import render_page
from limbeck.report.result import RunResult


@pytest.fixture(scope="module")
def page(evaluated: RunResult) -> str:
    return render_page(evaluated)


def test_every_finding_is_in_the_verdict_and_says_how(evaluated, page):
    places = re.findall(r'href="#(on-\w+-\d+)"', page)
    assert len(places) == len(list(evaluated.evaluation.comparisons))
    for place in places:
        assert f'id="{place}"' in page


def test_every_question_has_its_section(evaluated, page):
    for asked in evaluated.evaluation.results:
        assert f'<section id="on-{asked.evaluation}"' in page


def test_verdicts_are_told_without_colour(evaluated, page):
    words = {"better", "non-inferior", "worse", "inconclusive"}
    for finding in evaluated.evaluation.comparisons:
        if finding.verdict in words:
            assert f'class="verdict {finding.verdict}"' in page
            assert f"</span> {finding.verdict}</td>" in page


def test_without_questions_the_page_says_so(digits):
    assert "limbeck evaluate RUN" in render_page(digits)


def test_names_from_elsewhere_are_text(evaluated):
    hostile = "<script>alert(1)</script>"
    asked = []
    for one in evaluated.evaluation.results:
        findings = tuple(
            finding.model_copy(update={"name": hostile, "how": hostile})
            for finding in one.comparisons
        )
        found = one.result.model_copy(update={"comparisons": findings, "notes": (hostile,)})
        asked.append(one.model_copy(update={"found": found}))
    spoilt = evaluated.evaluation.model_copy(update={"asked": tuple(asked)})
    assert "<script" not in render_page(evaluated.model_copy(update={"evaluation": spoilt}))


def test_it_comes_back_from_its_json(evaluated):
    assert RunResult.model_validate_json(evaluated.model_dump_json()) == evaluated
