"""Charts of a run: reliability diagrams, stages, distillation gain and training curves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from limbeck.display import format as fmt
from limbeck.display.blocks import Panel, ends, tick_of
from limbeck.display.charts import Group, Series, Step, lines, strip, waterfall
from limbeck.display.svg import DASHES, decades, finite, from_zero, zoomed
from limbeck.evaluate.calibration.diagram import reliability
from limbeck.evaluate.intervals import Summary
from limbeck.report.result import Comparison, Curve, Link, Role, RunResult
from limbeck.report.tables import links
from limbeck.report.verdict import first, p50


def calibration(result: RunResult) -> list[Panel]:
    """Draw the reliability diagrams of the teacher (if there is one) and of the exported file."""
    return [panel for link in compared(result) if (panel := _reliability(link))]


def compared(result: RunResult) -> list[Link]:
    """Return the links of the teacher, if there is one, and of the exported file."""
    teacher, shipped = result.teacher, result.shipped
    return [shipped] if teacher is None or teacher is shipped else [teacher, shipped]


def _reliability(link: Link) -> Panel | None:
    measured = first(link)
    found = measured.calibration if measured else None
    if found is None or not any(one.count for one in found.bins):
        return None
    title = f"Reliability diagram: {link.label}"
    summary = (
        f"Expected calibration error {fmt.percent(found.ece)}, "
        f"negative log-likelihood {fmt.number(found.nll)} nats."
    )
    return Panel(
        title,
        f"{summary} Test samples in {len(found.bins)} equal bins of top confidence; on the dotted "
        "diagonal, confidence equals accuracy.",
        reliability(found.bins, link.role, title=title, description=summary),
    )


def chain(result: RunResult) -> list[Panel]:
    """Draw size, latency and accuracy along the chain of stages."""
    stages = result.chain
    sizes = [m.cost.size_bytes if (m := first(link)) else None for link in stages]
    latencies = [p50(first(link)) for link in stages]
    runs = {latency.runs for link in stages for m in link.measured for latency in m.cost.latency}
    calls = f" over {fmt.integer(min(runs))} timed calls" if runs else ""
    return [
        _waterfall(
            "Size on disk after each stage",
            "Bytes of the exported file, on a logarithmic scale. Bars start at the stage before.",
            _steps(stages, sizes, fmt.size, _factor),
            decades(sizes),
            axis=lambda value: fmt.trim(fmt.size(value)),
            log=True,
        ),
        _waterfall(
            "Latency after each stage",
            f"Median time of one inference at batch 1 on one thread{calls}, after warm-up, the "
            "artefacts in turn; from the exported file.",
            _steps(stages, latencies, fmt.milliseconds, _factor),
            from_zero(latencies),
            axis=lambda value: f"{value:g} ms",
        ),
        _score(result),
    ]


def _waterfall(
    title: str,
    caption: str,
    steps: Sequence[Step],
    scale: tuple[float, float],
    *,
    axis: Callable[[float], str],
    log: bool = False,
) -> Panel:
    description = "; ".join(f"{step.label} {step.written}" for step in steps)
    chart = waterfall(steps, scale, log=log, axis=axis, title=title, description=description)
    return Panel(title, caption, chart)


def _score(result: RunResult) -> Panel:
    stages, metric = result.chain, result.metric
    means: list[float | None] = [link.score.mean for link in stages]
    intervals = [_score_interval(link) for link in stages]
    seeds = [link.score.values if len(link.score.values) > 1 else () for link in stages]
    if len(result.seeds) > 1:
        marks = (
            f"Mark: mean of {len(result.seeds)} seeds; dots: each seed; line: 95 % interval of "
            "the mean (Student)."
        )
    else:
        measured = first(stages[0])
        interval = measured.score.interval if measured else None
        method = f" ({interval.method})" if interval else ""
        marks = f"One seed. Line: 95 % interval over the test samples{method}."
    shown = [*means, *(end for pair in intervals if pair for end in pair), *sum(seeds, ())]
    is_share = metric.unit == "share"
    low, high = zoomed(shown, least=0.002 if is_share else 0.0)

    def write(value: float | None) -> str:
        return fmt.score(value, metric)

    def write_change(before: float, after: float) -> str:
        if is_share:
            return _points(before, after)
        return fmt.gain(after - before, metric) if after != before else ""

    return _waterfall(
        f"{metric.title} after each stage",
        f"{metric.title} on {fmt.integer(result.data.test)} test samples. "
        f"{marks} The scale does not begin at zero.",
        _steps(stages, means, write, write_change, intervals, seeds),
        (max(low, 0.0), min(high, 1.004)) if is_share else (low, high),
        axis=tick_of(metric),
    )


def _score_interval(link: Link) -> tuple[float, float] | None:
    """Return the interval over seeds; with one seed, the interval over test samples."""
    measured = first(link)
    return ends(link.score.interval) or (ends(measured.score.interval) if measured else None)


def _steps(
    stages: Sequence[Link],
    values: Sequence[float | None],
    write: Callable[[float | None], str],
    write_change: Callable[[float, float], str],
    intervals: Sequence[tuple[float, float] | None] = (),
    seeds: Sequence[tuple[float, ...]] = (),
) -> list[Step]:
    changes = [""] + [
        write_change(before, after) if before is not None and after is not None else ""
        for before, after in pairwise(values)
    ]
    return [
        Step(
            link.label,
            link.role,
            values[index],
            write(values[index]),
            changes[index],
            intervals[index] if intervals else None,
            seeds[index] if seeds else (),
        )
        for index, link in enumerate(stages)
    ]


def _factor(before: float, after: float) -> str:
    """Write the factor of a decrease or increase; empty for a negligible change.

    Example:
        >>> _factor(100, 25), _factor(10, 12), _factor(10, 10.1)
        ('÷4.0', '×1.2', '')
    """
    if before <= 0 or after <= 0 or 0.95 < after / before < 1.05:
        return ""
    if before > after:
        return f"÷{fmt.ratio(before / after)[:-1]}"
    return f"×{fmt.ratio(after / before)[:-1]}"


def _points(before: float, after: float) -> str:
    if float(f"{after - before:.4f}") == 0:
        return ""
    return fmt.points(after - before).removesuffix(" points")


def distillation_gain(result: RunResult) -> list[Panel]:
    """Draw student and label-only baseline, and their difference; nothing without a baseline."""
    if result.comparison is None:
        return []
    return [_student_and_baseline(result, result.comparison), _gain(result, result.comparison)]


def gain_sentence(result: RunResult) -> str:
    """Write the comparison in one sentence that claims no more than the interval allows."""
    if result.comparison is None:
        return ""
    difference, metric = result.comparison.difference, result.metric
    gain = f"The distillation gain is {fmt.gain(difference.mean, metric)}"
    if difference.interval is None:
        return f"{gain}; with one seed no interval is possible."
    if difference.interval.low > 0:
        verdict = "the teacher helped"
    elif difference.interval.high < 0:
        verdict = "distillation made the student worse"
    else:
        verdict = "these seeds do not show that the teacher helped"
    return f"{gain} (95 % interval {fmt.gain_interval(difference.interval, metric)}): {verdict}."


def _student_and_baseline(result: RunResult, comparison: Comparison) -> Panel:
    title, metric = "Distilled student and label-only baseline", result.metric

    def write(value: float) -> str:
        return fmt.score(value, metric)

    groups = [
        _group("Distilled student", "student", comparison.student, write),
        _group("Label-only baseline", "baseline", comparison.baseline, write),
    ]
    joined = " Thin lines join the two students of one seed." if len(result.seeds) > 1 else ""
    marks = _marks(comparison.student)
    return Panel(
        title,
        f"Test {metric.text}; the same network, data, epochs and seeds. {marks}{joined}",
        strip(
            groups,
            result.seeds,
            axis=tick_of(metric),
            title=title,
            description="; ".join(f"{group.label}: mean {group.written}" for group in groups),
        ),
    )


def _gain(result: RunResult, comparison: Comparison) -> Panel:
    title = "Distillation gain per seed"
    found, metric = comparison.difference, result.metric
    unit = " in percentage points" if metric.unit == "share" else ""

    def write(value: float) -> str:
        return fmt.gain(value, metric)

    return Panel(
        title,
        f"Gain of test {metric.text}{unit}; above zero the teacher helped. {_marks(found)}",
        strip(
            [_group("Distilled − label-only", "student", found, write)],
            result.seeds,
            axis=lambda value: tick_of(metric)(value).removesuffix(" %"),
            title=title,
            description=gain_sentence(result),
            zero=True,
        ),
    )


def _group(label: str, role: Role, summary: Summary, write: Callable[[float], str]) -> Group:
    mean = summary.mean
    return Group(label, role, summary.values, mean, write(mean), ends(summary.interval))


def _marks(summary: Summary) -> str:
    """Write the explanation of dots and bars, or why there is no bar."""
    if summary.interval is None:
        return "One seed, one dot: no interval is possible."
    return "One dot per seed; below, the mean and its 95 % interval (Student)."


_TOTAL = "train/loss"
_TERM_DASHES = ("7 4", "2 4", "10 3 2 3", "4 2", "12 4", "1 3")
# Settings of the optimiser, not losses: their other units would compress the chart.
_NOT_LOSSES = ("rate", "norm", "lr", "accuracy", "temperature", "weight", "samples", "seconds")


def training(result: RunResult) -> list[Panel]:
    """Draw the scores of all trainings, then the losses of those of the first seed."""
    score = _training_score(result)
    return ([score] if score else []) + _all_losses(result, first_seed=True)


def other_seeds(result: RunResult) -> list[Panel]:
    """Draw the losses of the other seeds' trainings."""
    return _all_losses(result, first_seed=False)


