"""A chart with its title and with a caption that says how it was measured."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from limbeck.evaluate.interval import Interval


@dataclass(frozen=True)
class Panel:
    """A figure of the page.

    Attributes:
        title: What the figure shows.
        caption: How it was measured.
        chart: The picture, as SVG.
        least_width: How many pixels it needs to be read, where that is more than a phone has.
    """

    title: str
    caption: str
    chart: Markup
    least_width: float | None = None


def ends(interval: Interval | None) -> tuple[float, float] | None:
    """The two ends of an interval, if there is one."""
    return (interval.low, interval.high) if interval else None


def percent_tick(share: float) -> str:
    """Write a share along an axis, as short as it can be.

    Example:
        >>> percent_tick(0.975), percent_tick(1.0)
        ('97.5 %', '100 %')
    """
    return f"{round(share * 100, 6):g} %".replace("-", "\N{MINUS SIGN}")
