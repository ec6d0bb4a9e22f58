"""A chart with its title and with a caption that states how it was measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from markupsafe import Markup

from limbeck.core.measurement import Interval, Metric
from limbeck.display.svg import Role


@dataclass(frozen=True)
class Panel:
    """A figure of the page.

    Attributes:
        title: The title.
        caption: How it was measured.
        chart: The chart, as SVG.
        least_width: The least width in pixels at which it is readable, if more than a phone has.
    """

    title: str
    caption: str
    chart: Markup
    least_width: float | None = None


def ends(interval: Interval | None) -> tuple[float, float] | None:
    """Return the two ends of an interval, if there is one."""
    return (interval.low, interval.high) if interval else None


def percent_tick(share: float) -> str:
    """Write a share as the shortest possible axis label.

    Example:
        >>> percent_tick(0.975), percent_tick(1.0)
        ('97.5 %', '100 %')
    """
    return f"{round(share * 100, 6):g} %".replace("-", "\N{MINUS SIGN}")


def tick_of(metric: Metric) -> Callable[[float], str]:
    """Return the function that writes a metric's axis labels.

    Example:
        >>> tick_of(Metric(name="accuracy", title="Accuracy"))(0.5)
        '50 %'
    """
    if metric.unit == "share":
        return percent_tick
    return lambda value: f"{value:.6g}".replace("-", "\N{MINUS SIGN}")


@dataclass(frozen=True)
class Column:
    """The head of a column: the model of its figures."""

    label: str
    role: Role


@dataclass(frozen=True)
class Row:
    """A quantity and its value in each column, as written."""

    name: str
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A table with its title and with a caption that states how it was measured."""

    title: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
