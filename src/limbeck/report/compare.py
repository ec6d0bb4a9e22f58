"""Comparison of several runs: a Markdown table, and the same as an HTML page."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from limbeck.display import format as fmt
from limbeck.display.blocks import Panel, tick_of
from limbeck.display.format import plain, table
from limbeck.display.pareto import Point
from limbeck.display.pareto import pareto as draw
from limbeck.evaluate.pareto import Direction, knee, pareto
from limbeck.report import comparable_runs
from limbeck.report.result import RunResult
from limbeck.report.template import render
from limbeck.report.verdict import budget_name, figures, first

HEAD = (
    "run",
    "size",
    "compression",
    "parameters",
    "score",
    "95 % interval",
    "retained",
    "latency p50",
    "distillation gain",
    "budget",
)
CAPTION = (
    "The exported student of each run, on the run's own test split. Intervals are over seeds where "
    "a run has several, else over test samples."
)


def as_records(results: Sequence[RunResult]) -> list[dict[str, object]]:
    """Return each run's figures as plain data, unrounded: bytes, milliseconds and shares of 1."""
    return [_record(result) for result in results]


def _record(result: RunResult) -> dict[str, object]:
    found = figures(result)
    interval = found.interval
    gain = result.comparison.difference if result.comparison else None
    gain_interval = gain.interval if gain else None
    return {
        "run": result.name,
        "task": result.task,
        "seeds": list(result.seeds),
        "size_bytes": found.size,
        "compression": found.compression,
        "parameters": found.parameters,
        "metric": found.metric.name,
        "score": found.score.mean,
        "score_interval": [interval.low, interval.high] if interval else None,
        "teacher_score": found.teacher_score.mean if found.teacher_score else None,
        "retained": found.retained,
        "latency_p50_ms": found.latency,
        "gain": gain.mean if gain else None,
        "gain_interval": [gain_interval.low, gain_interval.high] if gain_interval else None,
        "budget": [check.model_dump(mode="json") for check in result.budget],
        "agreement": _agreement(result),
        "largest_drop": _largest_drops(result),
    }


def _agreement(result: RunResult) -> dict[str, dict[str, object]]:
    """Return the agreement of student and teacher, by name; that of classes is `top_1`."""
    found = {
        one.metric.name: (one.value, one.interval)
        for one in (result.details.agreements if result.details else ())
    }
    measured = first(result.shipped)
    if measured is not None and measured.fidelity is not None:
        found["top_1"] = (measured.fidelity.agreement, measured.fidelity.interval)
    return {
        name: {"value": value, "interval": [interval.low, interval.high] if interval else None}
        for name, (value, interval) in found.items()
    }


def _largest_drops(result: RunResult) -> dict[str, dict[str, object]]:
    """Return the class, step or target in which the student lost most, by score and kind."""
    drops: dict[str, dict[str, object]] = {}
    for one in result.details.breakdowns if result.details else ():
        rows = [row for row in one.by_drop if row.drop is not None]
        if rows and rows[0].drop is not None:
            drop, interval = rows[0].drop.value, rows[0].drop.interval
            drops[f"{one.metric.name}_by_{one.by}"] = {
                one.by: rows[0].name,
                "drop": drop,
                "interval": [interval.low, interval.high] if interval else None,
            }
    return drops


def _row(result: RunResult) -> tuple[str, ...]:
    """Return the figures of a run as written; the columns are `HEAD`."""
    found = figures(result)
    gain = result.comparison.difference if result.comparison else None
    return (
        result.name,
        fmt.size(found.size),
        fmt.ratio(found.compression),
        fmt.integer(found.parameters),
        f"{found.metric.title} {fmt.score(found.score.mean, found.metric)}",
        fmt.score_interval(found.interval, found.metric),
        fmt.percent(found.retained, 1),
        fmt.milliseconds(found.latency),
        fmt.gain_estimate(gain.mean, gain.interval, found.metric) if gain else fmt.MISSING,
        _budget(result),
    )


