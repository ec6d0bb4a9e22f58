"""The section on the diagnosis, and the same as lines of text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from limbeck.display import format as fmt
from limbeck.display.blocks import Column, Panel, Row, Table, ends, tick_of
from limbeck.display.charts import Group, strip
from limbeck.evaluate.comparison import Estimate
from limbeck.evaluate.context import Role
from limbeck.evaluate.diagnosis import Diagnosis
from limbeck.evaluate.diagnosis.figures import LearningCurve, TeacherAgreement
from limbeck.evaluate.intervals import Summary
from limbeck.evaluate.section import SectionContent, student_columns

ROLES: tuple[Role, ...] = ("teacher", "student", "baseline")


def _label(found: Diagnosis, role: Role) -> str:
    labels = {"teacher": "teacher", "student": "distilled student", "baseline": found.baseline}
    return labels[role]


def section(found: Diagnosis) -> SectionContent:
    """Draw the headroom, list the causes with their advice, and all figures."""
    tables = (
        _scores(found),
        _targets(found),
        _agreements(found),
        _terms(found),
        _curves(found),
    )
    return SectionContent(
        "Diagnosis of the distillation",
        found.summary,
        panels=tuple(_headroom(found)),
        tables=tuple(table for table in tables if table.rows),
        causes=tuple((one.evidence, one.advice) for one in found.causes),
    )


def lines(found: Diagnosis) -> list[str]:
    """Write a diagnosis as lines of plain text: the outcome, the figures, then the advice."""
    shown = [found.summary, ""]
    for table in (_scores, _targets, _agreements, _terms, _curves):
        shown += _text(table(found))
    for number, one in enumerate(found.causes, start=1):
        shown += [f"{number}. {one.evidence}", f"   {one.advice}"]
    if not found.causes and found.splits:
        shown.append("No rule found a cause in these figures.")
    notes = [f"Note: {note}" for note in found.notes if note != found.summary]
    return [*shown, *([""] if notes and shown[-1] else []), *notes]


def _text(table: Table) -> Iterator[str]:
    if not table.rows:
        return
    head = ("", *(column.label for column in table.columns))
    rows = [head, *((row.name, *row.cells) for row in table.rows)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(head))]
    yield table.title
    for name, *cells in rows:
        padded = [f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True)]
        yield f"  {name:<{widths[0]}}  {'  '.join(padded)}".rstrip()
    yield ""


def _headroom(found: Diagnosis) -> Iterator[Panel]:
    """Draw the test scores of teacher, student and baseline below one another."""
    test = found.split("test")
    if found.seeds is not None and found.seeds.seeds > 1:
        scores = {
            role: (one.values, one.mean, one.interval) for role, one in found.seeds.scores.items()
        }
        marks = "One dot per seed; below, the mean and its 95 % interval (Student)."
    elif test is not None:
        scores = {
            role: ((one.value,), one.value, one.interval) for role, one in test.scores.items()
        }
        marks = "One seed; below, the 95 % interval over the test samples."
    else:
        return
    groups = []
    for role in ROLES:
        if role in scores:
            values, mean, interval = scores[role]
            label = _label(found, role).capitalize()
            groups.append(Group(label, role, values, mean, _score(found, mean), ends(interval)))
    title = "The teacher's lead, and what the student took of it"
    caption = f"Test {found.metric.text}, as the distillation exported the models. {marks}"
    described = "; ".join(f"{group.label}: {group.written}" for group in groups)
    seeds = found.seeds.numbers if found.seeds is not None else (0,)
    chart = strip(groups, seeds, axis=tick_of(found.metric), title=title, description=described)
    yield Panel(title, caption, chart)


def _score(found: Diagnosis, value: float | None) -> str:
    return "–" if value is None else fmt.score(value, found.metric)


def _scores(found: Diagnosis) -> Table:
    columns = tuple(Column(_label(found, role), role) for role in ROLES)
    rows = []
    for one in found.splits:
        cells = [_score(found, _value(one.scores.get(role))) for role in ROLES]
        cells += [_difference(found, one.headroom), _difference(found, one.gain)]
        name = f"{one.split}, {fmt.plural(one.samples, 'sample')}"
        rows.append(Row(f"{name}, first seed" if found.seeds else name, tuple(cells)))
    if found.seeds is not None and found.seeds.seeds > 1:
        seeds = found.seeds
        cells = [
            _score(found, seeds.scores[role].mean if role in seeds.scores else None)
            for role in ROLES
        ]
        cells += [_over_seeds(found, one) for one in (seeds.headroom, seeds.gain)]
        rows.append(Row(f"test, mean of {seeds.seeds} seeds", tuple(cells)))
    return Table(
        f"{found.metric.title}: the teacher's lead and the gain",
        f"Differences from the {found.baseline}, positive where better, with 95 % intervals: "
        "paired over the samples, or Student's over seeds.",
        (*columns, *student_columns("teacher's lead", "gain")),
        tuple(rows),
    )


def _over_seeds(found: Diagnosis, one: Summary | None) -> str:
    return "–" if one is None else fmt.gain_estimate(one.mean, one.interval, found.metric)


def _value(estimate: Estimate | None) -> float | None:
    return None if estimate is None else estimate.value


def _difference(found: Diagnosis, one: Estimate | None) -> str:
    return "–" if one is None else fmt.gain_estimate(one.value, one.interval, found.metric)


def _targets(found: Diagnosis) -> Table:
    """List the teacher's targets by split; columns without any figure are left out."""
    softened = f"at temperature {fmt.trim(fmt.number(found.temperature))}"
    all_columns = (
        ("entropy, nats", [_number(one.entropy) for one in found.targets]),
        (softened, [_number(one.softened_entropy) for one in found.targets]),
        ("confidence", [_share(one.confidence) for one in found.targets]),
        ("accuracy", [_share(one.accuracy) for one in found.targets]),
        ("ECE", [_share(one.ece) for one in found.targets]),
        ("RMS error, SD of labels", [_number(one.error) for one in found.targets]),
    )
    columns = [(name, cells) for name, cells in all_columns if any(c != "–" for c in cells)]
    rows = tuple(
        Row(one.split, tuple(cells[place] for _, cells in columns))
        for place, one in enumerate(found.targets)
        if columns
    )
    return Table(
        "The teacher's targets",
        "Means over elements; targets with an entropy of a few hundredths of a nat add hardly "
        "anything to the labels.",
        tuple(Column(name, "teacher") for name, _ in columns),
        rows,
    )


