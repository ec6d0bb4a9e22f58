"""Fairness metrics on the samples and on every bootstrap resample, and their comparison."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from limbeck.core.measurement import Interval
from limbeck.evaluate.bootstrap import LEVEL, Resamples
from limbeck.evaluate.comparison import Direction, Estimate, MetricComparison, compare

Array = NDArray[np.float64]
Labels = NDArray[np.int64]
MARGIN = 0.02


@dataclass(frozen=True)
class FairnessInputs:
    """The inputs of the fairness metrics.

    Attributes:
        labels: `[samples]`.
        predicted: The predicted classes of each model, `[samples]` each; the student first.
        classes: The classes' names.
        positives: The classes that groups are compared by, each against the rest, as indices.
        resamples: The bootstrap resamples, the same for both models.
        smallest: The number of samples that a group or a class needs to be judged.
    """

    labels: Labels
    predicted: tuple[Labels, ...]
    classes: tuple[str, ...]
    positives: tuple[int, ...]
    resamples: Resamples
    smallest: int

    def drawn(self, statistic: Callable[[Array], Array]) -> Array:
        """Compute a statistic of the samples, then of every draw: `[1 + draws, ...]`.

        The statistic maps how often each sample counts, `[draws, samples]`.
        """
        return np.concatenate(
            [statistic(np.ones((1, len(self.labels)))), self.resamples.distribution(statistic)]
        )

    def compared(
        self, name: str, values: Sequence[Array], *, direction: Direction, method: str
    ) -> MetricComparison:
        """Compare a share of student and teacher: `[1 + draws]` of the same draws."""
        student, *teacher = values
        gaps = [student - values for values in teacher]
        return compare(
            name,
            unit="share",
            direction=direction,
            student=estimate(student),
            teacher=estimate(teacher[0]) if teacher else None,
            difference=estimate(gaps[0], samples=len(self.labels)) if teacher else None,
            margin=MARGIN,
            method=method,
        )

    def too_small(self, subject: str, names: Iterable[str], samples: Array | Labels) -> list[str]:
        """Return a note that lists the classes or groups with too few samples, if there are any."""
        small = [
            f"{name} ({int(count)})"
            for name, count in zip(names, samples, strict=True)
            if count < self.smallest
        ]
        note = (
            f"{subject} too small to be judged, with fewer than {self.smallest} test samples: "
            f"{', '.join(small)}."
        )
        return [note] if small else []


def estimate(values: Array, *, samples: int | None = None) -> Estimate:
    """Build an estimate from a value and its draws, `[1 + draws]`, the value first.

    If all draws are equal, the bootstrap has zero width: the interval is then widened by the upper
    bound of Clopper and Pearson for an event that does not occur in the samples.

    Args:
        values: A share, or a difference of shares.
        samples: Number of samples; None, where the draws cannot all be equal.

    Example:
        >>> estimate(np.array([0.5, 0.4, 0.5, 0.6])).interval.high
        0.595
    """
    low, high = np.nanquantile(values[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    method = "percentile bootstrap"
    if low == high and samples is not None:
        bound = 1 - ((1 - LEVEL) / 2) ** (1 / samples)
        low, high = max(-1.0, low - bound), min(1.0, high + bound)
        method = "Clopper-Pearson bound of an event that does not occur"
    interval = Interval(low=low, high=high, method=method)
    return Estimate(value=float(values[0]), interval=interval)
