"""SVG elements as escaped markup, and the marks shared by all charts."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

from markupsafe import Markup, escape

Role = Literal["teacher", "student", "baseline"]
Attribute = str | float | None

WIDTH = 360.0
DASHES: dict[Role, str | None] = {"teacher": "7 4", "student": None, "baseline": "1.5 4"}


def element(name: str, *children: str, **attributes: Attribute) -> Markup:
    """Write one element; text and attributes are escaped, markup is not escaped twice.

    In attribute names `_` becomes `-`; a trailing `_` is dropped, for Python's keywords.

    Example:
        >>> print(element("text", "<script>", class_="t", x=1.50, stroke_width=2, fill=None))
        <text class="t" x="1.5" stroke-width="2">&lt;script&gt;</text>
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_attribute(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    inner = Markup("").join(children)
    return Markup(f"<{name}{written}>{inner}</{name}>" if inner else f"<{name}{written}/>")


def _attribute(value: str | float) -> str:
    """Write a number with at most two decimals, which is finer than a pixel."""
    return value if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")


def join(parts: Iterable[Markup]) -> Markup:
    """Concatenate markup."""
    return Markup("").join(parts)


def picture(
    *parts: Markup, height: float, title: str, description: str, width: float = WIDTH
) -> Markup:
    """Write the parts as a scalable SVG picture with its accessible title and description."""
    return element(
        "svg",
        element("title", title),
        element("desc", description),
        *parts,
        viewBox=f"0 0 {_attribute(width)} {_attribute(height)}",
        role="img",
        class_="chart",
    )


def text(x: float, y: float, content: str, *, anchor: str | None = None, kind: str = "") -> Markup:
    """Draw a label; `kind` is a CSS class such as `muted` or `strong`."""
    return element("text", content, x=x, y=y, text_anchor=anchor, class_=f"t {kind}".rstrip())


def line(
    x1: float, y1: float, x2: float, y2: float, *, kind: str = "rule", dash: str | None = None
) -> Markup:
    """Draw a straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind, stroke_dasharray=dash)


def marker(
    role: Role, x: float, y: float, *, radius: float = 5.5, kind: str = "mark", tip: str = ""
) -> Markup:
    """Draw the mark of a role: teacher square, student circle, baseline diamond."""
    children = (element("title", tip),) if tip else ()
    if role == "student":
        return element("circle", *children, cx=x, cy=y, r=radius, class_=kind)
    half = radius * (0.92 if role == "teacher" else 0.95)
    turn = f"rotate(45 {_attribute(x)} {_attribute(y)})" if role == "baseline" else None
    return element(
        "rect",
        *children,
        x=x - half,
        y=y - half,
        width=2 * half,
        height=2 * half,
        rx=1.0,
        transform=turn,
        class_=kind,
    )


def shorten(content: str, room: float, size: float = 12.0) -> str:
    """Truncate a label to a width in units, from an estimate of a letter's width.

    Example:
        >>> shorten("quantised to int8 by ONNX Runtime", 90)
        'quantised to…'
    """
    letters = max(1, math.floor(room / (size * 0.55)))
    return content if len(content) <= letters else content[: letters - 1].rstrip() + "…"
