"""Details of forecasts for a report: loss by step, coverage by quantile, and samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from limbeck.core.illustration import Illustration, Plot, Side, Trace, rounded, thinned
from limbeck.core.measurement import Metric
from limbeck.tasks._quantile_scores import QUANTILES, pinball
from limbeck.tasks.details import Breakdown, Details, Shown, rows_of_sums
from limbeck.tasks.scores import DEVIATIONS, Score, median_of, of_sums, ratio

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from limbeck.tasks.scores import Arrays, Sums

    Floats = NDArray[np.float64]

LOW, HIGH = "lowest", "highest"
"""Batch entries with the teacher's lowest and highest quantile, `[n, horizon, targets]`."""

MOST_TARGETS, MOST_PAST = 3, 2
"""The number of targets drawn per sample, and of past horizons."""

MOST_STEPS = 400
"""The number of points of a line."""


def forecast_details(
    targets: tuple[str, ...],
    horizon: int,
    levels: tuple[float, ...],
    deviations: tuple[float, ...],
) -> Details:
    """Return the details of a forecast.

    Args:
        targets: The names of the targets.
        horizon: The number of steps.
        levels: The levels of the quantiles.
        deviations: The standard deviation of each target over the training rows.
    """
    several = len(targets) > 1
    scale, unit = (np.array(deviations), DEVIATIONS) if several else (np.ones(1), "")
    middle = int(np.abs(np.array(levels) - 0.5).argmin())
    centre = "median" if levels[middle] == 0.5 else f"quantile {levels[middle]:g}"
    loss = {"name": "pinball", "title": "Pinball loss", "higher_is_better": False}

    def weights_of(batch: Arrays, weights: Arrays) -> Floats:
        return np.asarray(weights[QUANTILES].reshape(batch["labels"].shape), np.float64)

    def by_step(outputs: Arrays, batch: Arrays, weights: Arrays) -> Sums:
        weight = weights_of(batch, weights)
        losses = weight * pinball(outputs, batch, levels)[0] / scale
        return np.concatenate([losses.sum(axis=2), weight.sum(axis=2)], axis=1)

    def by_target(outputs: Arrays, batch: Arrays, weights: Arrays) -> Sums:
        weight = weights_of(batch, weights)
        losses = weight * pinball(outputs, batch, levels)[0]
        return np.concatenate([losses.sum(axis=1), weight.sum(axis=1)], axis=1)

    def covered(outputs: Arrays, batch: Arrays, weights: Arrays) -> Sums:
        weight = weights_of(batch, weights)[..., None]
        below = weight * (np.nan_to_num(batch["labels"])[..., None] <= outputs[QUANTILES])
        total = np.broadcast_to(weight, below.shape)
        return np.concatenate([below.sum(axis=(1, 2)), total.sum(axis=(1, 2))], axis=1)

    def distance(outputs: Arrays, batch: Arrays, weights: Arrays) -> Sums:
        weight = weights_of(batch, weights)
        gap = np.abs(outputs[QUANTILES][..., middle] - np.nan_to_num(batch["labels"])) / scale
        return np.stack([(weight * gap).sum(axis=(1, 2)), weight.sum(axis=(1, 2))], axis=1)

    def within(outputs: Arrays, batch: Arrays, weights: Arrays) -> Sums:
        weight, value = weights_of(batch, weights), outputs[QUANTILES][..., middle]
        inside = (batch[LOW] <= value) & (value <= batch[HIGH])
        return np.stack([(weight * inside).sum(axis=(1, 2)), weight.sum(axis=(1, 2))], axis=1)

    def relabelled(outputs: Arrays, batch: Arrays) -> Arrays:
        values = outputs[QUANTILES]
        labels = np.where(np.isfinite(batch["labels"]), values[..., middle], np.nan)
        return {**batch, "labels": labels, LOW: values[..., 0], HIGH: values[..., -1]}

    def illustrate(shown: Shown) -> Illustration:
        names = targets[:MOST_TARGETS]
        return Illustration(
            plots=tuple(
                _plot(shown, place, name, levels, middle, centre)
                for place, name in enumerate(names)
            )
        )

    mean = " The mean over targets, each in its standard deviations." if several else ""
    breakdowns = [
        Breakdown(
            Metric(**loss, unit=unit),
            tuple(f"step {step}" for step in range(1, horizon + 1)),
            by_step,
            rows_of_sums(_ratios),
            by="step",
            ordered=True,
            note=f"The pinball loss of every step of the horizon.{mean}",
        ),
        Breakdown(
            Metric(name="coverage", title="Coverage"),
            tuple(f"quantile {level:g}" for level in levels),
            covered,
            rows_of_sums(_ratios),
            by="quantile",
            goals=levels,
            note="The share of values at or below the quantile; best is its level.",
        ),
    ]
    if several:
        note = "Each target in its own unit."
        rows = rows_of_sums(_ratios)
        breakdowns.append(
            Breakdown(Metric(**loss, unit=""), targets, by_target, rows, by="target", note=note)
        )
    return Details(
        breakdowns=tuple(breakdowns),
        agreements=(
            Score(
                Metric(
                    name="median_difference",
                    title=f"Median absolute difference of the {centre}s",
                    unit=unit,
                    higher_is_better=False,
                ),
                distance,
                median_of,
            ),
            Score(
                Metric(
                    name="within_band",
                    title=f"Student's {centre} within the teacher's "
                    f"{levels[0]:g} to {levels[-1]:g} band",
                ),
                within,
                of_sums(ratio),
            ),
        ),
        relabelled=relabelled,
        illustrate=illustrate,
        drawing=f"Lines are the {centre}, bands reach from quantile {levels[0]:g} to "
        f"{levels[-1]:g}; steps up to 0 are the past."
        + ("" if len(targets) <= MOST_TARGETS else f" Drawn are the first {MOST_TARGETS} targets."),
    )


