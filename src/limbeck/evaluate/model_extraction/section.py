"""The section on model extraction: fidelity of an extracted copy by number of queries."""

from __future__ import annotations

from collections.abc import Sequence

from limbeck.display import format as fmt
from limbeck.display.blocks import Column, Panel, Row, Table, percent_tick
from limbeck.display.charts import Series, lines
from limbeck.evaluate.model_extraction import ModelExtraction
from limbeck.evaluate.model_extraction.defences import Defence
from limbeck.evaluate.model_extraction.detector import Detection
from limbeck.evaluate.model_extraction.runs import ExtractionCost, ExtractionScore
from limbeck.evaluate.section import SectionContent, between

DASHES = {"probabilities": None, "top1": "6 3", "hard_label": "2 3"}
FORMATS = {
    "probabilities": "all probabilities",
    "top1": "the first and its probability",
    "hard_label": "the label",
}


def section(found: ModelExtraction) -> SectionContent:
    """Draw extraction fidelity by queries and response format, and the effect of defences."""
    tables = (
        _fidelities(found.scores),
        _defences(found.defences),
        _detection(found.detection),
        _costs(found.costs, found.price),
    )
    chance = ""
    if found.majority_baseline is not None:
        share = fmt.percent(found.majority_baseline, 1)
        chance = f" A constant prediction of the most frequent class agrees on {share}."
    panel = _curves(found.scores)
    return SectionContent(
        "Model extraction",
        "An attacker queries the student and trains a surrogate on the responses. The extraction "
        f"fidelity is its agreement with the student on test samples.{chance}",
        panels=(panel,) if panel else (),
        tables=tuple(table for table in tables if table.rows),
    )


def _curves(scores: Sequence[ExtractionScore]) -> Panel | None:
    series = [
        Series(
            FORMATS[form],
            tuple(
                (float(one.queries), one.agreement.value)
                for one in scores
                if one.strategy == "random" and one.response_format == form
            ),
            dash=dash,
            mark=True,
        )
        for form, dash in DASHES.items()
    ]
    series = [one for one in series if one.points]
    if not series:
        return None
    title = "Extraction fidelity by queries"
    description = "Agreement with the student on test samples, by response format."
    drawn = lines(series, axis=percent_tick, title=title, description=description, across="queries")
    return Panel(title, f"{description} Queries are random samples.", drawn)


def _fidelities(scores: Sequence[ExtractionScore]) -> Table:
    rows = tuple(
        Row(
            f"{one.strategy}, {FORMATS[one.response_format]}: "
            f"{fmt.plural(one.queries, 'query', 'queries')}",
            (between(one.agreement),),
        )
        for one in scores
    )
    return Table(
        "Extraction fidelity", "With 95 % intervals.", (Column("agreement", "student"),), rows
    )


def _defences(defences: Sequence[Defence]) -> Table:
    columns = tuple(
        Column(label, "student")
        for label in ("queries", "attacker agrees", "user's accuracy", "NLL")
    )
    rows = tuple(
        Row(
            one.name,
            (
                fmt.integer(one.queries),
                between(one.agreement),
                fmt.percent(one.accuracy),
                fmt.number(one.nll),
            ),
        )
        for one in defences
    )
    caption = "Extraction fidelity under each defence, and the cost to a benign user."
    return Table("Defences", caption, columns, rows)


def _detection(detection: Sequence[Detection]) -> Table:
    columns = tuple(
        Column(label, "student") for label in ("AUROC", "attacker flagged", "benign flagged")
    )
    rows = tuple(
        Row(
            one.strategy,
            (
                between(one.auc, "number"),
                fmt.percent(one.flagged, 1),
                fmt.percent(one.flagged_benign, 1),
            ),
        )
        for one in detection
    )
    caption = "Queries told from honest ones by their distance and the entropy of the answer."
    return Table("Attacker detection", caption, columns, rows)


def _costs(costs: Sequence[ExtractionCost], price: float) -> Table:
    columns = tuple(Column(label, "student") for label in ("queries", "price"))
    rows = tuple(
        Row(
            f"{fmt.percent(one.agreement, 0)} agreement, told {FORMATS[one.response_format]}",
            (
                fmt.integer(one.queries),
                fmt.MISSING if one.price is None else f"{one.price:,.2f}",
            ),
        )
        for one in costs
    )
    return Table("Extraction cost", f"At {price:g} a query.", columns, rows)
