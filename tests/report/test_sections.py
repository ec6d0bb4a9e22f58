"""Sections of evaluations: every verdict is shown, links to its method, and is escaped."""

import re

import pytest

from limbeck.report.page import render_page
from limbeck.report.result import RunResult


@pytest.fixture(scope="module")
def page(evaluated: RunResult) -> str:
    return render_page(evaluated)


def test_every_comparison_is_in_the_table_and_links_to_its_method(evaluated, page):
    anchors = re.findall(r'href="#(on-\w+-\d+)"', page)
    assert len(anchors) == len(list(evaluated.evaluation.comparisons))
    for anchor in anchors:
        assert f'id="{anchor}"' in page


def test_every_evaluation_has_a_section(evaluated, page):
    for one in evaluated.evaluation.results:
        assert f'<section id="on-{one.evaluation}"' in page


def test_differences_of_shares_are_in_points(evaluated, page):
    (fidelity,) = (one for one in evaluated.evaluation.results if one.evaluation == "fidelity")
    slices = page.partition("By class and group")[2].partition("</table>")[0]
    rows = len([one for one in fidelity.result.slices if one.difference is not None])
    assert rows
    assert len(re.findall(r"[+−][0-9.]+ points", slices)) == rows


def test_verdicts_are_readable_without_colour(evaluated, page):
    words = {"better", "non-inferior", "worse", "inconclusive"}
    for metric in evaluated.evaluation.comparisons:
        if metric.verdict in words:
            assert f'class="verdict {metric.verdict}"' in page
            assert f"</span> {metric.verdict}</td>" in page


def test_a_page_without_evaluations_names_the_command(digits):
    assert "limbeck evaluate RUN" in render_page(digits)


def test_names_and_methods_are_escaped(evaluated):
    hostile = "<script>alert(1)</script>"
    results = []
    for one in evaluated.evaluation.results:
        comparisons = tuple(
            metric.model_copy(update={"name": hostile, "method": hostile})
            for metric in one.comparisons
        )
        update = {"comparisons": comparisons, "notes": (hostile,)}
        results.append(one.model_copy(update={"result": one.result.model_copy(update=update)}))
    evaluation = evaluated.evaluation.model_copy(update={"results": tuple(results)})
    page = render_page(evaluated.model_copy(update={"evaluation": evaluation}))
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 3 * len(results)


def test_an_evaluated_run_survives_json(evaluated):
    assert RunResult.model_validate_json(evaluated.model_dump_json()) == evaluated
