"""SVG elements as escaped markup, and the marks shared by all charts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
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


def svg_image(
    *parts: Markup, height: float, title: str, description: str, width: float = WIDTH
) -> Markup:
    """Write the parts as a scalable SVG image with its accessible title and description."""
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
    box = {"x": x - half, "y": y - half, "width": 2 * half, "height": 2 * half, "rx": 1.0}
    return element("rect", *children, **box, transform=turn, class_=kind)


LETTER = 0.55
"""Estimated width of a letter, as a share of the font size."""


def shorten(content: str, width: float, size: float = 12.0) -> str:
    """Truncate a label to a width in SVG units, estimated from the font size.

    Example:
        >>> shorten("quantised to int8 by ONNX Runtime", 90)
        'quantised to…'
    """
    letters = max(1, math.floor(width / (size * LETTER)))
    return content if len(content) <= letters else content[: letters - 1].rstrip() + "…"


@dataclass(frozen=True)
class Scale:
    """A linear or logarithmic map from numbers (`low`–`high`) to coordinates (`start`–`end`).

    Example:
        >>> scale = Scale(1, 100, start=0, end=200, log=True)
        >>> scale(10), scale.ticks()
        (100.0, (1.0, 10.0, 100.0))
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the coordinate of a number, clamped to the range."""
        value = min(max(value, self.low), self.high)
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, count: int = 4) -> tuple[float, ...]:
        """Return round numbers within the scale, about `count` of them."""
        return _decades(self.low, self.high) if self.log else _steps(self.low, self.high, count)


def _steps(low: float, high: float, count: int) -> tuple[float, ...]:
    """Return multiples of 1, 2, 2.5 or 5 times a power of ten."""
    rough = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * unit for unit in (1, 2, 2.5, 5, 10) if power * unit >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    if last <= first and count < 64:
        return _steps(low, high, count * 2)
    return tuple(round(step * i, 12) for i in range(first, last + 1))


def _decades(low: float, high: float) -> tuple[float, ...]:
    """Return powers of ten; if fewer than three, the twos and fives between them as well."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for units in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0)):
        ticks = (unit * 10.0**exponent for exponent in exponents for unit in units)
        within = tuple(tick for tick in ticks if low * 0.999 <= tick <= high * 1.001)
        if len(within) >= 3:
            return within[:: math.ceil(len(within) / 6)]
    return within if len(within) > 1 else _steps(low, high, 3)


def axes(
    x: Scale,
    y: Scale,
    x_ticks: Iterable[float],
    *,
    x_format: Callable[[float], str],
    y_format: Callable[[float], str],
    x_label: str,
) -> Markup:
    """Draw the axes of a plot over the whole range of its scales, with horizontal grid lines."""
    left, right, bottom = x.start, x.end, y.start
    parts = []
    for tick in y.ticks():
        parts.append(line(left, y(tick), right, y(tick), kind="grid"))
        parts.append(text(left - 7, y(tick) + 4, y_format(tick), anchor="end", kind="axis"))
    for tick in x_ticks:
        label = x_format(tick)
        anchor = "end" if x(tick) + 3.2 * len(label) > WIDTH else "middle"
        parts.append(line(x(tick), bottom, x(tick), bottom + 4, kind="rule"))
        parts.append(text(x(tick), bottom + 17, label, anchor=anchor, kind="axis"))
    parts.append(line(left, bottom, right, bottom, kind="rule"))
    parts.append(text(right, bottom + 33, x_label, anchor="end", kind="axis"))
    return join(parts)


def whisker(interval: Iterable[float], scale: Scale, y: float) -> Markup:
    """Draw an interval as a horizontal line with a stroke at both ends."""
    low, high = (scale(end) for end in interval)
    ends = [line(end, y - 4, end, y + 4, kind="whisker") for end in (low, high)]
    return join([line(low, y, high, y, kind="whisker"), *ends])


def finite(values: Iterable[float | None]) -> list[float]:
    """Return the finite values."""
    return [value for value in values if value is not None and math.isfinite(value)]


def zoomed(
    values: Iterable[float | None], *, margin: float = 0.12, least: float = 1e-9
) -> tuple[float, float]:
    """Return a range that holds all values with a margin around them; never empty.

    Equal values get 5 % of their size on both sides, zeros 0.05.

    Example:
        >>> zoomed([0.90, 0.98], margin=0.25)
        (0.88, 1.0)
    """
    known = finite(values) or [0.0, 1.0]
    low, high = min(known), max(known)
    space = max((high - low) * margin, least, 0.05 * (abs(high) or 1.0) if high == low else 0.0)
    return round(low - space, 12), round(high + space, 12)


def from_zero(values: Iterable[float | None], *, margin: float = 0.06) -> tuple[float, float]:
    """Return the range from zero to somewhat above the largest value."""
    top = max(finite(values), default=1.0)
    return 0.0, top * (1 + margin) if top > 0 else 1.0


def decades(values: Iterable[float | None], *, margin: float = 1.35) -> tuple[float, float]:
    """Return the range of a logarithmic scale, from below the smallest to above the largest."""
    known = [value for value in finite(values) if value > 0] or [1.0, 10.0]
    # The axis spans at least a factor of 4, so that a change of a few per cent looks small.
    widen = max(1.0, (4.0 / (margin**2 * max(known) / min(known))) ** 0.5)
    return min(known) / margin / widen, max(known) * margin * widen