def _number(value: float | None) -> str:
    return "–" if value is None else fmt.number(value)


def _share(value: float | None) -> str:
    return "–" if value is None else fmt.percent(value)


def _agreements(found: Diagnosis) -> Table:
    def cell(one: TeacherAgreement | None) -> str:
        if one is None or one.distance is None:
            return "–"
        if one.agreement is None:
            return f"{fmt.number(one.distance)} SD"
        kl = "" if one.kl is None else f", KL {fmt.number(one.kl)}"
        return f"{fmt.percent(one.agreement, 1)}{kl}"

    roles: tuple[Role, ...] = ("student", "baseline")
    rows = tuple(
        Row(split.split, tuple(cell(found.agreement(split.split, role)) for role in roles))
        for split in found.splits
        if any(found.agreement(split.split, role) for role in roles)
    )
    names = [one.name.lower() for one in found.agreements if one.agreement is not None]
    what = names[0] if names else "root mean squared difference"
    return Table(
        "Fidelity to the teacher",
        f"{what[:1].upper()}{what[1:]} with the teacher; KL(teacher || model) in nats.",
        tuple(Column(_label(found, role), role) for role in roles),
        rows,
    )


def _terms(found: Diagnosis) -> Table:
    rows = tuple(Row(one.term, (_share(one.start), _share(one.end))) for one in found.terms)
    return Table(
        "Gradient share of the terms",
        "Norm of each weighted term's gradient for the student's parameters, divided by the sum "
        "of all terms' norms, on four training batches.",
        student_columns("initial weights", "distilled weights"),
        rows,
    )


def _curves(found: Diagnosis) -> Table:
    rows = tuple(Row(_label(found, one.role), _curve(found, one)) for one in found.curves)
    return Table(
        "Learning curves",
        f"Validation {found.metric.text}, the mean of all trainings; the trend compares the last "
        "quarter of the epochs with those before.",
        student_columns("trainings", "best", "epoch", "of", "last", "trend"),
        rows,
    )


def _curve(found: Diagnosis, one: LearningCurve) -> tuple[str, ...]:
    return (
        fmt.integer(one.trainings),
        _score(found, one.best),
        f"{one.best_epoch:g}",
        fmt.integer(one.epochs),
        _score(found, one.last),
        one.trend,
    )
