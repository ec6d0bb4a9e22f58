"""Distillation gain: the student compared with the label-only baseline."""

from __future__ import annotations

from limbeck.evaluate.interval import Summary
from limbeck.report import format as fmt
from limbeck.report.charts.strip import Group, strip
from limbeck.report.panels.panel import Panel, ends, percent_tick
from limbeck.report.result import Comparison, Role, RunResult


def labels_alone(result: RunResult) -> list[Panel]:
    """Draw both groups with every seed, and their difference; return nothing without a baseline."""
    if result.comparison is None:
        return []
    return [_groups(result, result.comparison), _difference(result, result.comparison)]


def in_words(result: RunResult) -> str:
    """Write the comparison in one sentence that claims no more than the interval allows."""
    if result.comparison is None:
        return ""
    difference = result.comparison.difference
    gain = fmt.points(difference.mean)
    if difference.interval is None:
        return f"The teacher's answers were worth {gain}; with one seed no interval is possible."
    interval = fmt.points_interval(difference.interval)
    if difference.interval.low > 0:
        judged = "so the gain is more than chance between seeds"
    elif difference.interval.high < 0:
        judged = "so learning from the teacher did harm"
    else:
        judged = "so these seeds do not show that the teacher helped"
    return f"The teacher's answers were worth {gain} (95 % interval {interval}), {judged}."


def _groups(result: RunResult, comparison: Comparison) -> Panel:
    title = "Distilled, and on labels alone"
    groups = [
        _group("Distilled student", "student", comparison.student),
        _group("Same student, labels alone", "baseline", comparison.baseline),
    ]
    joined = " Thin lines join the two students of one seed." if len(result.seeds) > 1 else ""
    return Panel(
        title,
        f"Test accuracy; the same net, data, epochs and seeds. {_dots(comparison.student)}{joined}",
        strip(
            groups,
            result.seeds,
            axis=percent_tick,
            title=title,
            description="; ".join(f"{group.label}: mean {group.written}" for group in groups),
        ),
    )


def _difference(result: RunResult, comparison: Comparison) -> Panel:
    title = "Difference, seed by seed"
    found = comparison.difference
    mean = fmt.points(found.mean)
    group = Group(
        "Distilled − labels alone", "student", found.values, found.mean, mean, ends(found.interval)
    )
    return Panel(
        title,
        f"Percentage points of test accuracy; right of zero the teacher helped. {_dots(found)}",
        strip(
            [group],
            result.seeds,
            axis=lambda value: percent_tick(value).removesuffix(" %"),
            title=title,
            description=in_words(result),
            zero=True,
        ),
    )


def _group(label: str, role: Role, summary: Summary) -> Group:
    mean = fmt.percent(summary.mean)
    return Group(label, role, summary.values, summary.mean, mean, ends(summary.interval))


def _dots(summary: Summary) -> str:
    """Write the explanation of dots and bars, or why there is no bar."""
    if summary.interval is None:
        return "One seed, one dot: no interval is possible."
    return "A dot a seed; below, the mean and its 95 % interval (Student)."