def _ratios(sums: Sums) -> Floats:
    """Divide the first half of sums by the second; NaN without weight."""
    above, below = np.split(sums, 2, axis=-1)
    return np.asarray(above / below)


def _plot(
    shown: Shown, place: int, name: str, levels: tuple[float, ...], middle: int, centre: str
) -> Plot:
    truth = shown.batch["labels"][0, :, place].astype(np.float64)
    steps = np.arange(1, len(truth) + 1)
    past = np.asarray(shown.raw.get("window", {}).get(name, ()), np.float64)
    past = past[-MOST_PAST * len(truth) :]
    before = np.concatenate([past, truth])
    traces = [_trace("truth", "truth", np.arange(1 - len(past), len(truth) + 1), before)]
    sides: dict[Side, Floats] = {
        "teacher": shown.teacher[QUANTILES][0, :, place].astype(np.float64),
        "student": shown.student[QUANTILES][0, :, place].astype(np.float64),
    }
    if len(levels) > 1:
        band = f"{levels[0]:g} to {levels[-1]:g}"
        traces += [
            _trace(f"{side}, {band}", side, steps, values[:, 0], values[:, -1])
            for side, values in sides.items()
        ]
    traces += [
        _trace(f"{side}, {centre}", side, steps, values[:, middle])
        for side, values in sides.items()
    ]
    gap = np.abs(sides["teacher"][:, middle] - sides["student"][:, middle]).mean()
    return Plot(
        title=name,
        text=f"{name}: {len(past)} past steps, {len(truth)} steps of the truth and of both "
        f"forecasts, whose {centre}s differ by {gap:.3g} on average.",
        across="step",
        up=name,
        traces=tuple(traces),
    )


def _trace(
    name: str, side: Side, x: NDArray[np.int64], y: Floats, high: Floats | None = None
) -> Trace:
    kept = thinned(len(x), MOST_STEPS)
    return Trace(
        name=name,
        side=side,
        form="line" if high is None else "band",
        x=tuple(x[kept].astype(float).tolist()),
        y=rounded(y[kept]),
        high=() if high is None else rounded(high[kept]),
    )
