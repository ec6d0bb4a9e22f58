"""Calibration of teacher and student: reliability diagrams."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from limbeck.display import format as fmt
from limbeck.display.blocks import Panel, ends, percent_tick
from limbeck.display.charts import Group, Series, Step, lines, strip, waterfall
from limbeck.display.svg import DASHES, decades, finite, from_zero, zoomed
from limbeck.evaluate.calibration.diagram import reliability
from limbeck.evaluate.intervals import Summary
from limbeck.report.result import Comparison, Curve, Link, Role, RunResult
from limbeck.report.tables import links
from limbeck.report.verdict import first, p50


def calibration(result: RunResult) -> list[Panel]:
    """Draw the reliability diagrams of the teacher (if there is one) and of the exported file."""
    taught, shipped = result.teacher, result.shipped
    links = [shipped] if taught is None or taught is shipped else [taught, shipped]
    return [panel for link in links if (panel := _panel(link))]


def _panel(link: Link) -> Panel | None:
    measured = first(link)
    if measured is None or not any(one.count for one in measured.calibration.bins):
        return None
    found = measured.calibration
    title = f"Reliability: {link.label}"
    said = f"Expected calibration error {fmt.percent(found.ece)}, "
    said += f"negative log-likelihood {fmt.number(found.nll)} nats."
    return Panel(
        title,
        f"{said} Test samples in {len(found.bins)} equal bins of top confidence; on the dotted "
        "diagonal, confidence and share of right answers agree.",
        reliability(found.bins, link.role, title=title, description=said),
    )


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


def labels_alone(result: RunResult) -> list[Panel]:
    """Draw both groups with every seed, and their difference; return nothing without a baseline."""
    if result.comparison is None:
        return []
    return [_groups(result, result.comparison), _labels_alone_difference(result, result.comparison)]


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


def _labels_alone_difference(result: RunResult, comparison: Comparison) -> Panel:
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


_ACCURACY = "validation/accuracy"
_TOTAL = "train/loss"
_TERM_DASHES = ("7 4", "2 4", "10 3 2 3", "4 2", "12 4", "1 3")
# Optimiser steps, not losses: their other units would compress the chart.
_NOT_LOSSES = ("rate", "norm", "lr", "accuracy", "temperature", "weight", "samples", "seconds")


def training(result: RunResult) -> list[Panel]:
    """Draw the accuracy of all trainings, then the losses of those of the first seed."""
    accuracy = _training_accuracy(result)
    return ([accuracy] if accuracy else []) + [
        panel for curve in _of_first_seed(result) if (panel := _losses(curve, _role(curve, result)))
    ]


def other_seeds(result: RunResult) -> list[Panel]:
    """Draw the losses of the other seeds' trainings."""
    first = _of_first_seed(result)
    return [
        panel
        for curve in result.curves
        if curve not in first and (panel := _losses(curve, _role(curve, result)))
    ]


def _of_first_seed(result: RunResult) -> list[Curve]:
    """Return the first seed's curves; curves without a seed count as its own."""
    return [curve for curve in result.curves if curve.seed in (None, result.seeds[0])]


def _points(curve: Curve, key: str) -> tuple[tuple[float, float], ...]:
    """Return one column of the rows, over the epoch (or the row's index where none is written)."""
    return tuple(
        (row.get("epoch", float(number)), row[key])
        for number, row in enumerate(curve.rows, start=1)
        if key in row
    )


def _role(curve: Curve, result: RunResult) -> Role:
    """Return the role of a curve: that of the stage with its name, else the curve's own."""
    return next((link.role for link in links(result) if link.label == curve.label), curve.role)


def _training_accuracy(result: RunResult) -> Panel | None:
    series, named = [], set[str]()
    for curve in result.curves:
        points = _points(curve, _ACCURACY)
        if finite(y for _, y in points):
            label = None if curve.label in named else curve.label
            role = _role(curve, result)
            dash = DASHES[role]
            series.append(Series(label, points, role, dash=dash, mark=True, faint=not label))
            named.add(curve.label)
    if not series:
        return None
    title = "Validation accuracy while training"
    others = " Faint lines are the other seeds." if any(one.faint for one in series) else ""
    return Panel(
        title,
        f"Share of right answers on the validation split after each epoch, in torch.{others}",
        lines(series, axis=percent_tick, title=title, description=_ends(series, fmt.percent)),
    )


def _losses(curve: Curve, role: Role) -> Panel | None:
    """Draw the total in the colour of the role, its terms in grey with a dash each."""
    keys = _loss_keys(curve)
    series = [
        Series(_TOTAL.removeprefix("train/"), _points(curve, _TOTAL), role)
        if key == _TOTAL
        else Series(
            key.removeprefix("train/").removesuffix("/weighted"),
            _points(curve, key),
            tone="ink",
            dash=_TERM_DASHES[number % len(_TERM_DASHES)],
        )
        for number, key in enumerate(keys)
    ]
    values = finite(y for one in series for _, y in one.points)
    if not values:
        return None
    seed = f", seed {curve.seed}" if curve.seed is not None else ""
    log = min(values) > 0 and max(values) / min(values) > 30
    scale = ", on a logarithmic scale" if log else ""
    terms = "; terms as weighted" if any("weighted" in key for key in keys) else ""
    title = f"Losses of {curve.label}{seed}"
    return Panel(
        title,
        f"Mean over each epoch of the training split{terms}{scale}.",
        lines(
            series,
            axis=lambda value: fmt.trim(fmt.number(value)),
            title=title,
            description=_ends(series, fmt.number),
            log=log,
        ),
    )


def _loss_keys(curve: Curve) -> list[str]:
    """Return the loss columns, the total first; of a term with two columns, the weighted one."""
    keys = list(dict.fromkeys(key for row in curve.rows for key in row if key.startswith("train/")))
    keys = [
        key for key in keys if not any(word in key for word in _NOT_LOSSES) or "weighted" in key
    ]
    if any(key.endswith("weighted") for key in keys):
        keys = [key for key in keys if not key.endswith("raw")]
    if len(keys) == 2 and _TOTAL in keys:
        return [_TOTAL]  # a single term equals the total
    return sorted(keys, key=lambda key: key != _TOTAL)


def _ends(series: Iterable[Series], written: Callable[[float], str]) -> str:
    """Write the final value of each named line."""
    return "; ".join(
        f"{one.label} ends at {written(one.points[-1][1])}"
        for one in series
        if one.label is not None and one.points
    )
