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
    most = max((one.count for one in filled), default=1)
    accuracy, marks, counts = [], [], []
    for one in filled:
        left = across(one.low) + 0.75
        width = max(0.5, across(one.high) - across(one.low) - 1.5)
        top = up(one.accuracy)
        accuracy.append(
            element("rect", x=left, y=top, width=width, height=up(0) - top, class_="bar")
        )
        tip = f"{one.count} samples, confidence {one.confidence:.1%}, accuracy {one.accuracy:.1%}"
        marks.append(marker(role, across(one.confidence), top, radius=4, tip=tip))
        height = max(1.0, (_COUNTS_BOTTOM - _COUNTS_TOP) * one.count / most)
        y = _COUNTS_BOTTOM - height
        label = element("title", f"{one.count} samples")
        counts.append(
            element("rect", label, x=left, y=y, width=width, height=height, class_="count")
        )
    caption = f"samples at each confidence, at most {most:,}"
    return svg_image(
        _axes(across, up),
        element(
            "g",
            *accuracy,
            line(across(0), up(0), across(1), up(1), kind="ideal", dash="3 4"),
            *marks,
            text(_LEFT, _COUNTS_TOP - 5, caption, kind="axis"),
            *counts,
            class_=f"role-{role}",
        ),
        height=_COUNTS_BOTTOM + 8,
        title=title,
        description=description,
    )


def _axes(across: Scale, up: Scale) -> Markup:
    parts = []
    for tick in _TICKS:
        label = f"{tick * 100:g} %"
        parts.append(line(_LEFT, up(tick), _RIGHT, up(tick), kind="grid"))
        parts.append(text(_LEFT - 7, up(tick) + 4, label, anchor="end", kind="axis"))
        anchor = "end" if tick == 1 else "middle"
        parts.append(text(across(tick), _BOTTOM + 17, label, anchor=anchor, kind="axis"))
    parts.append(text(_LEFT + 8, _TOP + 14, "accuracy", kind="axis"))
    parts.append(line(_LEFT, _COUNTS_BOTTOM, _RIGHT, _COUNTS_BOTTOM, kind="rule"))
    return join(parts)
