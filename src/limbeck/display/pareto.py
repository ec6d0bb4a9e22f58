"""Pareto chart of one quality and one cost: front, dominated points, knee and chosen trial.

Shape distinguishes them as well as colour: a filled circle on the front, a small hollow one if
dominated, a diamond for the knee, a ring around the chosen trial.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from limbeck.display.svg import (
    WIDTH,
    Scale,
    axes,
    decades,
    element,
    finite,
    join,
    line,
    marker,
    svg_image,
    text,
    zoomed,
)

_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, WIDTH - 12.0, 14.0, 236.0


@dataclass(frozen=True)
class Point:
    """A trial with its cost, its quality and its tooltip.

    Attributes:
        cost: The horizontal coordinate, above zero.
        quality: The vertical coordinate.
        tip: The tooltip.
        front: Whether no other point dominates it in all objectives.
        line: Whether it is on the front of these two quantities, which is drawn as a line.
        knee: Whether it is that line's knee.
        chosen: Whether the budget selects it.
        name: The label beside it, if any.
    """

    cost: float
    quality: float
    tip: str
    front: bool = False
    line: bool = False
    knee: bool = False
    chosen: bool = False
    name: str = ""


def pareto(
    points: Sequence[Point],
    *,
    across: Callable[[float], str],
    up: Callable[[float], str],
    name: str,
    title: str,
    description: str,
    limit: float | None = None,
) -> Markup:
    """Draw quality over cost, the cost on a logarithmic scale.

    Args:
        points: The trials; those with a value that is not finite, or a cost of zero, are left out.
        across: Formats a number on the horizontal axis.
        up: Formats a number on the vertical axis.
        name: The label of the horizontal axis.
        title: The accessible title of the chart.
        description: The accessible description of the chart.
        limit: The largest cost that the budget allows, drawn as a vertical line.
    """
    drawn = [one for one in points if len(finite([one.cost, one.quality])) == 2 and one.cost > 0]
    costs = [*(one.cost for one in drawn), *([limit] if limit else [])]
    x = Scale(*decades(costs, margin=1.15), start=_LEFT, end=_RIGHT, log=True)
    y = Scale(*zoomed([one.quality for one in drawn], least=0.002), start=_BOTTOM, end=_TOP)
    return svg_image(
        axes(x, y, x.ticks(), x_format=across, y_format=up, x_label=name),
        _limit(limit, x),
        *(_mark(one, x, y) for one in drawn if not one.front),
        _stairs(sorted((one for one in drawn if one.line), key=lambda one: one.cost), x, y),
        *(_mark(one, x, y) for one in drawn if one.front),
        *(_name(one, x, y) for one in drawn if one.name),
        height=_BOTTOM + 40,
        title=title,
        description=description,
    )


def _limit(limit: float | None, x: Scale) -> Markup:
    if not limit:
        return Markup("")
    at = x(limit)
    anchor, offset = ("end", -5) if at > (_LEFT + _RIGHT) / 2 else ("start", 5)
    label = text(at + offset, _BOTTOM - 7, "budget", anchor=anchor, kind="axis")
    return join([line(at, _TOP, at, _BOTTOM, kind="ideal", dash="3 4"), label])


def _stairs(front: Sequence[Point], x: Scale, y: Scale) -> Markup:
    """Draw the front as a step line: the best quality at each cost."""
    if len(front) < 2:
        return Markup("")
    corners = [(x(front[0].cost), y(front[0].quality))]
    for previous, following in pairwise(front):
        left = x(following.cost)
        corners += [(left, y(previous.quality)), (left, y(following.quality))]
    path = " ".join(f"{left:.1f},{top:.1f}" for left, top in corners)
    return element("g", element("polyline", points=path, class_="curve"), class_="role-student")


def _mark(one: Point, x: Scale, y: Scale) -> Markup:
    left, top, role = x(one.cost), y(one.quality), "student"
    if not one.front:
        role, tip = "baseline", element("title", one.tip)
        parts = [element("circle", tip, cx=left, cy=top, r=3.2, class_="seed")]
    elif one.knee:
        role, parts = "teacher", [marker("baseline", left, top, radius=6.5, tip=one.tip)]
    else:
        parts = [marker("student", left, top, radius=5, tip=one.tip)]
    if one.chosen:
        parts.append(element("circle", cx=left, cy=top, r=10, class_="diagonal"))
    return element("g", *parts, class_=f"role-{role}")


def _name(one: Point, x: Scale, y: Scale) -> Markup:
    """Draw the label below the point and beside it, where a rising front leaves space."""
    left = x(one.cost)
    offset, anchor = (-11, "end") if left > (_LEFT + 2 * _RIGHT) / 3 else (11, None)
    top = min(y(one.quality) + 17, _BOTTOM - 4)
    return text(left + offset, top, one.name, anchor=anchor, kind="strong")
