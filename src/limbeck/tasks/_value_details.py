"""Details of regression for a report: scores by target, and predictions against truth."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from limbeck.core.illustration import Plot, Side, Trace, rounded
from limbeck.core.measurement import Metric
from limbeck.tasks.details import Breakdown, Details, Shown, rows_of_sums
from limbeck.tasks.scores import (
    DEVIATIONS,
    R_SQUARED,
    Score,
    absolute_errors,
    explained_parts,
    means_of,
    median_of,
    r_squared,
    squared_errors,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from limbeck.tasks.scores import Arrays, Sums

    Floats = NDArray[np.float64]

VALUES = "values"
MOST_TARGETS = 4
"""The number of targets of which predictions are drawn."""


def value_details(targets: tuple[str, ...], deviations: tuple[float, ...]) -> Details:
    """Return the details of a regression.

    Args:
        targets: The names of the targets.
        deviations: The standard deviation of each over the training rows.
    """
    several = len(targets) > 1
    scale = np.array(deviations) if several else np.ones(1)

    def distance(outputs: Arrays, batch: Arrays, weights: Arrays) -> Sums:
        sums = absolute_errors(outputs, batch, weights)
        return np.stack([(sums[:, :-1] / scale).mean(axis=1), sums[:, -1]], axis=1)

    def overview(shown: Shown) -> tuple[Plot, ...]:
        return tuple(
            plot
            for place, name in enumerate(targets[:MOST_TARGETS])
            for plot in (_scatter(shown, place, name), _residuals(shown, place, name))
        )

    unit = DEVIATIONS if several else ""
    r2 = Metric(name="teacher_r2", title="R² against the teacher's values", unit="")
    return Details(
        breakdowns=(
            _by_target("r2", "R²", targets, explained_parts, r_squared),
            _by_target(
                "rmse", "Root mean squared error", targets, squared_errors, _root, higher=False
            ),
            _by_target(
                "mae", "Mean absolute error", targets, absolute_errors, means_of, higher=False
            ),
        ),
        agreements=(
            Score(
                Metric(
                    name="median_difference",
                    title="Median absolute difference of values",
                    unit=unit,
                    higher_is_better=False,
                ),
                distance,
                median_of,
            ),
            replace(R_SQUARED, metric=r2),
        ),
        relabelled=lambda outputs, batch: {**batch, "labels": outputs[VALUES]},
        overview=overview,
        drawing=""
        if len(targets) <= MOST_TARGETS
        else f"Drawn are the first {MOST_TARGETS} targets.",
    )


def _root(sums: Sums) -> Sums:
    return np.sqrt(means_of(sums))


def _by_target(
    name: str,
    title: str,
    targets: tuple[str, ...],
    parts: Callable[[Arrays, Arrays, Arrays], Sums],
    value: Callable[[Sums], Sums],
    *,
    higher: bool = True,
) -> Breakdown:
    metric = Metric(name=name, title=title, unit="", higher_is_better=higher)
    note = "R² has no unit." if higher else "Each target in its own unit."
    return Breakdown(metric, targets, parts, rows_of_sums(value), by="target", note=note)


def _values(shown: Shown, place: int) -> tuple[Floats, dict[Side, Floats]]:
    """Return the truth and both models' predictions of a target."""
    labels = shown.batch["labels"]
    truth = np.asarray(labels if labels.ndim == 1 else labels[:, place], np.float64)
    sides: dict[Side, Floats] = {
        "teacher": shown.teacher[VALUES][:, place].astype(np.float64),
        "student": shown.student[VALUES][:, place].astype(np.float64),
    }
    return truth, sides


def _scatter(shown: Shown, place: int, name: str) -> Plot:
    truth, sides = _values(shown, place)
    return Plot(
        title=f"{name}: prediction and truth",
        text=f"Predictions of {name} against the truth of {len(truth)} test samples.",
        across=f"true {name}",
        up="predicted",
        traces=tuple(_points(side, truth, values) for side, values in sides.items()),
        reference="diagonal",
    )


def _residuals(shown: Shown, place: int, name: str) -> Plot:
    truth, sides = _values(shown, place)
    return Plot(
        title=f"{name}: residuals",
        text=f"Prediction less truth of {name} against the prediction, {len(truth)} test samples.",
        across=f"predicted {name}",
        up="prediction less truth",
        traces=tuple(_points(side, values, values - truth) for side, values in sides.items()),
        reference="zero",
    )


def _points(side: Side, x: Floats, y: Floats) -> Trace:
    kept = np.isfinite(x) & np.isfinite(y)
    across = tuple(x[kept].tolist())
    return Trace(name=side, side=side, form="points", x=across, y=rounded(y[kept]))
