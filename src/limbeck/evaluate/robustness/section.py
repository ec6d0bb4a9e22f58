"""The section on robustness: adversarial attacks, corruptions and certified accuracy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from limbeck.display import format as fmt
from limbeck.display.blocks import Panel, Row, Table, percent_tick
from limbeck.display.charts import lines
from limbeck.evaluate.comparison import Estimate
from limbeck.evaluate.robustness import Robustness
from limbeck.evaluate.robustness.rows import in_255ths
from limbeck.evaluate.section import BOTH, Points, Sample, SectionContent, both, pair

NAMES = {
    "fgsm": "FGSM",
    "pgd": "PGD",
    "transfer": "transfer",
    "gradients": "worst case, with gradients",
    "strongest": "worst case",
}


def section(found: Robustness) -> SectionContent:
    """Draw accuracy by strength of attack and corruption, and certified accuracy."""
    tables = (
        Table(
            "Robust accuracy by attack",
            "Transfer: PGD made on the other model. Worst case: over all attacks, per image.",
            BOTH,
            tuple(
                Row(f"{NAMES[row.attack]}, {in_255ths(row.eps)}", pair(row.student, row.teacher))
                for row in found.attacks
            ),
        ),
        Table(
            "Corruption robustness",
            "Accuracy on corrupted samples.",
            BOTH,
            tuple(
                Row(
                    f"{row.kind.capitalize()}, severity {row.severity}",
                    pair(row.student, row.teacher),
                )
                for row in found.corruptions
            ),
        ),
        Table(
            "Certified accuracy",
            "Share of images whose correct prediction no perturbation of the size can change, "
            "proven by interval bounds on the PyTorch model; a lower bound.",
            BOTH,
            tuple(
                Row(f"ε = {in_255ths(row.eps)}", pair(row.student, row.teacher))
                for row in found.certified
            ),
        ),
    )
    panels = (_attacks(found), _corruptions(found))
    return SectionContent(
        "Robustness",
        _lead(found),
        panels=tuple(panel for panel in panels if panel),
        tables=tuple(table for table in tables if table.rows),
        samples=tuple(
            Sample(
                f"{one.label}, predicted as {one.answer} at {in_255ths(one.eps)}",
                (("before", one.before), ("after", one.after)),
            )
            for one in found.examples
        ),
        warnings=found.warnings,
    )


def _lead(found: Robustness) -> str:
    counts = f"{fmt.integer(found.samples)} test samples were corrupted"
    if found.attack_samples:
        counts += f", {fmt.integer(found.attack_samples)} of them attacked"
    return (
        f"{counts}. Attacks use gradients of the PyTorch model and are tested on the exported "
        "file; robust accuracy is the worst case over all attacks."
    )


def _points(pairs: Iterable[tuple[float, Estimate | None]]) -> Points:
    return tuple((across, one.value) for across, one in pairs if one is not None)


def _panel(
    title: str, description: str, note: str, student: Points, teacher: Points, across: str
) -> Panel:
    chart = lines(
        both(student, teacher),
        axis=percent_tick,
        title=title,
        description=description,
        across=across,
    )
    return Panel(title, f"{description}{note}", chart)


def _attacks(found: Robustness) -> Panel | None:
    rows = [row for row in found.attacks if row.attack == "strongest"]
    if not rows:
        return None
    return _panel(
        "Robust accuracy (L∞)",
        "Accuracy in the worst case over all attacks of each size.",
        " An image counts as broken if any attack broke it.",
        _points((255 * row.eps, row.student) for row in rows),
        _points((255 * row.eps, row.teacher) for row in rows),
        "perturbation size ε, in 255ths",
    )


def _corruptions(found: Robustness) -> Panel | None:
    if not found.corruptions:
        return None
    student: dict[int, list[float]] = defaultdict(list)
    teacher: dict[int, list[float]] = defaultdict(list)
    for row in found.corruptions:
        student[row.severity].append(row.student.value)
        if row.teacher is not None:
            teacher[row.severity].append(row.teacher.value)
    return _panel(
        "Accuracy under corruption",
        "Mean over the kinds of corruption, by severity from 1 to 5.",
        "",
        _mean_points(student),
        _mean_points(teacher),
        "severity",
    )


def _mean_points(values: dict[int, list[float]]) -> Points:
    return tuple((severity, sum(each) / len(each)) for severity, each in values.items())
