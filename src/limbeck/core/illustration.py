"""Illustrations of a task's samples, as data: images, boxes, plots and the legend of their classes.

A task builds them, `run.json` stores them, and the report draws them, so that the report needs no
code for a task. Images are encoded within a bound, by which the size of a report is bounded.
"""

from __future__ import annotations

import base64
import colorsys
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeAlias

import numpy as np
from pydantic import Field, model_validator

from limbeck.core.measurement import Result

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

Side: TypeAlias = Literal["teacher", "student", "truth"]
"""The origin of values: one of the models, or the labels."""

MOST_BYTES = 48_000
"""The largest number of bytes of an encoded image; a larger one is halved until it fits."""

LARGEST_SIDE = 320
"""The largest height and width of an encoded image in pixels."""

LOSSLESS_SIDE = 64
"""The largest height and width of a photo that is stored without loss."""

MOST_POINTS = 2_000
"""The largest number of points of a plot."""

MOST_SHOWN = 8
"""The largest number of images, and of charts, of one sample."""

MOST_BOXES = 100
"""The largest number of boxes in an image."""

DataUrl = Annotated[
    str,
    Field(
        max_length=MOST_BYTES * 4 // 3 + 40,
        pattern=r"^(data:image/(png|jpeg);base64,[A-Za-z0-9+/]+={0,2})?$",
    ),
]
"""An encoded image, or nothing; a page loads no image from elsewhere."""

DISTINCT = (
    *("#e6194b", "#3cb44b", "#4363d8", "#ffe119", "#f58231", "#911eb4", "#42d4f4", "#f032e6"),
    *("#bfef45", "#fabed4", "#469990", "#dcbeff", "#9a6324", "#fffac8", "#800000", "#aaffc3"),
    *("#808000", "#ffd8b1", "#000075", "#a9a9a9"),
)
"""Colours of the first classes (Trubetskoy, "List of 20 simple, distinct colors")."""

DASHES = ("", "6 3", "2 2")
"""Dashes of the first classes' boxes, so that classes differ in more than colour."""

_HATCH = ("#8a8a8a", "#d4d4d4")


class Key(Result):
    """An entry of a legend: the name of a class, its colour, and the dash of its boxes."""

    name: str
    colour: Annotated[str, Field(pattern=r"^#[0-9a-f]{6}$")]
    dash: Annotated[str, Field(pattern=r"^[0-9. ]*$")] = ""


class Box(Result):
    """A box in an image.

    Attributes:
        name: The class, an entry of the legend.
        corners: Left, top, right and bottom edge, as shares of the image's width and height.
        score: The score; None for a labelled box.
    """

    name: str
    corners: tuple[float, float, float, float]
    score: float | None = None


class Raster(Result):
    """An image with its boxes.

    Attributes:
        title: What it shows: "label", "teacher: 82 % of pixels correct".
        side: The origin; None for an input.
        text: The text alternative.
        source: The image as a data URL; empty for that of the illustration.
        boxes: The boxes.
        names: The classes that occur in it, entries of the legend.
    """

    title: str
    text: str
    side: Side | None = None
    source: DataUrl = ""
    boxes: Annotated[tuple[Box, ...], Field(max_length=MOST_BOXES)] = ()
    names: tuple[str, ...] = ()


class Trace(Result):
    """Values of one origin in a plot.

    Attributes:
        name: The name in the legend.
        side: The origin.
        form: A line, a band from `y` to `high`, or points.
        x: The horizontal positions.
        y: The values; None where there is none.
        high: The upper ends of a band.
    """

    name: str
    side: Side
    form: Literal["line", "band", "points"]
    x: tuple[float, ...]
    y: tuple[float | None, ...]
    high: tuple[float | None, ...] = ()

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        lengths = {len(self.x), len(self.y), *([len(self.high)] if self.form == "band" else [])}
        if len(lengths) > 1:
            raise ValueError(f"x, y and the upper ends have {sorted(lengths)} values")
        return self


class Plot(Result):
    """A chart of values; the traces have at most `MOST_POINTS` points together.

    Attributes:
        title: The heading.
        text: The text alternative.
        across: The label of the horizontal axis.
        up: The label of the vertical axis.
        traces: The values.
        reference: The line y = x or y = 0, or none.
    """

    title: str
    text: str
    across: str
    up: str
    traces: tuple[Trace, ...]
    reference: Literal["diagonal", "zero"] | None = None

    @model_validator(mode="after")
    def _check_points(self) -> Self:
        count = sum(len(one.x) for one in self.traces)
        if count > MOST_POINTS:
            raise ValueError(f"{count} points; allowed: at most {MOST_POINTS} (see `thinned`)")
        return self


