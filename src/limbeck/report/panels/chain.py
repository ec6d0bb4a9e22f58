"""The chain of stages: size, latency and accuracy after each, side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from limbeck.report import format as fmt
from limbeck.report.charts.scale import decades, from_zero, zoomed
from limbeck.report.charts.waterfall import Step, waterfall
from limbeck.report.figures import first, p50
from limbeck.report.panels.panel import Panel, ends, percent_tick
from limbeck.report.result import Link, RunResult


def chain(result: RunResult) -> list[Panel]:
    """Draw the three quantities along the chain."""
    return [_size(result.chain), _latency(result.chain), _accuracy(result)]


def _size(links: Sequence[Link]) -> Panel:
    values = [measured.cost.size_bytes if (measured := first(link)) else None for link in links]
    title = "Size on disk after each stage"
    return Panel(
        title,
        "Bytes of the exported file, on a logarithmic scale. The bar runs from the stage before.",
        waterfall(
            _steps(links, values, fmt.size, _times),
            decades(values),
            log=True,
            axis=lambda value: fmt.trim(fmt.size(value)),
            title=title,
            description=_spoken(links, values, fmt.size),
        ),
    )


def _latency(links: Sequence[Link]) -> Panel:
    values = [p50(first(link)) for link in links]
    title = "Latency after each stage"
    runs = {latency.runs for link in links for m in link.measured for latency in m.cost.latency}
    timed = f" over {fmt.integer(min(runs))} timed calls" if runs else ""
    return Panel(
        title,
        f"Median time of one answer at batch 1 on one thread{timed}, after warm-up, "
        "the artefacts in turn; from the exported file.",
        waterfall(
            _steps(links, values, fmt.milliseconds, _times),
            from_zero(values),
            axis=lambda value: f"{value:g} ms",
            title=title,
            description=_spoken(links, values, fmt.milliseconds),
        ),
    )


def _accuracy(result: RunResult) -> Panel:
    links = result.chain
    values: list[float | None] = [link.accuracy.mean for link in links]
    intervals = [ends(link.accuracy.interval) or _of_samples(link) for link in links]
    seeds = [link.accuracy.values if len(link.accuracy.values) > 1 else () for link in links]
    steps = [
        Step(s.label, s.role, s.value, s.written, s.change, interval, values_of_seeds)
        for s, interval, values_of_seeds in zip(
            _steps(links, values, fmt.percent, _difference), intervals, seeds, strict=True
        )
    ]
    shown = [*values, *(end for pair in intervals if pair for end in pair), *sum(seeds, ())]
    low, high = zoomed(shown, least=0.002)
    title = "Accuracy after each stage"
    return Panel(
        title,
        f"Share of right answers on {fmt.integer(result.data.test)} test samples. "
        f"{_whiskers(result)} The scale does not begin at zero.",
        waterfall(
            steps,
            (max(low, 0.0), min(high, 1.004)),
            axis=percent_tick,
            title=title,
            description=_spoken(links, values, fmt.percent),
        ),
    )


def _whiskers(result: RunResult) -> str:
    """Write the explanation of the intervals beside the marks."""
    if len(result.seeds) > 1:
        return (
            f"Mark: mean of {len(result.seeds)} seeds; dots: each seed; line: 95 % interval of "
            "the mean (Student)."
        )
    return "One seed. Line: 95 % interval over the test samples (Wilson)."


def _of_samples(link: Link) -> tuple[float, float] | None:
    """Return the interval over samples if there is only one seed, and so no interval over seeds."""
    measured = first(link)
    return ends(measured.accuracy.interval) if measured else None


def _steps(
    links: Sequence[Link],
    values: Sequence[float | None],
    written: Callable[[float | None], str],
    change: Callable[[float, float], str],
) -> list[Step]:
    """Return one step per stage, with its change."""
    changes = [""] + [
        change(before, after) if before is not None and after is not None else ""
        for before, after in pairwise(values)
    ]
    return [
        Step(link.label, link.role, value, written(value), what)
        for link, value, what in zip(links, values, changes, strict=True)
    ]


def _times(before: float, after: float) -> str:
    """Write the factor of a decrease or increase; empty for a negligible change.

    Example:
        >>> _times(100, 25), _times(10, 12), _times(10, 10.1)
        ('÷4.0', '×1.2', '')
    """
    if before <= 0 or after <= 0 or 0.95 < after / before < 1.05:
        return ""
    if before > after:
        return f"÷{fmt.ratio(before / after)[:-1]}"
    return f"×{fmt.ratio(after / before)[:-1]}"


def _difference(before: float, after: float) -> str:
    """Write the change in percentage points."""
    written = fmt.points(after - before).removesuffix(" points")
    return "" if float(f"{after - before:.4f}") == 0 else written


def _spoken(
    links: Sequence[Link], values: Sequence[float | None], written: Callable[[float | None], str]
) -> str:
    """Write the chart's accessible description."""
    parts = (f"{link.label} {written(value)}" for link, value in zip(links, values, strict=True))
    return "; ".join(parts)
