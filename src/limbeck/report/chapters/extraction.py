"""The section on model extraction: fidelity of an extracted copy by number of queries."""

from __future__ import annotations

from collections.abc import Sequence

from limbeck.evaluate.questions.extraction import Extraction
from limbeck.evaluate.stealing.defences import Defence
from limbeck.evaluate.stealing.detector import Detection
from limbeck.evaluate.stealing.thefts import Cost, Theft
from limbeck.report import format as fmt
from limbeck.report.chapter import Chapter, between
from limbeck.report.charts.lines import Series, lines
from limbeck.report.panels.panel import Panel, percent_tick
from limbeck.report.result import RunResult
from limbeck.report.tables import Column, Row, Table

DASHES = {"full": None, "top_1": "6 3", "label": "2 3"}
TOLD = {"full": "all probabilities", "top_1": "the first and its probability", "label": "the label"}


def chapter(found: Extraction, result: RunResult) -> Chapter:
    """Draw extraction fidelity by queries and response format, and the effect of defences."""
    tables = (
        _thefts(found.thefts),
        _defences(found.defences),
        _detection(found.detection),
        _costs(found.costs, found.price),
    )
    chance = ""
    if found.chance is not None:
        share = fmt.percent(found.chance, 1)
        chance = f" One who always says what the student says most agrees on {share}."
    panel = _curves(found.thefts)
    return Chapter(
        "How much of it could be stolen?",
        "A thief asks the student and trains a model of its own on the answers; how often that "
        f"model answers test samples as the student does is what was stolen.{chance}",
        panels=(panel,) if panel else (),
        tables=tuple(table for table in tables if table.rows),
    )


def _curves(thefts: Sequence[Theft]) -> Panel | None:
    series = [
        Series(
            TOLD[form],
            tuple(
                (float(one.queries), one.agreement.value)
                for one in thefts
                if one.strategy == "random" and one.form == form
            ),
            dash=dash,
            mark=True,
        )
        for form, dash in DASHES.items()
    ]
    series = [one for one in series if one.points]
    if not series:
        return None
    title = "What a thief gets for its queries"
    said = "Agreement with the student on test samples, by what the thief is told."
    drawn = lines(series, axis=percent_tick, title=title, description=said, across="queries")
    return Panel(title, f"{said} It asks about samples drawn by chance.", drawn)


def _thefts(thefts: Sequence[Theft]) -> Table:
    rows = tuple(
        Row(
            f"{one.strategy}, told {TOLD[one.form]}: {fmt.plural(one.queries, 'query', 'queries')}",
            (between(one.agreement),),
        )
        for one in thefts
    )
    return Table("Every thief", "With 95 % intervals.", (Column("agreement", "student"),), rows)


def _defences(defences: Sequence[Defence]) -> Table:
    columns = tuple(
        Column(label, "student") for label in ("queries", "thief agrees", "user's accuracy", "NLL")
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
    caption = "What is left to the thief, and what an honest user gets."
    return Table("Defences", caption, columns, rows)


def _detection(detection: Sequence[Detection]) -> Table:
    columns = tuple(
        Column(label, "student") for label in ("area under ROC", "thief flagged", "honest flagged")
    )
    rows = tuple(
        Row(
            one.strategy,
            (
                between(one.auc, "number"),
                fmt.percent(one.flagged, 1),
                fmt.percent(one.flagged_honest, 1),
            ),
        )
        for one in detection
    )
    caption = "Queries told from honest ones by their distance and the entropy of the answer."
    return Table("Can the thief be seen?", caption, columns, rows)


def _costs(costs: Sequence[Cost], price: float) -> Table:
    columns = tuple(Column(label, "student") for label in ("queries", "price"))
    rows = tuple(
        Row(
            f"{fmt.percent(one.agreement, 0)} agreement, told {TOLD[one.form]}",
            (
                fmt.integer(one.queries),
                fmt.MISSING if one.price is None else f"{one.price:,.2f}",
            ),
        )
        for one in costs
    )
    return Table("What theft costs", f"At {price:g} a query.", columns, rows)
