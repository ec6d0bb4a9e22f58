"""Line chart over epochs; series differ in dash and end mark as well as colour; a legend below."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from limbeck.report.charts.scale import Scale, decades, finite, zoomed
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
