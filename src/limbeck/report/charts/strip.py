"""Strip plot: a row per group with a dot per seed, mean and interval; a seed's dots are joined."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from limbeck.report.charts.scale import Scale, finite, zoomed
from limbeck.report.charts.svg import (
    WIDTH,
    Role,
    element,
    join,
    line,
    marker,
    picture,
    shorten,
    text,
)

_LEFT, _RIGHT, _ROW, _TOP, _FOOT = 8.0, WIDTH - 8.0, 76.0, 2.0, 26.0
_EDGE, _DOT = 1.0, 5.0


@dataclass(frozen=True)
class Group:
    """A row of dots: label, the value of every seed in order, the mean as written, the interval."""

    label: str
    role: Role
    values: tuple[float, ...]
    mean: float
    written: str
    interval: tuple[float, float] | None


def strip(
    groups: Sequence[Group],
    seeds: Sequence[int],
    *,
    axis: Callable[[float], str],
    title: str,
    description: str,
    zero: bool = False,
) -> Markup:
    """Draw the groups below one another on one axis.

    Args:
        groups: The rows; where there are several, a seed's dots are joined.
        seeds: The seeds, in the order of the values.
        axis: Formats a number on the axis.
        title: The accessible title of the chart.
        description: The accessible description of the chart.
        zero: Whether the axis must include zero, drawn as a line.
    """
    shown = [v for g in groups for v in (*g.values, g.mean, *(g.interval or ()))]
    low, high = zoomed([*shown, 0.0] if zero else shown, least=0.002)
    place = Scale(low, high, start=_LEFT, end=_RIGHT)
    bottom = _TOP + _ROW * len(groups)
    heights = [_TOP + index * _ROW + 44 for index in range(len(groups))]
    parts = [_axis(place, bottom, axis)]
    if zero:
        parts.append(line(place(0), _TOP + 22, place(0), bottom, kind="zero"))
    parts += _pairs(groups, heights, place)
    parts += [_row(group, seeds, place, y) for group, y in zip(groups, heights, strict=True)]
    return picture(*parts, height=bottom + _FOOT, title=title, description=description)


def _axis(place: Scale, bottom: float, written: Callable[[float], str]) -> Markup:
    parts = []
    for tick in place.ticks():
        x = place(tick)
        anchor = "start" if x < _LEFT + 14 else "end" if x > _RIGHT - 14 else "middle"
        parts.append(line(x, _TOP + 22, x, bottom + 4, kind="grid"))
        parts.append(text(x, bottom + 18, written(tick), anchor=anchor, kind="axis"))
    return join(parts)


def _pairs(groups: Sequence[Group], heights: Sequence[float], place: Scale) -> list[Markup]:
    """Draw lines between the dots of one seed in neighbouring rows."""
    lines = []
    for upper, lower, y1, y2 in zip(groups, groups[1:], heights, heights[1:], strict=False):
        for a, b in zip(upper.values, lower.values, strict=False):
            if len(finite([a, b])) == 2:
                lines.append(line(place(a), y1, place(b), y2, kind="pair"))
    return lines


def _row(group: Group, seeds: Sequence[int], place: Scale, y: float) -> Markup:
    """Draw the label and the mean above; dots on the track; mean and interval below it."""
    room = _RIGHT - _LEFT - 7.0 * len(group.written) - 12
    parts = [
        text(_EDGE, y - 26, shorten(group.label, room)),
        text(WIDTH - _EDGE, y - 26, group.written, anchor="end", kind="strong"),
        line(_LEFT, y, _RIGHT, y, kind="rule"),
    ]
    drawn: list[float] = []
    for seed, value in zip(seeds, group.values, strict=False):
        if finite([value]):
            # Dots that would overlap are stacked.
            pile = sum(abs(place(value) - x) < _DOT for x in drawn)
            height = y - 1.7 * _DOT * pile
            parts.append(
                marker(
                    group.role, place(value), height, radius=_DOT, kind="dot", tip=f"seed {seed}"
                )
            )
            drawn.append(place(value))
    if finite([group.mean]):
        parts.append(_mean(group, place, y + 14))
    return element("g", *parts, class_=f"role-{group.role}")


def _mean(group: Group, place: Scale, y: float) -> Markup:
    """Draw the interval as a bar with the mean as a thick tick; with one seed, the tick alone."""
    parts = [line(place(group.mean), y - 6, place(group.mean), y + 6, kind="mean")]
    if group.interval and len(finite(group.interval)) == 2:
        low, high = (place(end) for end in group.interval)
        parts.insert(0, line(low, y, high, y, kind="whisker"))
        parts += [line(end, y - 4, end, y + 4, kind="whisker") for end in (low, high)]
    return join(parts)
