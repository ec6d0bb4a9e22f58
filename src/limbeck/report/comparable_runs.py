"""Comparable runs: runs of equal model size, or with the same stages in another order."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from limbeck.core.measurement import Metric
from limbeck.display import format as fmt
from limbeck.evaluate.bootstrap import Resamples
from limbeck.evaluate.intervals import Summary, summarize
from limbeck.evaluate.metrics import unpack_right
from limbeck.report.result import RunResult
from limbeck.report.verdict import figures, first

SLACK = 1.15
"""Two files are of equal size if the larger is at most this many times the smaller."""

HEAD = (
    "run",
    "stages",
    "size",
    "score",
    "95 % interval",
    "difference to the best",
    "significance",
    "difference of the files",
    "parameters",
    "operations",
    "latency p50",
)
CAPTION = (
    "Sorted by the mean score over seeds. The difference is taken per seed where both runs have "
    "the same seeds, with Student's 95 % interval; an interval that contains zero is not "
    "significant. The difference of the files compares the two exported files on the same test "
    "samples, with a paired bootstrap interval, which leaves out the variation between trainings."
)


@dataclass(frozen=True)
class Group:
    """A group of comparable runs, best first.

    Attributes:
        title: Their common property.
        rows: One row per run; the columns are `HEAD`.
    """

    title: str
    rows: tuple[tuple[str, ...], ...]


def comparable_runs(results: Sequence[RunResult]) -> list[Group]:
    """Return the groups of comparable runs: files of equal size, then the same stages reordered.

    Runs on different data are never grouped.
    """
    return [*_of_equal_size(results), *_reordered(results)]


def stages(result: RunResult) -> str:
    """Write the stages of a run with their methods, in order, without the export.

    For example `train_teacher → prune (channels) → distill → quantize (int8_static)`.
    """
    return " → ".join(
        f"{name} ({settings['method']})" if settings and "method" in settings else name
        for name, settings in _steps(result)
        if name != "export"
    )


def _steps(result: RunResult) -> list[tuple[str, dict[str, object]]]:
    return [next(iter(stage.items())) for stage in result.recipe.get("stages", [])]


def _of_equal_size(results: Sequence[RunResult]) -> Iterable[Group]:
    for group in _by(results, lambda result: result.data.fingerprint):
        sized = [(size, result) for result in group if (size := figures(result).size)]
        sized.sort(key=lambda pair: pair[0])
        while sized:
            smallest = sized[0][0]
            near = [result for size, result in sized if size <= SLACK * smallest]
            if len({stages(result) for result in near}) > 1:
                ends = [fmt.size(size) for size, _ in (sized[0], sized[len(near) - 1])]
                about = ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"
                yield _group(f"At equal size: {about}", near)
            sized = sized[len(near) :]


def _reordered(results: Sequence[RunResult]) -> Iterable[Group]:
    def data_and_stages(result: RunResult) -> str:
        content = sorted(json.dumps(step, sort_keys=True) for step in _steps(result))
        return json.dumps([result.data.fingerprint, content])

    for group in _by(results, data_and_stages):
        if len({json.dumps(_steps(result), sort_keys=True) for result in group}) > 1:
            yield _group("The same stages in another order", group)


def _by(results: Sequence[RunResult], key: Callable[[RunResult], str]) -> list[list[RunResult]]:
    found: dict[str, list[RunResult]] = defaultdict(list)
    for result in results:
        found[key(result)].append(result)
    return [group for group in found.values() if len(group) > 1]


def _group(title: str, runs: Sequence[RunResult]) -> Group:
    ranked = sorted(
        runs, key=lambda one: one.metric.gain(one.shipped.score.mean, over=0), reverse=True
    )
    return Group(title, tuple(_row(result, ranked[0]) for result in ranked))


def _row(result: RunResult, best: RunResult) -> tuple[str, ...]:
    found, measured = figures(result), first(result.shipped)
    gap = difference(result, best) if result is not best else None
    return (
        result.name,
        stages(result),
        fmt.size(found.size),
        fmt.score(found.score.mean, found.metric),
        fmt.score_interval(found.interval, found.metric),
        "–" if gap is None else _written(gap, found.metric),
        "best" if gap is None else _significance(gap),
        "–" if gap is None else _written(of_files(result, best), found.metric),
        fmt.integer(found.parameters),
        fmt.operations(measured.cost.flops if measured else None),
        fmt.milliseconds(found.latency),
    )


def difference(result: RunResult, other: RunResult) -> Summary:
    """Compute the gain of a run over another seed by seed, or of the means if the seeds differ."""
    score, reference, metric = result.shipped.score, other.shipped.score, result.metric
    if result.seeds == other.seeds:
        pairs = zip(score.values, reference.values, strict=True)
        bounds = (-1.0, 1.0) if metric.unit == "share" else metric.bounds
        return summarize([metric.gain(left, over=right) for left, right in pairs], bounds=bounds)
    return summarize([metric.gain(score.mean, over=reference.mean)])


def of_files(result: RunResult, other: RunResult) -> Summary | None:
    """Compare the exported files of two runs with a paired bootstrap over the test samples.

    Returns:
        The difference of their accuracies; `None` if the samples are not the same.
    """
    correct, reference = (_correct(one) for one in (result, other))
    if correct is None or reference is None or len(correct) != len(reference):
        return None
    gain = correct.astype(float) - reference
    found = Resamples(len(gain)).estimate(lambda counts: counts @ gain / len(gain))
    return Summary(mean=found.value, interval=found.interval, values=(found.value,))


def _correct(result: RunResult) -> NDArray[np.bool_] | None:
    measured = first(result.shipped)
    return None if measured is None else unpack_right(measured.right, measured.score.samples)


def _written(gap: Summary | None, metric: Metric) -> str:
    return fmt.MISSING if gap is None else fmt.gain_estimate(gap.mean, gap.interval, metric)


def _significance(gap: Summary) -> str:
    if gap.interval is None:
        return "unknown: no interval"
    return "worse" if gap.interval.high < 0 else "no significant difference"
