"""Learning curves: whether a training should have been longer or shorter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from limbeck.evaluate.context import Role, TrainingCurve
from limbeck.evaluate.diagnosis.figures import LearningCurve, Trend

FEWEST = 8
"""The fewest epochs of which a trend is stated."""

CLEAR = 0.1
"""A clear difference of two quarters, as a share of the range after the first quarter."""

ROLES: tuple[Role, ...] = ("teacher", "student", "baseline")


def learning_curves(
    curves: Sequence[TrainingCurve], *, higher_is_better: bool
) -> Iterator[LearningCurve]:
    """Yield the mean validation curve of each role, over seeds and members of an ensemble.

    Curves of different lengths, of trainings that stopped early, are averaged over the epochs that
    all have.

    Example:
        >>> curve = TrainingCurve("student", tuple(range(1, 9)), (1, 2, 3, 4, 5, 6, 7, 8))
        >>> [found] = learning_curves([curve], higher_is_better=True)
        >>> found.trend, found.best_epoch
        ('rising', 8.0)
    """
    for role in ROLES:
        own = [one for one in curves if one.role == role and one.values]
        if not own:
            continue
        count = min(len(one.values) for one in own)
        mean = np.mean([one.values[:count] for one in own], axis=0)
        signed = mean if higher_is_better else -mean
        place = int(signed.argmax())
        yield LearningCurve(
            role=role,
            trainings=len(own),
            epochs=count,
            best=float(mean[place]),
            best_epoch=float(own[0].epochs[place]),
            last=float(mean[-1]),
            trend=trend(signed),
        )


def trend(values: NDArray[np.float64]) -> Trend:
    """Classify a curve of which higher is better.

    Quarters are compared by their means. A difference is clear if it is above a tenth of the range
    after the first quarter, and above three times its standard error, by the differences of
    successive epochs.

    Example:
        >>> rise, fall = np.linspace(0, 1, 12), np.linspace(1, 0.5, 12)
        >>> trend(rise), trend(np.concatenate([rise, fall])), trend(rise[:4])
        ('rising', 'past its best', 'too short')
    """
    count = len(values)
    if count < FEWEST:
        return "too short"
    quarter = count // 4
    later = values[quarter:]
    noise = float(np.diff(later).std()) / np.sqrt(2)
    clear = max(CLEAR * float(np.ptp(later)), 3 * noise * np.sqrt(2 / quarter))
    last = float(values[-quarter:].mean())
    means = np.convolve(values, np.ones(quarter) / quarter, mode="valid")
    if last - float(values[-2 * quarter : -quarter].mean()) > clear:
        return "rising"
    return "past its best" if float(means.max()) - last > clear else "level"
