"""Details of a task on the page: scores by class or step, agreement with the teacher, samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from limbeck.core.illustration import Plot, Side, Trace, thinned
from limbeck.core.measurement import Metric
from limbeck.display import format as fmt
from limbeck.display.blocks import Column, Panel, Row, Table
from limbeck.display.plots import plot
from limbeck.display.rasters import legend, raster
from limbeck.display.svg import Role
from limbeck.evaluate.comparison import Estimate
from limbeck.evaluate.detail_results import BreakdownResult, GeneratedText, ShownSample, TaskDetails
from limbeck.report.result import RunResult

MOST_ROWS = 30
"""The number of rows of a table of scores; `run.json` has all."""

MOST_POSITIONS = 400
"""The number of positions of a chart of scores."""


@dataclass(frozen=True)
class View:
    """An image of a sample: its title, the role in whose colour it is written, and the image."""

    title: str
    role: Role | None
    image: Markup


@dataclass(frozen=True)
class SampleView:
    """A sample of the page: its heading, why it was chosen, its images and its charts.

    Images without boxes are small enough for two side by side on a phone.
    """

    heading: str
    reason: str
    views: tuple[View, ...]
    panels: tuple[Panel, ...]
    small: bool


@dataclass(frozen=True)
class DetailsView:
    """The details of a task as written.

    Attributes:
        title: The heading of the scores: "Scores by class".
        panels: Charts of scores by step.
        tables: The scores.
        folded: The scores of which there is a chart.
        agreement: The table of agreement with the teacher; None without a teacher.
        overview: Charts of many samples.
        samples: The samples.
        texts: Generated texts of a language model.
        legend: The legend of the classes that occur in them.
        caption: How samples were chosen and drawn.
        problem: Why there are no details, if the task raised an error.
    """

    title: str
    panels: tuple[Panel, ...]
    tables: tuple[Table, ...]
    folded: tuple[Table, ...]
    agreement: Table | None
    overview: tuple[Panel, ...]
    samples: tuple[SampleView, ...]
    texts: tuple[GeneratedText, ...]
    legend: Markup
    caption: str
    problem: str

    @property
    def has_samples(self) -> bool:
        """Return whether there is a comparison with the teacher."""
        return bool(self.samples or self.overview or self.agreement or self.texts)


def details(result: RunResult) -> DetailsView | None:
    """Convert the details of a run for the page; None if the task has none."""
    found = result.details
    if found is None:
        return None
    where = f"seed {result.seeds[0]}, {fmt.plural(result.data.test, 'test sample')}"
    boxes = any(r.boxes for one in found.samples for r in one.illustration.rasters)
    keys = {key.name: key for key in found.legend}
    used = {n for one in found.samples for r in one.illustration.rasters for n in r.names}
    return DetailsView(
        title=_title(found),
        panels=tuple(_chart(one, where) for one in found.breakdowns if one.ordered and one.rows),
        tables=tuple(_table(one, where) for one in found.breakdowns if not one.ordered),
        folded=tuple(_table(one, where) for one in found.breakdowns if one.ordered),
        agreement=_agreement(found, where),
        overview=tuple(_panel(one, "") for one in found.overview),
        samples=tuple(_sample(one, found) for one in found.samples),
        texts=found.texts,
        legend=legend([key for name, key in keys.items() if name in used], boxes=boxes),
        caption=found.caption,
        problem=found.problem,
    )


def _title(found: TaskDetails) -> str:
    rows = dict.fromkeys(one.by for one in found.breakdowns)
    return f"Scores by {fmt.listing([*rows])}" if rows else "Details of the task"


def _table(found: BreakdownResult, where: str) -> Table:
    """Return the table of a breakdown, by descending drop."""
    metric, rows = found.metric, found.by_drop
    drops = any(row.drop for row in rows)
    teacher = any(row.teacher for row in rows)
    columns: list[tuple[str, Role]] = [("student", "student")]
    cells: list[list[str]] = [[_estimate(row.student, metric) for row in rows]]
    if teacher:
        columns.append(("teacher", "teacher"))
        cells.append([_estimate(row.teacher, metric) for row in rows])
    if drops:
        columns.append(("drop", "student"))
        cells.append([_drop(row.drop, metric) for row in rows])
    order = (
        "by descending drop, which is by how much the student is worse" if drops else "worst first"
    )
    notes = [
        found.note,
        f"Of the exported files ({where}), {order}; 95 % intervals by the bootstrap over samples.",
    ]
    if len(rows) > MOST_ROWS:
        notes.append(f"Shown are {MOST_ROWS} of {len(rows)} rows; run.json has all.")
    if found.absent:
        notes.append(f"Undefined, and left out: {fmt.listing(found.absent[:MOST_ROWS])}.")
    written = zip(rows[:MOST_ROWS], *cells, strict=False)
    return Table(
        f"{metric.title} by {found.by}",
        " ".join(filter(None, notes)),
        tuple(Column(*one) for one in columns),
        tuple(Row(row.name, tuple(own)) for row, *own in written),
    )


def _estimate(found: Estimate | None, metric: Metric) -> str:
    if found is None:
        return "undefined"
    value = fmt.score(found.value, metric)
    if found.interval is None:
        return value
    return f"{value} ({fmt.score_interval(found.interval, metric)})"


def _drop(found: Estimate | None, metric: Metric) -> str:
    return "undefined" if found is None else fmt.gain_estimate(found.value, found.interval, metric)


def _agreement(found: TaskDetails, where: str) -> Table | None:
    """Return the table of the scores of the student against the teacher's predictions."""
    if not found.agreements:
        return None
    rows = tuple(
        Row(
            one.metric.title,
            (fmt.score(one.value, one.metric), fmt.score_interval(one.interval, one.metric)),
        )
        for one in found.agreements
    )
    columns = (Column("student and teacher", "student"), Column("95 % interval", "student"))
    caption = (
        "The predictions of student and teacher compared with each other, not with the labels: the "
        f"fidelity of the student (Stanton et al. 2021). Of the exported files ({where})."
    )
    return Table("Agreement with the teacher", caption, columns, rows)