class Illustration(Result):
    """A sample as a report shows it, with labels and both models' predictions.

    Attributes:
        rasters: Images, side by side.
        plots: Charts.
        source: The image that several rasters share, as a data URL.
        height: The height of that image as a share of its width.
    """

    rasters: Annotated[tuple[Raster, ...], Field(max_length=MOST_SHOWN)] = ()
    plots: Annotated[tuple[Plot, ...], Field(max_length=MOST_SHOWN)] = ()
    source: DataUrl = ""
    height: Annotated[float, Field(gt=0, le=100)] = 1.0


def legend(names: Sequence[str]) -> tuple[Key, ...]:
    """Return the legend of classes: a colour and a dash for each, the same in every report.

    Example:
        >>> [key.colour for key in legend(("sky", "street"))]
        ['#e6194b', '#3cb44b']
    """
    return tuple(
        Key(name=name, colour=_colour(number), dash=DASHES[number % len(DASHES)])
        for number, name in enumerate(names)
    )


def _colour(number: int) -> str:
    """Return a colour of the list; further classes have hues at the golden angle."""
    if number < len(DISTINCT):
        return DISTINCT[number]
    hue, level = number * 0.618034 % 1, (0.9, 0.6)[number % 2]
    return "#" + "".join(
        f"{round(255 * part):02x}" for part in colorsys.hsv_to_rgb(hue, 0.7, level)
    )


def encode_photo(image: Image) -> str:
    """Encode an image as a data URL of at most `MOST_BYTES`, scaled down to `LARGEST_SIDE`.

    Small images are PNG, others JPEG.

    Example:
        >>> from PIL import Image
        >>> encode_photo(Image.new("L", (8, 8)))[:22]
        'data:image/png;base64,'
    """
    from PIL import Image as Images

    shown = image if image.mode in ("L", "RGB") else image.convert("RGB")
    if max(shown.size) > LARGEST_SIDE:
        shown = shown.copy()  # `thumbnail` works in place
        shown.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    while True:
        kind: Literal["PNG", "JPEG"] = "PNG" if max(shown.size) <= LOSSLESS_SIDE else "JPEG"
        content = _written(shown, kind)
        if len(content) <= MOST_BYTES:
            return _url(content, kind)
        size = (max(1, shown.width // 2), max(1, shown.height // 2))
        shown = shown.resize(size, Images.Resampling.BILINEAR)


def encode_mask(mask: NDArray[Any], keys: Sequence[Key]) -> str:
    """Encode a mask of class numbers as a data URL of a PNG in the colours of the classes.

    Args:
        mask: The class of every pixel, `[height, width]`; negative ones are ignored pixels, which
            are hatched in grey.
        keys: The legend, an entry per class.

    Example:
        >>> encode_mask(np.array([[0, 1], [1, -100]]), legend(("sky", "street")))[:22]
        'data:image/png;base64,'
    """
    from PIL import Image as Images

    colours = np.array([_rgb(key.colour) for key in keys], np.uint8).reshape(-1, 3)
    step = -(-max(mask.shape) // LARGEST_SIDE)
    while True:
        part = mask[::step, ::step]
        pixels = colours[np.clip(part, 0, len(keys) - 1)]
        rows, columns = np.indices(part.shape)
        hatch = np.array([_rgb(one) for one in _HATCH], np.uint8)[(rows + columns) % 4 // 2]
        shown = np.where((part < 0)[..., None], hatch, pixels)
        content = _written(Images.fromarray(shown), "PNG")
        if len(content) <= MOST_BYTES:
            return _url(content, "PNG")
        step *= 2


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _written(image: Image, kind: Literal["PNG", "JPEG"]) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, optimize=True)
    return buffer.getvalue()


def _url(content: bytes, kind: str) -> str:
    return f"data:image/{kind.lower()};base64,{base64.b64encode(content).decode()}"


def rounded(values: NDArray[Any]) -> tuple[float | None, ...]:
    """Return values of five digits, enough for a chart; None for NaN.

    Example:
        >>> rounded(np.array([1.2345678, np.nan]))
        (1.2346, None)
    """
    return tuple(float(f"{value:.5g}") if np.isfinite(value) else None for value in values.tolist())


def thinned(count: int, most: int) -> NDArray[np.int64]:
    """Return the positions of at most `most` of `count` values, evenly spread, the ends included.

    Example:
        >>> thinned(5, 3).tolist(), thinned(2, 3).tolist()
        ([0, 2, 4], [0, 1])
    """
    if count <= most:
        return np.arange(count)
    return np.linspace(0, count - 1, most).round().astype(np.int64)
