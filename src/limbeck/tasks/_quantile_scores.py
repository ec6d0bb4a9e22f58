"""Scores of quantile forecasts: pinball loss, weighted quantile loss and coverage error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from limbeck.core.measurement import Metric
from limbeck.tasks.scores import DEVIATIONS, Score, of_sums

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from limbeck.tasks.scores import Arrays, Sums

QUANTILES = "quantiles"
LEVELS = (0.1, 0.5, 0.9)
"""The levels of the quantiles, if the data states no others."""


def pinball(
    outputs: Arrays, batch: Arrays, levels: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compute the pinball loss of every step, the mean over quantiles, and the targets.

    Returns:
        Both `[n, horizon, targets]`; 0 for a missing target, whose weight is 0.
    """
    each = np.array(levels)
    target = np.nan_to_num(batch["labels"]).astype(np.float64)
    gap = target[..., None] - outputs[QUANTILES].astype(np.float64)
    return np.maximum(each * gap, (each - 1) * gap).mean(-1), target


def scores_of(
    levels: tuple[float, ...], deviations: tuple[float, ...] = (1.0,)
) -> tuple[Score, ...]:
    """Return the scores of quantile forecasts.

    `pinball` is the pinball loss: of one target in its unit, of several the mean over targets, each
    divided by its standard deviation over the training rows, since units cannot be averaged.
    `wql`, the weighted quantile loss, is twice the pinball loss divided by the mean size of the
    target, so that it has no unit. `coverage_error` is the difference between the share of values
    within the lowest and the highest quantile and the nominal share.

    Args:
        levels: The levels of the quantiles.
        deviations: The standard deviation of each target.

    Source: Koenker and Bassett 1978 (pinball); Salinas et al. 2020, "DeepAR" (weighted quantile
    loss); Gneiting and Raftery 2007, "Strictly proper scoring rules" (coverage).
    """
    nominal, several = levels[-1] - levels[0], len(deviations) > 1
    scale = np.array(deviations) if several else 1.0

    def errors(outputs: Arrays, batch: Arrays, weights: Arrays) -> Sums:
        loss, target = pinball(outputs, batch, levels)
        weight, predicted = weights[QUANTILES].reshape(target.shape), outputs[QUANTILES]
        inside = (predicted[..., 0] <= target) & (target <= predicted[..., -1])
        parts = [
            (weight * one).sum(axis=1)
            for one in (loss / scale, np.abs(target) / scale, inside, np.ones_like(loss))
        ]
        return np.concatenate(parts, axis=1)

    def mean(
        numerator: int, denominator: int, factor: float = 1.0
    ) -> Callable[[Sums], NDArray[np.float64]]:
        def value(sums: Sums) -> NDArray[np.float64]:
            parts = np.split(sums, 4, axis=-1)
            with np.errstate(invalid="ignore", divide="ignore"):
                return np.asarray(factor * (parts[numerator] / parts[denominator]).mean(-1))

        return value

    def coverage_error(sums: Sums) -> NDArray[np.float64]:
        return np.asarray(np.abs(mean(2, 3)(sums) - nominal))

    return (
        Score(
            Metric(
                name="pinball",
                title="Pinball loss",
                unit=DEVIATIONS if several else "",
                higher_is_better=False,
            ),
            errors,
            of_sums(mean(0, 3)),
        ),
        Score(
            Metric(name="wql", title="Weighted quantile loss", unit="", higher_is_better=False),
            errors,
            of_sums(mean(0, 1, factor=2.0)),
        ),
        Score(
            Metric(name="coverage_error", title="Coverage error", higher_is_better=False),
            errors,
            of_sums(coverage_error),
        ),
    )