def _chart(found: BreakdownResult, where: str) -> Panel:
    """Draw a breakdown over positions: a line per model, and a band of its interval."""
    kept = thinned(len(found.rows), MOST_POSITIONS).tolist()
    x = tuple(float(place + 1) for place in kept)
    traces: list[Trace] = []
    sides: tuple[Side, ...] = ("teacher", "student")
    forms: tuple[Literal["band", "line"], ...] = ("band", "line")
    for form in forms:
        for side in sides:
            figures = [getattr(found.rows[place], side) for place in kept]
            if any(figures):
                traces.append(_trace(side, form, x, figures))
    unit = "" if found.metric.unit == "share" else found.metric.unit
    shown = Plot(
        title=f"{found.metric.title} by {found.by}",
        text=f"{found.metric.title} of {len(found.rows)} {found.by}s, of student and teacher.",
        across=found.by,
        up=", ".join(filter(None, (found.metric.title, unit))),
        traces=tuple(traces),
    )
    return _panel(shown, f"{found.note} Bands are 95 % intervals; {where}.")


def _trace(
    side: Side,
    form: Literal["band", "line"],
    x: tuple[float, ...],
    figures: list[Estimate | None],
) -> Trace:
    def column(read: Callable[[Estimate], float]) -> tuple[float | None, ...]:
        return tuple(None if one is None else read(one) for one in figures)

    if form == "line":
        return Trace(name=side, side=side, form=form, x=x, y=column(lambda one: one.value))
    low, high = column(lambda one: one.ends[0]), column(lambda one: one.ends[1])
    return Trace(name="", side=side, form=form, x=x, y=low, high=high)


def _panel(shown: Plot, caption: str) -> Panel:
    return Panel(shown.title, caption, plot(shown))


def _sample(one: ShownSample, found: TaskDetails) -> SampleView:
    metric = found.agreements[0].metric if found.agreements else None
    reason: list[str] = ["largest difference" if one.reason == "different" else one.reason]
    if metric is not None and one.agreement is not None:
        reason.append(f"{metric.text} {fmt.score(one.agreement, metric)}")
    keys, shown = {key.name: key for key in found.legend}, one.illustration
    views = tuple(
        View(own.title, None if own.side == "truth" else own.side, raster(own, shown, keys))
        for own in shown.rasters
    )
    return SampleView(
        heading=f"Test sample {one.index}",
        reason=", ".join(reason),
        views=views,
        panels=tuple(_panel(own, "") for own in shown.plots),
        small=not any(own.boxes for own in shown.rasters),
    )
