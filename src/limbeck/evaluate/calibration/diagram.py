"""Reliability diagram: accuracy per confidence bin."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from limbeck.display.svg import (
    WIDTH,
    Role,
    Scale,
    element,
    finite,
    join,
    line,
    marker,
    svg_image,
    text,
)
from limbeck.evaluate.calibration.metrics import Bin

_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, WIDTH - 12.0, 12.0, 222.0
_COUNTS_TOP, _COUNTS_BOTTOM = 272.0, 312.0
_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)


def reliability(bins: Sequence[Bin], role: Role, *, title: str, description: str) -> Markup:
    """Draw one model's bins: accuracy over confidence; below, the number of samples."""
    filled = [
        one for one in bins if one.count > 0 and len(finite([one.confidence, one.accuracy])) == 2
    ]
    across = Scale(0, 1, start=_LEFT, end=_RIGHT)
    up = Scale(0, 1, start=_BOTTOM, end=_TOP)
    return svg_image(
        _axes(across, up),
        element(
            "g",
            *(_bar(one, across, up) for one in filled),
            line(across(0), up(0), across(1), up(1), kind="ideal", dash="3 4"),
            *(_mark(one, role, across, up) for one in filled),
            _counts(filled, across),
            class_=f"role-{role}",
        ),
        height=_COUNTS_BOTTOM + 8,
        title=title,
        description=description,
    )


def _axes(across: Scale, up: Scale) -> Markup:
    parts = []
    for tick in _TICKS:
        parts.append(line(_LEFT, up(tick), _RIGHT, up(tick), kind="grid"))
        parts.append(text(_LEFT - 7, up(tick) + 4, f"{tick * 100:g} %", anchor="end", kind="axis"))
        anchor = "end" if tick == 1 else "middle"
        parts.append(
            text(across(tick), _BOTTOM + 17, f"{tick * 100:g} %", anchor=anchor, kind="axis")
        )
    parts.append(text(_LEFT + 8, _TOP + 14, "share of right answers", kind="axis"))
    parts.append(line(_LEFT, _COUNTS_BOTTOM, _RIGHT, _COUNTS_BOTTOM, kind="rule"))
    return join(parts)


def _bar(one: Bin, across: Scale, up: Scale) -> Markup:
    left, right, top = across(one.low), across(one.high), up(one.accuracy)
    return element(
        "rect",
        x=left + 0.75,
        y=top,
        width=max(0.5, right - left - 1.5),
        height=up(0) - top,
        class_="bar",
    )


def _mark(one: Bin, role: Role, across: Scale, up: Scale) -> Markup:
    tip = f"{one.count} samples, confidence {one.confidence:.1%}, {one.accuracy:.1%} right"
    return marker(role, across(one.confidence), up(one.accuracy), radius=4, tip=tip)


def _counts(bins: Sequence[Bin], across: Scale) -> Markup:
    """Draw bars of equal width, the largest at full height."""
    most = max((one.count for one in bins), default=1)
    said = f"samples at each confidence, at most {most:,}"
    parts = [text(_LEFT, _COUNTS_TOP - 5, said, kind="axis")]
    for one in bins:
        left, right = across(one.low), across(one.high)
        height = max(1.0, (_COUNTS_BOTTOM - _COUNTS_TOP) * one.count / most)
        parts.append(
            element(
                "rect",
                element("title", f"{one.count} samples"),
                x=left + 0.75,
                y=_COUNTS_BOTTOM - height,
                width=max(0.5, right - left - 1.5),
                height=height,
                class_="count",
            )
        )
    return join(parts)
