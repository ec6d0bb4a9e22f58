"""Charts of a task's illustrations: lines, bands and points of truth, teacher and student."""

from __future__ import annotations

from collections.abc import Iterable

from markupsafe import Markup

from limbeck.core.illustration import Plot, Side, Trace
from limbeck.display import format as fmt
from limbeck.display.svg import (
    DASHES,
    WIDTH,
    Scale,
    axes,
    element,
    finite,
    join,
    line,
    marker,
    shorten,
    svg_image,
    text,
    zoomed,
)

_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, WIDTH - 12.0, 24.0, 200.0
_LEGEND_TOP, _LEGEND_ROW = _BOTTOM + 52.0, 18.0
_RADIUS = 2.4


def plot(shown: Plot) -> Markup:
    """Draw a plot, its legend below; sides differ in dash or mark as well as colour."""
    across = finite(x for one in shown.traces for x in one.x) or [0.0, 1.0]
    values = finite(y for one in shown.traces for y in (*one.y, *one.high)) or [0.0, 1.0]
    wide, high = zoomed(across, margin=0.02), zoomed(values, margin=0.06)
    if shown.reference == "diagonal":
        wide = high = zoomed([*across, *values], margin=0.04)
    elif shown.reference == "zero":
        high = zoomed([*values, 0.0], margin=0.06)
    x = Scale(*wide, start=_LEFT, end=_RIGHT)
    y = Scale(*high, start=_BOTTOM, end=_TOP)
    named = [one for one in shown.traces if one.name]
    return svg_image(
        text(2, 12, shorten(shown.up, _RIGHT, 11.5), kind="axis"),
        axes(x, y, x.ticks(5), x_format=_tick, y_format=_tick, x_label=shown.across),
        *_reference(shown, x, y),
        *(_trace(one, x, y) for one in shown.traces),
        _legend(named),
        height=_LEGEND_TOP + _LEGEND_ROW * ((len(named) + 1) // 2) - 6,
        title=shown.title,
        description=shown.text,
    )


def _tick(value: float) -> str:
    return fmt.minus(f"{value:.6g}")


def _reference(shown: Plot, x: Scale, y: Scale) -> Iterable[Markup]:
    if shown.reference == "diagonal":
        low, high = max(x.low, y.low), min(x.high, y.high)
        yield line(x(low), y(low), x(high), y(high), kind="ideal", dash="2 3")
    elif shown.reference == "zero":
        yield line(x.start, y(0.0), x.end, y(0.0), kind="ideal", dash="2 3")


def _class(side: Side) -> str:
    return "tone-ink" if side == "truth" else f"role-{side}"


def _dash(side: Side) -> str | None:
    return None if side == "truth" else DASHES[side]


def _trace(one: Trace, x: Scale, y: Scale) -> Markup:
    parts = {"line": _lines, "band": _band, "points": _points}[one.form](one, x, y)
    return element("g", *parts, class_=_class(one.side))


def _lines(one: Trace, x: Scale, y: Scale) -> list[Markup]:
    """Draw a line, broken where there is no value."""
    runs: list[list[str]] = [[]]
    for across, value in zip(one.x, one.y, strict=True):
        if value is None:
            runs.append([])
        else:
            runs[-1].append(f"{x(across):.1f},{y(value):.1f}")
    return [
        element("polyline", points=" ".join(run), class_="curve", stroke_dasharray=_dash(one.side))
        for run in runs
        if run
    ]


def _band(one: Trace, x: Scale, y: Scale) -> list[Markup]:
    rows = [
        (across, low, high)
        for across, low, high in zip(one.x, one.y, one.high, strict=True)
        if low is not None and high is not None
    ]
    upper = [f"{x(across):.1f},{y(high):.1f}" for across, _, high in rows]
    lower = [f"{x(across):.1f},{y(low):.1f}" for across, low, _ in reversed(rows)]
    return [element("polygon", points=" ".join([*upper, *lower]), class_="band")]


def _points(one: Trace, x: Scale, y: Scale) -> list[Markup]:
    pairs = ((a, b) for a, b in zip(one.x, one.y, strict=True) if b is not None)
    if one.side == "truth":
        return [element("circle", cx=x(a), cy=y(b), r=_RADIUS, class_="dot") for a, b in pairs]
    side = one.side
    return [marker(side, x(a), y(b), radius=_RADIUS, kind="dot") for a, b in pairs]


def _legend(named: list[Trace]) -> Markup:
    """Draw the legend: two names per row, each with a sample of its mark."""
    half, entries = (_RIGHT + 12) / 2, []
    for index, one in enumerate(named):
        x, y = (index % 2) * half + 4, _LEGEND_TOP + _LEGEND_ROW * (index // 2) - 8
        if one.form == "band":
            mark = element("rect", x=x, y=y - 5, width=26, height=10, class_="band")
        elif one.form == "line":
            points = f"{x:.1f},{y:.1f} {x + 26:.1f},{y:.1f}"
            dash = _dash(one.side)
            mark = element("polyline", points=points, class_="curve", stroke_dasharray=dash)
        else:
            mark = join(_points(Trace(**{**dict(one), "x": (0,), "y": (0,)}), *_at(x + 13, y)))
        label = text(x + 34, y + 4, shorten(one.name, half - 42), kind="ink-fill")
        entries.append(element("g", mark, label, class_=_class(one.side)))
    return join(entries)


def _at(x: float, y: float) -> tuple[Scale, Scale]:
    """Return scales that map 0 to a position."""
    return Scale(0, 1, start=x, end=x + 1), Scale(0, 1, start=y, end=y + 1)