def _budget(result: RunResult) -> str:
    if not result.budget:
        return "none set"
    lines = {
        word: [budget_name(check) for check in result.budget if check.word == word]
        for word in ("missed", "inconclusive")
    }
    return ", ".join(f"{word}: {fmt.listing(names)}" for word, names in lines.items() if names) or (
        "met"
    )


def render_comparison(results: Sequence[RunResult]) -> str:
    """Write the runs as Markdown: a table, the caveats, then the groups of comparable runs."""
    parts = [table(HEAD, list(map(_row, results))), CAPTION, *map(plain, differences(results))]
    for group in comparable_runs.comparable_runs(results):
        groups = table(comparable_runs.HEAD, group.rows)
        parts += [f"## {plain(group.title)}", groups, comparable_runs.CAPTION]
    return "\n\n".join(parts) + "\n"


def render_comparison_page(results: Sequence[RunResult]) -> str:
    """Draw the runs as one self-contained HTML page."""
    return render(
        "compare.html.jinja",
        head=HEAD,
        caption=CAPTION,
        rows=list(map(_row, results)),
        differences=differences(results),
        panels=pareto_fronts(results),
        groups=comparable_runs.comparable_runs(results),
        group_head=comparable_runs.HEAD,
        group_caption=comparable_runs.CAPTION,
        names=[result.name for result in results],
    )


def differences(results: Sequence[RunResult]) -> list[str]:
    """Return the other differences between the runs, as possible confounders of the recipe."""
    settings: dict[str, set[object]] = {
        "tasks": {result.task for result in results},
        "data": {result.data.fingerprint for result in results},
        "processors": {result.environment.hardware.processor for result in results},
        "seeds": {result.seeds for result in results},
    }
    differ = [name for name, values in settings.items() if len(values) > 1]
    return [f"The runs differ in their {fmt.listing(differ)}: compare with care."] if differ else []


def pareto_fronts(results: Sequence[RunResult]) -> list[Panel]:
    """Draw the Pareto fronts of the score against size and against latency."""
    found = [figures(result) for result in results]
    fronts = (
        _pareto_front(results, [one.size for one in found], "size", fmt.size),
        _pareto_front(results, [one.latency for one in found], "latency", fmt.milliseconds),
    )
    return [panel for panel in fronts if panel is not None]


def _pareto_front(
    results: Sequence[RunResult],
    costs: Sequence[float | None],
    name: str,
    write: Callable[[float], str],
) -> Panel | None:
    metric = results[0].metric
    pairs = zip(costs, results, strict=True)
    known = [(cost, one) for cost, one in pairs if cost and one.metric == metric]
    if len(known) < 2:
        return None
    values = [(cost, one.shipped.score.mean) for cost, one in known]
    better: Direction = "maximize" if metric.higher_is_better else "minimize"
    directions: tuple[Direction, ...] = ("minimize", better)
    optimal = pareto(values, directions)
    front = [value for value, is_optimal in zip(values, optimal, strict=True) if is_optimal]
    bend = knee(front, directions)
    points = [
        Point(
            cost,
            quality,
            f"{result.name}: {fmt.score(quality, metric)}, {write(cost)}",
            front=bool(is_optimal),
            line=bool(is_optimal),
            knee=bend is not None and (cost, quality) == front[bend],
            name=result.name if is_optimal else "",
        )
        for (cost, quality), (_, result), is_optimal in zip(values, known, optimal, strict=True)
    ]
    title = f"{metric.title} against {name}"
    return Panel(
        title,
        "Filled: Pareto-optimal; hollow: dominated by another run; diamond: the knee of the front. "
        f"{metric.title}, the mean over seeds, on each run's own test samples.",
        draw(
            points,
            across=lambda value: fmt.trim(write(value)),
            up=tick_of(metric),
            name=name,
            title=title,
            description=f"Pareto front: {fmt.listing([one.name for one in points if one.front])}.",
        ),
    )
