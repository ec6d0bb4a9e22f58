"""Line, strip and waterfall charts; series differ in dash and marker as well as colour."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from limbeck.display.svg import (
    LETTER,
    WIDTH,
    Role,
    Scale,
    axes,
    decades,
    element,
    finite,
    join,
    line,
    marker,
    shorten,
    svg_image,
    text,
    whisker,
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
    write: Callable[[float], str] | None = None,
) -> Markup:
    """Draw a line chart with a legend below.

    Lines of one point each are drawn as marks, with their numbers in the legend.

    Args:
        series: The lines; points that are not finite are left out and break no line.
        axis: Formats a number on the vertical axis.
        title: The accessible title of the chart.
        description: The accessible description of the chart.
        across: The label of the horizontal axis.
        log: Whether the vertical axis is logarithmic; points at or below zero are then left out.
        write: Formats a number in the legend; as `axis` if not given.
    """
    values = [y for one in series for _, y in one.points]
    epochs = finite(x for one in series for x, _ in one.points) or [0.0, 1.0]
    low, high = decades(values, margin=1.2) if log else zoomed(values, margin=0.06, least=1e-6)
    single = min(epochs) == max(epochs)
    y = Scale(low, high, start=_BOTTOM, end=_TOP, log=log)
    widest = max((len(axis(tick)) for tick in y.ticks()), default=0)
    left = max(_LEFT, 9 + 12 * LETTER * widest)
    x = Scale(min(epochs) - single, max(epochs) + single, start=left, end=_RIGHT)
    whole = epochs[:1] if single else [tick for tick in x.ticks(5) if tick == int(tick)]
    named = [one for one in series if one.label is not None]
    if single:
        number = write or axis
        named = [replace(one, label=f"{one.label}: {_numbers(one, number)}") for one in named]
    return svg_image(
        axes(x, y, whole, x_format=lambda tick: f"{tick:g}", y_format=axis, x_label=across),
        *(_curve(one, x, y) for one in series),
        _legend(named),
        height=_LEGEND_TOP + _LEGEND_ROW * ((len(named) + 1) // 2) - 6,
        title=title,
        description=description,
    )


def _numbers(one: Series, write: Callable[[float], str]) -> str:
    return ", ".join(write(y) for y in finite(y for _, y in one.points)) or "no number"


def _curve(one: Series, x: Scale, y: Scale) -> Markup:
    known = [(a, b) for a, b in one.points if len(finite([a, b])) == 2 and (b > 0 or not y.log)]
    if not known:
        return Markup("")
    positions = [(x(a), y(b)) for a, b in known]
    path = " ".join(f"{left:.1f},{top:.1f}" for left, top in positions)
    parts = [element("polyline", points=path, class_="curve", stroke_dasharray=one.dash)]
    if one.mark or len(known) == 1:
        parts.append(marker(one.role, *positions[-1], radius=4, tip=one.label or ""))
    return element("g", *parts, class_=_css_class(one))


def _legend(named: Sequence[Series]) -> Markup:
    """Draw the legend: two names per row, each with a sample of its line."""
    half = (_RIGHT + 12) / 2
    entries = []
    for index, one in enumerate(named):
        x, y = (index % 2) * half + 4, _LEGEND_TOP + _LEGEND_ROW * (index // 2) - 8
        path = f"{x:.1f},{y:.1f} {x + 26:.1f},{y:.1f}"
        sample = element("polyline", points=path, class_="curve", stroke_dasharray=one.dash)
        mark = marker(one.role, x + 26, y, radius=4) if one.mark else Markup("")
        label = text(x + 36, y + 4, shorten(one.label or "", half - 44), kind="ink-fill")
        entries.append(element("g", sample, mark, label, class_=_css_class(one)))
    return join(entries)


def _css_class(one: Series) -> str:
    name = f"role-{one.role}" if one.tone == "role" else f"tone-{one.tone}"
    return f"{name} faint" if one.faint else name


# Charts of rows below one another: strip and waterfall.
_ROWS_LEFT, _ROWS_RIGHT, _ROWS_TOP, _FOOT = 8.0, WIDTH - 8.0, 2.0, 26.0
_EDGE, _DOT = 1.0, 5.0
_STRIP_ROW, _WATERFALL_ROW = 76.0, 48.0


def _rows_axis(x: Scale, top: float, bottom: float, axis: Callable[[float], str]) -> Markup:
    """Draw faint vertical lines at round numbers, labelled at the bottom."""
    parts = []
    for tick in x.ticks():
        at = x(tick)
        anchor = "start" if at < _ROWS_LEFT + 14 else "end" if at > _ROWS_RIGHT - 14 else "middle"
        parts.append(line(at, top, at, bottom + 4, kind="grid"))
        parts.append(text(at, bottom + 18, axis(tick), anchor=anchor, kind="axis"))
    return join(parts)


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
    x = Scale(low, high, start=_ROWS_LEFT, end=_ROWS_RIGHT)
    bottom = _ROWS_TOP + _STRIP_ROW * len(groups)
    heights = [_ROWS_TOP + index * _STRIP_ROW + 44 for index in range(len(groups))]
    parts = [_rows_axis(x, _ROWS_TOP + 22, bottom, axis)]
    if zero:
        parts.append(line(x(0), _ROWS_TOP + 22, x(0), bottom, kind="zero"))
    parts += _pairs(groups, heights, x)
    parts += [_strip_row(group, seeds, x, y) for group, y in zip(groups, heights, strict=True)]
    return svg_image(*parts, height=bottom + _FOOT, title=title, description=description)


def _pairs(groups: Sequence[Group], heights: Sequence[float], x: Scale) -> list[Markup]:
    """Draw lines between the dots of one seed in neighbouring rows."""
    return [
        line(x(a), y1, x(b), y2, kind="pair")
        for upper, lower, y1, y2 in zip(groups, groups[1:], heights, heights[1:], strict=False)
        for a, b in zip(upper.values, lower.values, strict=False)
        if len(finite([a, b])) == 2
    ]


def _strip_row(group: Group, seeds: Sequence[int], x: Scale, y: float) -> Markup:
    """Draw the label and the mean above; dots on the track; mean and interval below it."""
    width = _ROWS_RIGHT - _ROWS_LEFT - 7.0 * len(group.written) - 12
    parts = [
        text(_EDGE, y - 26, shorten(group.label, width)),
        text(WIDTH - _EDGE, y - 26, group.written, anchor="end", kind="strong"),
        line(_ROWS_LEFT, y, _ROWS_RIGHT, y, kind="rule"),
    ]
    drawn: list[float] = []
    for seed, value in zip(seeds, group.values, strict=False):
        if finite([value]):
            # Dots that would overlap are stacked.
            height = y - 1.7 * _DOT * sum(abs(x(value) - other) < _DOT for other in drawn)
            tip = f"seed {seed}"
            parts.append(marker(group.role, x(value), height, radius=_DOT, kind="dot", tip=tip))
            drawn.append(x(value))
    if finite([group.mean]):
        if group.interval and len(finite(group.interval)) == 2:
            parts.append(whisker(group.interval, x, y + 14))
        parts.append(line(x(group.mean), y + 8, x(group.mean), y + 20, kind="mean"))
    return element("g", *parts, class_=f"role-{group.role}")


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
    x = Scale(*scale, start=_ROWS_LEFT, end=_ROWS_RIGHT, log=log)
    bottom = _ROWS_TOP + _WATERFALL_ROW * len(steps)
    rows = []
    previous: float | None = None
    for index, step in enumerate(steps):
        top = _ROWS_TOP + index * _WATERFALL_ROW
        rows.append(_waterfall_row(step, previous, x, top, last=index == len(steps) - 1))
        previous = step.value if _is_drawn(step.value, x) else previous
    return svg_image(
        _rows_axis(x, _ROWS_TOP, bottom, axis),
        *rows,
        height=bottom + _FOOT,
        title=title,
        description=description,
    )


def _is_drawn(value: float | None, x: Scale) -> bool:
    return any(number > 0 or not x.log for number in finite([value]))


def _waterfall_row(
    step: Step, previous: float | None, x: Scale, top: float, *, last: bool
) -> Markup:
    y = top + 33
    change = [element("tspan", step.change, class_="muted-fill")] if step.change else []
    value = element(
        "text",
        *change,
        element("tspan", step.written, dx=7 if step.change else None),
        x=WIDTH - _EDGE,
        y=top + 17,
        text_anchor="end",
        class_=f"t {'strong' if step.value is not None else 'muted'}",
    )
    width = WIDTH - 7.0 * (len(step.change) + len(step.written)) - 20
    label = text(_EDGE, top + 17, shorten(step.label, width), kind="strong" if last else "")
    parts = [label, value, line(_ROWS_LEFT, y, _ROWS_RIGHT, y, kind="rule")]
    if step.value is not None and _is_drawn(step.value, x):
        parts.append(_track(step, step.value, previous, x, y))
    return element("g", *parts, class_=f"role-{step.role}")


def _track(step: Step, value: float, previous: float | None, x: Scale, y: float) -> Markup:
    end, parts = x(value), []
    if previous is not None:
        start = x(previous)
        bar = {"x": min(start, end), "y": y - 5, "width": abs(end - start), "height": 10}
        parts.append(line(start, y - 9, start, y + 5, kind="hang"))
        parts.append(element("rect", **bar, class_="step"))
    for seed in step.seeds:
        if _is_drawn(seed, x):
            parts.append(element("circle", cx=x(seed), cy=y, r=2.6, class_="seed"))
    if step.interval and len(finite(step.interval)) == 2:
        parts.append(whisker(step.interval, x, y))
    parts.append(marker(step.role, end, y, tip=f"{step.label}: {step.written}"))
    return join(parts)
