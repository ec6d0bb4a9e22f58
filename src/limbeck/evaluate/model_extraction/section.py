"""The section on model extraction: fidelity of an extracted copy by number of queries."""

from __future__ import annotations

from collections.abc import Sequence

from limbeck.display import format as fmt
from limbeck.display.blocks import Panel, Row, Table, percent_tick
from limbeck.display.charts import Series, lines
from limbeck.evaluate.model_extraction import ModelExtraction
from limbeck.evaluate.model_extraction.runs import DESCRIPTIONS, ExtractionScore
from limbeck.evaluate.section import SectionContent, between, student_columns

DASHES = {"probabilities": None, "top1": "6 3", "hard_label": "2 3"}


def section(found: ModelExtraction) -> SectionContent:
    """Draw extraction fidelity by queries and response format, and the effect of defences."""
    baseline = ""
    if found.majority_baseline is not None:
        share = fmt.percent(found.majority_baseline, 1)
        baseline = f" A constant prediction of the most frequent class agrees on {share}."
    panel = _curves(found.scores)
    return SectionContent(
        "Model extraction",
        "An attacker queries the student and trains a surrogate on the responses. The extraction "
        f"fidelity is its agreement with the student on test samples.{baseline}",
        panels=(panel,) if panel else (),
        tables=tuple(table for table in _tables(found) if table.rows),
    )


def _curves(scores: Sequence[ExtractionScore]) -> Panel | None:
    series = [
        Series(
            DESCRIPTIONS[name],
            tuple(
                (float(one.queries), one.agreement.value)
                for one in scores
                if one.strategy == "random" and one.response_format == name
            ),
            dash=dash,
            mark=True,
        )
        for name, dash in DASHES.items()
    ]
    series = [one for one in series if one.points]
    if not series:
        return None
    title = "Extraction fidelity by queries"
    description = "Agreement with the student on test samples, by response format."
    drawn = lines(series, axis=percent_tick, title=title, description=description, across="queries")
    return Panel(title, f"{description} Queries are random samples.", drawn)


def _tables(found: ModelExtraction) -> tuple[Table, ...]:
    scores = tuple(
        Row(
            f"{one.strategy}, {DESCRIPTIONS[one.response_format]}: "
            f"{fmt.plural(one.queries, 'query', 'queries')}",
            (between(one.agreement),),
        )
        for one in found.scores
    )
    defences = tuple(
        Row(
            one.name,
            (
                fmt.integer(one.queries),
                between(one.agreement),
                fmt.percent(one.accuracy),
                fmt.number(one.nll),
            ),
        )
        for one in found.defences
    )
    detections = tuple(
        Row(
            one.strategy,
            (
                between(one.auc, "number"),
                fmt.percent(one.flagged, 1),
                fmt.percent(one.flagged_benign, 1),
            ),
        )
        for one in found.detection
    )
    costs = tuple(
        Row(
            f"{fmt.percent(one.agreement, 0)} agreement, {DESCRIPTIONS[one.response_format]}",
            (fmt.integer(one.queries), fmt.MISSING if one.price is None else f"{one.price:,.2f}"),
        )
        for one in found.costs
    )
    return (
        Table("Extraction fidelity", "With 95 % intervals.", student_columns("agreement"), scores),
        Table(
            "Defences",
            "Extraction fidelity under each defence, and the cost to a benign user.",
            student_columns("queries", "attacker agrees", "user's accuracy", "NLL"),
            defences,
        ),
        Table(
            "Attacker detection",
            "Queries are scored by the distance to the nearest benign query and the entropy of the "
            "prediction.",
            student_columns("AUROC", "attacker flagged", "benign flagged"),
            detections,
        ),
        Table(
            "Extraction cost",
            f"At {found.price:g} per query.",
            student_columns("queries", "price"),
            costs,
        ),
    )
