"""Comparison of several runs: a Markdown table, and the same as an HTML page."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from limbeck.display import format as fmt
from limbeck.display.blocks import Panel, percent_tick
from limbeck.display.format import plain, table
from limbeck.display.pareto import Point
from limbeck.display.pareto import pareto as draw
from limbeck.evaluate.pareto import Direction, knee, pareto
from limbeck.report import comparable_runs, verdict
from limbeck.report.result import RunResult
from limbeck.report.template import render
from limbeck.report.verdict import figures

HEAD = (
    "run",
    "size",
    "compression",
    "parameters",
    "accuracy",
    "95 % interval",
    "retained",
    "latency p50",
    "over labels alone",
    "budget",
)
MEANING = (
    "Each run's shipped student, from its exported file, on its own test split. Intervals are over "
    "seeds where a run has several, else over test samples."
)


def comparison_rows(results: Sequence[RunResult]) -> list[tuple[str, ...]]:
    """Return one row per run in the given order, figures as written; the columns are `HEAD`."""
    return [_row(result) for result in results]


def as_records(results: Sequence[RunResult]) -> list[dict[str, object]]:
    """Return each run's figures as plain data, unrounded: bytes, milliseconds and shares of 1."""
    return [_record(result) for result in results]


def _record(result: RunResult) -> dict[str, object]:
    found = figures(result)
    interval = found.accuracy.interval or found.shipped_interval
    gain = result.comparison.difference if result.comparison else None
    ends = gain.interval if gain else None
    return {
        "run": result.name,
        "task": result.task,
        "seeds": list(result.seeds),
        "size_bytes": found.size,
        "compression": found.compression,
        "parameters": found.parameters,
        "accuracy": found.accuracy.mean,
        "accuracy_interval": [interval.low, interval.high] if interval else None,
        "teacher_accuracy": found.teacher_accuracy.mean if found.teacher_accuracy else None,
        "retained_accuracy": found.retained,
        "latency_p50_ms": found.latency,
        "gain": gain.mean if gain else None,
        "gain_interval": [ends.low, ends.high] if ends else None,
        "budget": [check.model_dump(mode="json") for check in result.budget],
    }


def render_comparison(results: Sequence[RunResult]) -> str:
    """Write the runs as Markdown: a table, the caveats, then the groups of comparable runs."""
    parts = [table(HEAD, comparison_rows(results)), MEANING, *map(plain, differences(results))]
    for group in comparable_runs.comparable_runs(results):
        parts += [
            f"## {plain(group.title)}",
            table(comparable_runs.HEAD, group.rows),
            comparable_runs.HOW,
        ]
    return "\n\n".join(parts) + "\n"


def render_comparison_page(results: Sequence[RunResult]) -> str:
    """Draw the runs as one self-contained HTML page."""
    return render(
        "compare.html.jinja",
        head=HEAD,
        meaning=MEANING,
        rows=comparison_rows(results),
        differences=differences(results),
        panels=fronts(results),
        groups=comparable_runs.comparable_runs(results),
        group_head=comparable_runs.HEAD,
        group_meaning=comparable_runs.HOW,
        names=[result.name for result in results],
    )


def differences(results: Sequence[RunResult]) -> list[str]:
    """Return the other differences between the runs, as possible confounders of the recipe."""
    asked: dict[str, set[object]] = {
        "tasks": {result.task for result in results},
        "data": {result.data.fingerprint for result in results},
        "processors": {result.environment.hardware.processor for result in results},
        "seeds": {result.seeds for result in results},
    }
    differ = [name for name, values in asked.items() if len(values) > 1]
    if not differ:
        return []
    return [f"The runs differ in their {fmt.listing(differ)}: compare with care."]


def _row(result: RunResult) -> tuple[str, ...]:
    found = figures(result)
    interval = found.accuracy.interval or found.shipped_interval
    gain = result.comparison.difference if result.comparison else None
    return (
        result.name,
        fmt.size(found.size),
        fmt.ratio(found.compression),
        fmt.integer(found.parameters),
        fmt.percent(found.accuracy.mean),
        fmt.percent_interval(interval),
        fmt.percent(found.retained, 1),
        fmt.milliseconds(found.latency),
        _gain(gain.mean, fmt.points_interval(gain.interval)) if gain else fmt.MISSING,
        _budget(result),
    )


def _gain(mean: float, interval: str) -> str:
    if interval == fmt.MISSING:
        return fmt.points(mean)
    return f"{fmt.points(mean)} ({interval.removesuffix(' points')})"


def _budget(result: RunResult) -> str:
    if not result.budget:
        return "none set"
    named = {
        word: [verdict.budget_name(check) for check in result.budget if check.word == word]
        for word in ("missed", "inconclusive")
    }
    parts = [f"{word}: {fmt.listing(names)}" for word, names in named.items() if names]
    return ", ".join(parts) or "met"


def fronts(results: Sequence[RunResult]) -> list[Panel]:
    """Draw the Pareto fronts of accuracy over size and over latency."""
    shown = [figures(result) for result in results]
    sizes, latencies = [one.size for one in shown], [one.latency for one in shown]
    return [
        panel
        for panel in (
            _front(results, sizes, "size", fmt.size),
            _front(results, latencies, "latency", fmt.milliseconds),
        )
        if panel is not None
    ]


def _front(
    results: Sequence[RunResult],
    costs: Sequence[float | None],
    name: str,
    written: Callable[[float], str],
) -> Panel | None:
    known = [(cost, one) for cost, one in zip(costs, results, strict=True) if cost]
    if len(known) < 2:
        return None
    places = [(cost, figures(one).accuracy.mean) for cost, one in known]
    ways: tuple[Direction, ...] = ("minimize", "maximize")
    best = pareto(places, ways)
    front = [place for place, good in zip(places, best, strict=True) if good]
    bend = knee(front, ways)
    points = [
        Point(
            cost,
            quality,
            f"{result.name}: {fmt.percent(quality)}, {written(cost)}",
            front=bool(good),
            line=bool(good),
            knee=bend is not None and (cost, quality) == front[bend],
            name=result.name if good else "",
        )
        for (cost, quality), (_, result), good in zip(places, known, best, strict=True)
    ]
    title = f"Accuracy over {name}"
    worth = fmt.listing([one.name for one in points if one.front])
    return Panel(
        title,
        "Filled: no other run is as accurate at no more cost; hollow: one is; diamond: the knee. "
        "Mean accuracy over seeds, on each run's own test samples.",
        draw(
            points,
            across=lambda value: fmt.trim(written(value)),
            up=percent_tick,
            name=name,
            title=title,
            description=f"Worth their cost: {worth}.",
        ),
    )
