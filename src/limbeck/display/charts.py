"""Line chart over epochs; series differ in dash and end mark as well as colour; a legend below."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from limbeck.display.svg import (
    WIDTH,
    Role,
    Scale,
    decades,
    element,
    finite,
    join,
    line,
    marker,
    picture,
    shorten,
    text,
    zoomed,
)

_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, WIDTH - 12.0, 10.0, 190.0
_LEGEND_TOP, _LEGEND_ROW = _BOTTOM + 48.0, 18.0


@dataclass(frozen=True)
class Series:
    """A line: its points (epoch, value), its name in the legend (or none) and its style.

    `tone` is `role` for the colour of the role, `ink` for the grey of the text.
    """

    label: str | None
    points: tuple[tuple[float, float], ...]
    role: Role = "student"
    tone: str = "role"
    dash: str | None = None
    mark: bool = False
    faint: bool = False


def lines(
    series: Sequence[Series],
    *,
    axis: Callable[[float], str],
    title: str,
    description: str,
    across: str = "epoch",
    log: bool = False,
) -> Markup:
    """Draw a line chart.

    Args:
        series: The lines; points that are not finite are left out and break no line.
        axis: Formats a number on the vertical axis.
        title: The accessible title of the chart.
        description: The accessible description of the chart.
        across: The label of the horizontal axis.
        log: Whether the vertical axis is logarithmic; points at or below zero are then left out.
    """
    values = [y for one in series for _, y in one.points]
    epochs = finite(x for one in series for x, _ in one.points) or [0.0, 1.0]
    low, high = decades(values, margin=1.2) if log else zoomed(values, margin=0.06, least=1e-6)
    across_scale = Scale(min(epochs), max(max(epochs), min(epochs) + 1), start=_LEFT, end=_RIGHT)
    up = Scale(low, high, start=_BOTTOM, end=_TOP, log=log)
    named = [one for one in series if one.label is not None]
    height = _LEGEND_TOP + _LEGEND_ROW * ((len(named) + 1) // 2) - 6
    return picture(
        _axes(across_scale, up, axis, across),
        *(_curve(one, across_scale, up) for one in series),
        _legend(named),
        height=height,
        title=title,
        description=description,
    )


def _axes(across: Scale, up: Scale, written: Callable[[float], str], name: str) -> Markup:
    parts = []
    for tick in up.ticks():
        parts.append(line(_LEFT, up(tick), _RIGHT, up(tick), kind="grid"))
        parts.append(text(_LEFT - 7, up(tick) + 4, written(tick), anchor="end", kind="axis"))
    for tick in across.ticks(5):
        if tick == int(tick):
            x = across(tick)
            parts.append(line(x, _BOTTOM, x, _BOTTOM + 4, kind="rule"))
            parts.append(text(x, _BOTTOM + 17, f"{tick:g}", anchor="middle", kind="axis"))
    parts.append(line(_LEFT, _BOTTOM, _RIGHT, _BOTTOM, kind="rule"))
    parts.append(text(_RIGHT, _BOTTOM + 32, name, anchor="end", kind="axis"))
    return join(parts)


def _curve(one: Series, across: Scale, up: Scale) -> Markup:
    known = [(x, y) for x, y in one.points if len(finite([x, y])) == 2 and (y > 0 or not up.log)]
    if not known:
        return Markup("")
    places = [(across(x), up(y)) for x, y in known]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts = [element("polyline", points=path, class_="curve", stroke_dasharray=one.dash)]
    if one.mark or len(known) == 1:
        parts.append(marker(one.role, *places[-1], radius=4, tip=one.label or ""))
    return element("g", *parts, class_=_kind(one))


def _legend(named: Sequence[Series]) -> Markup:
    """Draw the legend: two names per row, each with a sample of its line."""
    half = (_RIGHT + 12) / 2
    entries = []
    for index, one in enumerate(named):
        x, y = (index % 2) * half + 4, _LEGEND_TOP + _LEGEND_ROW * (index // 2) - 8
        sample = element(
            "polyline",
            points=f"{x:.1f},{y:.1f} {x + 26:.1f},{y:.1f}",
            class_="curve",
            stroke_dasharray=one.dash,
        )
        mark = marker(one.role, x + 26, y, radius=4) if one.mark else Markup("")
        label = text(x + 36, y + 4, shorten(one.label or "", half - 44), kind="ink-fill")
        entries.append(element("g", sample, mark, label, class_=_kind(one)))
    return join(entries)


def _kind(one: Series) -> str:
    kind = f"role-{one.role}" if one.tone == "role" else f"tone-{one.tone}"
    return f"{kind} faint" if one.faint else kind


_STRIP_LEFT, _STRIP_RIGHT, _ROW, _STRIP_TOP, _FOOT = 8.0, WIDTH - 8.0, 76.0, 2.0, 26.0
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
    place = Scale(low, high, start=_STRIP_LEFT, end=_STRIP_RIGHT)
    bottom = _STRIP_TOP + _ROW * len(groups)
    heights = [_STRIP_TOP + index * _ROW + 44 for index in range(len(groups))]
    parts = [_axis(place, bottom, axis)]
    if zero:
        parts.append(line(place(0), _STRIP_TOP + 22, place(0), bottom, kind="zero"))
    parts += _pairs(groups, heights, place)
    parts += [_row(group, seeds, place, y) for group, y in zip(groups, heights, strict=True)]
    return picture(*parts, height=bottom + _FOOT, title=title, description=description)


def _axis(place: Scale, bottom: float, written: Callable[[float], str]) -> Markup:
    parts = []
    for tick in place.ticks():
        x = place(tick)
        anchor = "start" if x < _STRIP_LEFT + 14 else "end" if x > _STRIP_RIGHT - 14 else "middle"
        parts.append(line(x, _STRIP_TOP + 22, x, bottom + 4, kind="grid"))
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
    room = _STRIP_RIGHT - _STRIP_LEFT - 7.0 * len(group.written) - 12
    parts = [
        text(_EDGE, y - 26, shorten(group.label, room)),
        text(WIDTH - _EDGE, y - 26, group.written, anchor="end", kind="strong"),
        line(_STRIP_LEFT, y, _STRIP_RIGHT, y, kind="rule"),
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


_WATERFALL_LEFT, _WATERFALL_RIGHT, _WATERFALL_ROW, _WATERFALL_TOP, _WATERFALL_FOOT = (
    8.0,
    WIDTH - 8.0,
    48.0,
    2.0,
    26.0,
)
_WATERFALL_EDGE = 1.0


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
    place = Scale(*scale, start=_WATERFALL_LEFT, end=_WATERFALL_RIGHT, log=log)
    bottom = _WATERFALL_TOP + _WATERFALL_ROW * len(steps)
    before: float | None = None
    rows = []
    for index, step in enumerate(steps):
        rows.append(
            _waterfall_row(
                step,
                before,
                place,
                _WATERFALL_TOP + index * _WATERFALL_ROW,
                last=index == len(steps) - 1,
            )
        )
        before = step.value if _drawn(step.value, place) else before
    return picture(
        _waterfall_axis(place, bottom, axis),
        *rows,
        height=bottom + _WATERFALL_FOOT,
        title=title,
        description=description,
    )


def _drawn(value: float | None, place: Scale) -> bool:
    """Return whether a value can be drawn on the axis."""
    return value is not None and math.isfinite(value) and (value > 0 or not place.log)


def _waterfall_axis(place: Scale, bottom: float, written: Callable[[float], str]) -> Markup:
    """Draw faint vertical lines at round numbers, which are written below."""
    parts = []
    for tick in place.ticks():
        x = place(tick)
        anchor = (
            "start"
            if x < _WATERFALL_LEFT + 14
            else "end"
            if x > _WATERFALL_RIGHT - 14
            else "middle"
        )
        parts.append(line(x, _WATERFALL_TOP, x, bottom + 4, kind="grid"))
        parts.append(text(x, bottom + 18, written(tick), anchor=anchor, kind="axis"))
    return join(parts)


def _waterfall_row(
    step: Step, before: float | None, place: Scale, top: float, *, last: bool
) -> Markup:
    """Draw the label and the value above, the track with its mark below."""
    y = top + 33
    value_kind = "strong" if step.value is not None else "muted"
    value = element(
        "text",
        *((element("tspan", step.change, class_="muted-fill"),) if step.change else ()),
        element("tspan", step.written, dx=7 if step.change else None),
        x=WIDTH - _WATERFALL_EDGE,
        y=top + 17,
        text_anchor="end",
        class_=f"t {value_kind}",
    )
    room = WIDTH - 7.0 * (len(step.change) + len(step.written)) - 20
    label = text(
        _WATERFALL_EDGE, top + 17, shorten(step.label, room), kind="strong" if last else ""
    )
    parts = [label, value, line(_WATERFALL_LEFT, y, _WATERFALL_RIGHT, y, kind="rule")]
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
