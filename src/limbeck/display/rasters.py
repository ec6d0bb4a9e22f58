"""Images of illustrations: masks, and images with boxes, each with its text alternative."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from limbeck.core.illustration import Box, Illustration, Key, Raster
from limbeck.display.svg import element, text

_WIDTH = 320.0
_LETTER, _LINE = 6.6, 13.0


def raster(shown: Raster, illustration: Illustration, keys: Mapping[str, Key]) -> Markup:
    """Draw an image; with boxes as SVG of the same proportions."""
    source = shown.source or illustration.source
    if not source:
        return Markup("")
    if shown.source or not any(one.boxes for one in illustration.rasters):
        return element(
            "img", src=source, alt=shown.text, class_="raster mask" if shown.source else "raster"
        )
    height = _WIDTH * illustration.height
    image = element("image", href=source, width=_WIDTH, height=height, preserveAspectRatio="none")
    # Scores are above the boxes, so that no box hides one.
    return element(
        "svg",
        element("title", shown.text),
        image,
        *(_box(one, height, keys) for one in shown.boxes),
        *(_score(one, height) for one in shown.boxes if one.score is not None),
        viewBox=f"0 0 {_WIDTH:g} {height:.1f}",
        role="img",
        class_="chart raster",
    )


def _edges(box: Box, height: float) -> tuple[float, float, float, float]:
    left, top, right, bottom = box.corners
    return left * _WIDTH, top * height, right * _WIDTH, bottom * height


def _box(box: Box, height: float, keys: Mapping[str, Key]) -> Markup:
    left, top, right, bottom = _edges(box, height)
    key = keys.get(box.name)
    size = {"width": max(0.0, right - left), "height": max(0.0, bottom - top)}
    tip = box.name if box.score is None else f"{box.name}, score {box.score:.2f}"
    # A dark line under the coloured one keeps it visible on any image.
    return element(
        "g",
        element("title", tip),
        element("rect", x=left, y=top, **size, class_="edge"),
        element(
            "rect",
            x=left,
            y=top,
            **size,
            fill="none",
            stroke=key.colour if key else "currentColor",
            stroke_width=2,
            stroke_dasharray=(key.dash if key else "") or None,
        ),
    )


def _score(box: Box, height: float) -> Markup:
    left, top, _, _ = _edges(box, height)
    written = f"{box.score or 0:.2f}".removeprefix("0")
    width = _LETTER * len(written) + 4
    x, y = min(left, _WIDTH - width), min(top, height - _LINE)
    plate = element("rect", x=x, y=y, width=width, height=_LINE, class_="plate")
    return element("g", plate, text(x + 2, y + 10.5, written, kind="on-image"))


def legend(keys: Sequence[Key], *, boxes: bool) -> Markup:
    """Draw a legend of classes: a colour and a name each, with the dash if they are of boxes."""
    return Markup("").join(
        element("li", _swatch(key, boxes=boxes), Markup(" "), Markup("{}").format(key.name))
        for key in keys
    )


def _swatch(key: Key, *, boxes: bool) -> Markup:
    mark = element(
        "rect",
        x=1,
        y=1,
        width=12,
        height=12,
        fill="none" if boxes else key.colour,
        stroke=key.colour if boxes else None,
        stroke_width=2 if boxes else None,
        stroke_dasharray=(key.dash or None) if boxes else None,
        class_=None if boxes else "swatch",
    )
    size = {"width": 14.0, "height": 14.0}
    return element("svg", mark, viewBox="0 0 14 14", **size, aria_hidden="true", class_="key")
