"""Measurements: typed, frozen records, confidence intervals, and what a metric is."""

from __future__ import annotations

import math

from pydantic import BaseModel, ConfigDict


class Result(BaseModel):
    """A measurement: typed, frozen, and unchanged by a JSON round trip."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")


class Interval(Result):
    """A confidence interval, with its level and method."""

    low: float
    high: float
    level: float = 0.95
    method: str

    def __str__(self) -> str:
        return f"[{self.low:.4f}, {self.high:.4f}]"


class Metric(Result):
    """A metric of a task: how it is named, written and compared.

    Attributes:
        name: The key in recipes, logs and records, such as `accuracy`.
        title: The name in headings, such as "Accuracy".
        unit: `share` is written in per cent; any other text follows the number.
        higher_is_better: The direction.

    Example:
        >>> error = Metric(name="mae", title="Mean absolute error", unit="", higher_is_better=False)
        >>> error.gain(2.0, over=3.0)
        1.0
    """

    name: str
    title: str
    unit: str = "share"
    higher_is_better: bool = True

    @property
    def text(self) -> str:
        """Return the title as written within a sentence: "accuracy", but "R²" and "mIoU"."""
        is_word = self.title[1:2].islower() and self.title[1:] == self.title[1:].lower()
        return self.title.lower() if is_word else self.title

    @property
    def bounds(self) -> tuple[float, float]:
        """Return the range of possible values."""
        return (0.0, 1.0) if self.unit == "share" else (-math.inf, math.inf)

    def gain(self, value: float, *, over: float) -> float:
        """Compute by how much a value is better than another; negative if it is worse."""
        return value - over if self.higher_is_better else over - value


class ScoreValue(Result):
    """A metric's value over samples, with its confidence interval."""

    metric: Metric
    value: float
    interval: Interval | None
    samples: int
