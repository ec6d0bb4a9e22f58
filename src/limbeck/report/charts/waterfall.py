"""Waterfall chart of one quantity along the stages: a bar per stage, from its previous value."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from limbeck.report.charts.scale import Scale
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

_LEFT, _RIGHT, _ROW, _TOP, _FOOT = 8.0, WIDTH - 8.0, 48.0, 2.0, 26.0
_EDGE = 1.0


@dataclass(frozen=True)
class Step:
    """A row: label, value, value as written, change, interval, and every seed's value."""

    label: str
    role: Role
    value: float | None
    written: str
    change: str = ""
    interval: tuple[float, float] | None = None
    seeds: tuple[float, ...] = ()


def waterfall(
    steps: Sequence[Step],
    scale: tuple[float, float],
    *,
    log: bool = False,
    axis: Callable[[float], str],
    title: str,
    description: str,
) -> Markup:
    """Draw the chain of stages for one quantity.

    Args:
        steps: The rows from the teacher to the exported file.
        scale: The smallest and the largest number on the axis.
        log: Whether the axis is logarithmic.
        axis: Formats a number on the axis.
        title: The accessible title of the chart.
        description: The accessible description of the chart.
    """
    place = Scale(*scale, start=_LEFT, end=_RIGHT, log=log)
    bottom = _TOP + _ROW * len(steps)
    before: float | None = None
    rows = []
    for index, step in enumerate(steps):
        rows.append(_row(step, before, place, _TOP + index * _ROW, last=index == len(steps) - 1))
        before = step.value if _drawn(step.value, place) else before
    return picture(
        _axis(place, bottom, axis),
        *rows,
        height=bottom + _FOOT,
        title=title,
        description=description,
    )


def _drawn(value: float | None, place: Scale) -> bool:
    """Return whether a value can be drawn on the axis."""
    return value is not None and math.isfinite(value) and (value > 0 or not place.log)


def _axis(place: Scale, bottom: float, written: Callable[[float], str]) -> Markup:
    """Draw faint vertical lines at round numbers, which are written below."""
    parts = []
    for tick in place.ticks():
        x = place(tick)
        anchor = "start" if x < _LEFT + 14 else "end" if x > _RIGHT - 14 else "middle"
        parts.append(line(x, _TOP, x, bottom + 4, kind="grid"))
        parts.append(text(x, bottom + 18, written(tick), anchor=anchor, kind="axis"))
    return join(parts)


def _row(step: Step, before: float | None, place: Scale, top: float, *, last: bool) -> Markup:
    """Draw the label and the value above, the track with its mark below."""
    y = top + 33
    value_kind = "strong" if step.value is not None else "muted"
    value = element(
        "text",
        *((element("tspan", step.change, class_="muted-fill"),) if step.change else ()),
        element("tspan", step.written, dx=7 if step.change else None),
        x=WIDTH - _EDGE,
        y=top + 17,
        text_anchor="end",
        class_=f"t {value_kind}",
    )
    room = WIDTH - 7.0 * (len(step.change) + len(step.written)) - 20
    label = text(_EDGE, top + 17, shorten(step.label, room), kind="strong" if last else "")
    parts = [label, value, line(_LEFT, y, _RIGHT, y, kind="rule")]
    if step.value is not None and _drawn(step.value, place):
        parts.append(_track(step, step.value, before, place, y))
    return element("g", *parts, class_=f"role-{step.role}")


def _track(step: Step, value: float, before: float | None, place: Scale, y: float) -> Markup:
    """Draw the bar from the previous stage, the seeds, the interval and the mark."""
    x = place(value)
    parts = []
    if before is not None:
        start = place(before)
        parts.append(line(start, y - 9, start, y + 5, kind="hang"))
        parts.append(
            element(
                "rect", x=min(start, x), y=y - 5, width=abs(x - start), height=10, class_="step"
            )
        )
    for seed in step.seeds:
        if _drawn(seed, place):
            parts.append(element("circle", cx=place(seed), cy=y, r=2.6, class_="seed"))
    if step.interval and all(math.isfinite(end) for end in step.interval):
        low, high = (place(end) for end in step.interval)
        parts.append(line(low, y, high, y, kind="whisker"))
        parts += [line(end, y - 4, end, y + 4, kind="whisker") for end in (low, high)]
    parts.append(marker(step.role, x, y, tip=f"{step.label}: {step.written}"))
    return join(parts)
