"""Details of tasks on the page: tables by drop, samples with text alternatives, and their size."""

import re

import detailed
import pytest

from limbeck.core.illustration import MOST_BYTES, Plot, Trace
from limbeck.evaluate.detail_results import TaskDetails
from limbeck.report.compare import as_records
from limbeck.report.details import MOST_ROWS
from limbeck.report.page import render_page
from limbeck.report.result import RunResult

CLASSES = ("sky", "street", "car")
LARGEST_PAGE = 2_000_000
"""The bound of docs/evaluation.md: what samples add to a page, in bytes."""


def with_details(result: RunResult, details: TaskDetails) -> RunResult:
    return result.model_copy(update={"details": details})


@pytest.fixture(scope="module")
def masks() -> TaskDetails:
    return detailed.segmentation(CLASSES)


@pytest.fixture(scope="module")
def boxes() -> TaskDetails:
    return detailed.detection(CLASSES)


def table_of(page: str, title: str) -> list[list[str]]:
    """Return the rows of the table of that title, as text."""
    table = re.search(rf"<h3[^>]*>{re.escape(title)}</h3>.*?</table>", page, re.S)
    assert table, title
    rows = re.findall(r"<tr>(.*?)</tr>", table[0], re.S)[1:]
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S) for row in rows]
    return [[cell.replace("\N{NO-BREAK SPACE}", " ") for cell in row] for row in cells]


def test_a_run_without_details_has_none_of_their_sections(digits: RunResult) -> None:
    page = render_page(digits)
    assert digits.details is None
    for anchor in ('id="details"', 'id="samples"', 'class="shown'):
        assert anchor not in page
    assert 'id="disagreements"' in page


def test_scores_by_class_are_sorted_by_the_drop(minimal: RunResult, masks: TaskDetails) -> None:
    page = render_page(with_details(minimal, masks))
    rows = table_of(page, "IoU by class")
    assert rows[0][0] == "street"  # the class that the student lost
    drops = [float(row[3].split(" points")[0].replace("\N{MINUS SIGN}", "-")) for row in rows]
    assert drops == sorted(drops, reverse=True)
    [iou] = masks.breakdowns
    assert drops[0] == pytest.approx(100 * iou.by_drop[0].drop.value, abs=0.01)
    assert "Pixel agreement" in page
    assert 'href="#details">Scores by class</a>' in page
    assert "None was chosen by hand" in page


def test_every_image_has_a_text_alternative(
    minimal: RunResult, masks: TaskDetails, boxes: TaskDetails
) -> None:
    page = render_page(with_details(minimal, masks))
    texts = re.findall(r'<img src="data:[^"]+" alt="([^"]*)" class="raster', page)
    assert len(texts) == 6 * 4
    assert all(texts)
    assert re.search(
        r"the student's mask: (street|sky|car) \d+ %", " ".join(texts).replace("&#39;", "'")
    )
    drawn = render_page(with_details(minimal, boxes))
    figures = re.findall(
        r'<svg viewBox="[^"]+" role="img" class="chart raster"><title>(.*?)</title>', drawn
    )
    assert len(figures) == 6 * 3
    assert any(text.startswith("boxes of the label: ") for text in figures)
    assert "score 0." in drawn


def test_forecasts_have_a_chart_by_step_and_bands(minimal: RunResult) -> None:
    found = detailed.forecast(("load", "heat"))
    page = render_page(with_details(minimal, found))
    assert page.count("<h3>Pinball loss by step</h3>") == 1
    assert len(table_of(page, "Pinball loss by step")) == 6
    assert len(table_of(page, "Coverage by quantile")) == 3
    assert [row[0] for row in table_of(page, "Pinball loss by target")] != []
    assert page.count('class="band"') > 6 * 2 * 2
    assert "SD" in table_of(page, "Pinball loss by step")[0][1]


def test_regression_has_truth_and_residuals(minimal: RunResult) -> None:
    page = render_page(with_details(minimal, detailed.regression()))
    assert "price: prediction and truth" in page
    assert "price: residuals" in page
    assert 'class="shown' not in page


def test_names_are_escaped_and_many_classes_are_cut(minimal: RunResult) -> None:
    hostile = '"><script>alert(1)</script>'
    names = (hostile, *(f"class {number}" for number in range(39)))
    found = detailed.segmentation(names, size=16)
    page = render_page(with_details(minimal, found))
    assert "<script>" not in page
    assert len(table_of(page, "IoU by class")) == MOST_ROWS
    assert "Shown are 30 of 40 rows" in page.replace("\N{NO-BREAK SPACE}", " ")
    drawn = detailed.detection((hostile, "street"))
    assert "<script>" not in render_page(with_details(minimal, drawn))


def test_samples_of_any_size_add_at_most_two_megabytes(minimal: RunResult) -> None:
    plain = len(render_page(minimal))
    classes = tuple(f"class {number}" for number in range(20))
    noisy = detailed.segmentation(classes, size=96)
    sources = [r.source for one in noisy.samples for r in one.illustration.rasters if r.source]
    assert max(map(len, sources)) <= MOST_BYTES * 4 / 3 + 40
    assert len(render_page(with_details(minimal, noisy))) - plain < LARGEST_PAGE
    crowded = detailed.detection(("cell",), boxes=60)
    assert len(render_page(with_details(minimal, crowded))) - plain < LARGEST_PAGE


def test_without_a_teacher_the_page_has_the_students_scores_only(minimal: RunResult) -> None:
    found = detailed.segmentation(CLASSES, teacher=False)
    page = render_page(with_details(minimal, found))
    assert {len(row) for row in table_of(page, "IoU by class")} == {2}
    assert 'id="samples"' not in page


def test_an_error_of_a_task_is_stated(minimal: RunResult) -> None:
    page = render_page(with_details(minimal, TaskDetails(problem="ValueError: <no boxes>")))
    assert "ValueError: &lt;no boxes&gt;" in page
    assert 'id="details"' in page


def test_plain_records_have_the_agreement_and_the_largest_drop(
    minimal: RunResult, digits: RunResult, masks: TaskDetails
) -> None:
    [record] = as_records([with_details(minimal, masks)])
    value = masks.agreements[0].value
    assert record["agreement"]["pixel_agreement"]["value"] == value
    assert record["largest_drop"]["iou_by_class"]["class"] == "street"
    [other] = as_records([digits])
    assert list(other["agreement"]) == ["top_1"]
    assert other["largest_drop"] == {}


def test_values_that_no_chart_can_draw_are_refused() -> None:
    with pytest.raises(ValueError, match=r"have \[1, 2\] values"):
        Trace(name="", side="truth", form="line", x=(1.0, 2.0), y=(1.0,))
    line = Trace(name="", side="truth", form="line", x=(0.0,) * 2001, y=(0.0,) * 2001)
    with pytest.raises(ValueError, match="2001 points; allowed: at most 2000"):
        Plot(title="", text="", across="", up="", traces=(line,))
