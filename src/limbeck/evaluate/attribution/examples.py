"""Example samples with the attribution maps of both models, for the report."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray

from limbeck.core.measurement import Result

Array = NDArray[np.float64]
LARGEST = 96
"""Pixels on the longer side of an image in the report."""

FOR, AGAINST = np.array([0.35, 0.08, 0.0]), np.array([0.62, 0.80, 0.95])
"""Dark brown is evidence for the class, light blue against it: they differ in greyscale, too."""


class Example(Result):
    """A sample whose prediction is explained.

    Attributes:
        row: The index of the test sample.
        label: The label.
        explained: The class that the maps explain.
        cosine: The cosine similarity of the two maps, if there are two.
    """

    row: int
    label: str
    explained: str
    cosine: float | None


class ImageExample(Example):
    """An image and its maps as PNG in base64: dark is evidence for the class, blue against it.

    Attributes:
        image: The image.
        student: The student's map.
        teacher: The teacher's.
    """

    image: str
    student: str
    teacher: str | None


class TextExample(Example):
    """A text's tokens, and the attribution of each to the class, in logits.

    Attributes:
        tokens: The words, or token ids where no word is known.
        student: The student's attribution of each token.
        teacher: The same of the teacher.
    """

    tokens: tuple[str, ...]
    student: tuple[float, ...]
    teacher: tuple[float, ...] | None


def shown(pixels: Array) -> str:
    """Convert an image `[channels, height, width]` of pixels in [0, 1] to PNG in base64.

    One channel is grey, three are red, green and blue; of any other number the mean is shown.
    """
    image = pixels if len(pixels) in (1, 3) else pixels.mean(axis=0, keepdims=True)
    return _png(np.repeat(image, 3, axis=0) if len(image) == 1 else image)


def drawn(values: Array) -> str:
    """Draw a map `[height, width]` as PNG in base64: white is zero, full colour the largest value.

    Example:
        >>> drawn(np.array([[0.0, 1.0], [-1.0, 0.5]]))[:8]
        'iVBORw0K'
    """
    largest = np.abs(values).max()
    share = (values / largest if largest > 0 else values)[None]
    colour = np.where(share > 0, FOR[:, None, None], AGAINST[:, None, None])
    return _png(1 - np.abs(share) * (1 - colour))


def between(pixels: Array) -> Array:
    """Scale numbers of unknown range to [0, 1].

    Example:
        >>> between(np.array([[[-1.0, 1.0, 3.0]]]))
        array([[[0. , 0.5, 1. ]]])
    """
    low, high = pixels.min(), pixels.max()
    return (pixels - low) / (high - low) if high > low else np.zeros_like(pixels)


def _png(colours: Array) -> str:
    from PIL import Image

    values = (np.clip(colours, 0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0)
    image = Image.fromarray(np.ascontiguousarray(values))
    image.thumbnail((LARGEST, LARGEST))
    file = io.BytesIO()
    image.save(file, format="PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()