def _all_losses(result: RunResult, *, first_seed: bool) -> list[Panel]:
    """Draw the losses of the first seed or of the others; curves without a seed are the first's."""
    return [
        panel
        for curve in result.curves
        if (curve.seed in (None, result.seeds[0])) == first_seed
        and (panel := _losses(curve, _role(curve, result)))
    ]


def _column(curve: Curve, key: str) -> tuple[tuple[float, float], ...]:
    """Return one column over the epoch (or over the row's index, where no epoch is recorded)."""
    return tuple(
        (row.get("epoch", float(number)), row[key])
        for number, row in enumerate(curve.rows, start=1)
        if key in row
    )


def _role(curve: Curve, result: RunResult) -> Role:
    """Return the role of a curve: that of the stage with its name, else the curve's own."""
    return next((link.role for link in links(result) if link.label == curve.label), curve.role)


def _training_score(result: RunResult) -> Panel | None:
    series, named, metric = [], set[str](), result.metric
    for curve in result.curves:
        points = _column(curve, f"validation/{metric.name}")
        if finite(y for _, y in points):
            label = None if curve.label in named else curve.label
            role = _role(curve, result)
            dash = DASHES[role]
            series.append(Series(label, points, role, dash=dash, mark=True, faint=not label))
            named.add(curve.label)
    if not series:
        return None
    title = f"Validation {metric.text} per epoch"

    def write(value: float) -> str:
        return fmt.score(value, metric)

    others = " Faint lines are the other seeds." if any(one.faint for one in series) else ""
    return Panel(
        title,
        f"{metric.title} on the validation split after each epoch, in PyTorch.{others}",
        lines(
            series,
            axis=tick_of(metric),
            title=title,
            description=_last(series, write),
            write=write,
        ),
    )


def _losses(curve: Curve, role: Role) -> Panel | None:
    """Draw the total in the colour of the role, its terms in grey with a dash each."""
    keys = _loss_keys(curve)
    series = [
        Series(_TOTAL.removeprefix("train/"), _column(curve, _TOTAL), role)
        if key == _TOTAL
        else Series(
            key.removeprefix("train/").removesuffix("/weighted"),
            _column(curve, key),
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
    terms = "; terms times their weights" if any("weighted" in key for key in keys) else ""
    title = f"Losses of {curve.label}{seed}"
    return Panel(
        title,
        f"Mean over each epoch of the training split{terms}{scale}.",
        lines(
            series,
            axis=lambda value: fmt.trim(fmt.number(value)),
            title=title,
            description=_last(series, fmt.number),
            log=log,
            write=fmt.number,
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


def _last(series: Iterable[Series], write: Callable[[float], str]) -> str:
    return "; ".join(
        f"{one.label} ends at {write(one.points[-1][1])}"
        for one in series
        if one.label is not None and one.points
    )
