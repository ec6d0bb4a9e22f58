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
    decades,
    element,
    finite,
    join,
    line,
    marker,
    picture,
    text,
    zoomed,
)

_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, WIDTH - 12.0, 14.0, 236.0
_HEIGHT = _BOTTOM + 40.0


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
    best = sorted((one for one in drawn if one.line), key=lambda one: one.cost)
    behind = [one for one in drawn if not one.front]
    return picture(
        _axes(x, y, across, up, name),
        _limit(limit, x),
        *(_mark(one, x, y) for one in behind),
        _stairs(best, x, y),
        *(_mark(one, x, y) for one in drawn if one.front),
        *(_name(one, x, y) for one in drawn if one.name),
        height=_HEIGHT,
        title=title,
        description=description,
    )


def _axes(
    x: Scale, y: Scale, across: Callable[[float], str], up: Callable[[float], str], name: str
) -> Markup:
    parts = []
    for tick in y.ticks():
        parts.append(line(_LEFT, y(tick), _RIGHT, y(tick), kind="grid"))
        parts.append(text(_LEFT - 7, y(tick) + 4, up(tick), anchor="end", kind="axis"))
    for tick in x.ticks():
        place = x(tick)
        anchor = "end" if place > _RIGHT - 16 else "middle"
        parts.append(line(place, _BOTTOM, place, _BOTTOM + 4, kind="rule"))
        parts.append(text(place, _BOTTOM + 17, across(tick), anchor=anchor, kind="axis"))
    parts.append(line(_LEFT, _BOTTOM, _RIGHT, _BOTTOM, kind="rule"))
    parts.append(text(_RIGHT, _BOTTOM + 33, name, anchor="end", kind="axis"))
    return join(parts)


def _limit(limit: float | None, x: Scale) -> Markup:
    if not limit:
        return Markup("")
    place = x(limit)
    anchor, beside = ("end", -5) if place > (_LEFT + _RIGHT) / 2 else ("start", 5)
    return join(
        [
            line(place, _TOP, place, _BOTTOM, kind="ideal", dash="3 4"),
            text(place + beside, _BOTTOM - 7, "budget", anchor=anchor, kind="axis"),
        ]
    )


def _stairs(best: Sequence[Point], x: Scale, y: Scale) -> Markup:
    """Draw the front as a step line: the best quality at each cost."""
    if len(best) < 2:
        return Markup("")
    places = [(x(best[0].cost), y(best[0].quality))]
    for before, after in pairwise(best):
        places += [(x(after.cost), y(before.quality)), (x(after.cost), y(after.quality))]
    path = " ".join(f"{left:.1f},{top:.1f}" for left, top in places)
    return element("g", element("polyline", points=path, class_="curve"), class_="role-student")


def _mark(one: Point, x: Scale, y: Scale) -> Markup:
    left, top = x(one.cost), y(one.quality)
    if not one.front:
        hollow = element("title", one.tip)
        parts = [element("circle", hollow, cx=left, cy=top, r=3.2, class_="seed")]
    elif one.knee:
        parts = [marker("baseline", left, top, radius=6.5, tip=one.tip)]
    else:
        parts = [marker("student", left, top, radius=5, tip=one.tip)]
    if one.chosen:
        ring = element("circle", cx=left, cy=top, r=10, class_="diagonal")
        parts.append(ring)
    role = "teacher" if one.knee and one.front else "student" if one.front else "baseline"
    return element("g", *parts, class_=f"role-{role}")


def _name(one: Point, x: Scale, y: Scale) -> Markup:
    """Draw the label below the point and beside it, where a rising front leaves space."""
    left, top = x(one.cost), y(one.quality)
    right = left > (_LEFT + 2 * _RIGHT) / 3
    beside = -11 if right else 11
    height = min(top + 17, _BOTTOM - 4)
    return text(left + beside, height, one.name, anchor="end" if right else None, kind="strong")
