"""Attribution maps and inputs as small images for the report."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray

LARGEST = 96
"""Pixels on the longer side: enough to see, few enough for a page with many images."""
FOR, AGAINST = np.array([0.35, 0.08, 0.0]), np.array([0.62, 0.80, 0.95])
"""Dark brown is evidence for the class, light blue against it: they differ in greyscale, too."""


def shown(pixels: NDArray[np.float64]) -> str:
    """Convert an image `[channels, height, width]` of pixels in [0, 1] to PNG in base64.

    One channel is grey, three are red, green and blue; of any other number the mean is shown.
    """
    grey = len(pixels) not in (1, 3)
    picture = pixels.mean(axis=0, keepdims=True) if grey else pixels
    return _png(np.repeat(picture, 3, axis=0) if len(picture) == 1 else picture)


def drawn(values: NDArray[np.float64]) -> str:
    """Draw a map `[height, width]` as PNG in base64: white is zero, full colour the largest value.

    Example:
        >>> drawn(np.array([[0.0, 1.0], [-1.0, 0.5]]))[:8]
        'iVBORw0K'
    """
    strength = np.abs(values).max()
    share = (values / strength if strength > 0 else values)[None]
    colour = np.where(share > 0, FOR[:, None, None], AGAINST[:, None, None])
    return _png(1 - np.abs(share) * (1 - colour))


def between(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale numbers of unknown range to [0, 1].

    Example:
        >>> between(np.array([[[-1.0, 1.0, 3.0]]]))
        array([[[0. , 0.5, 1. ]]])
    """
    low, high = pixels.min(), pixels.max()
    return (pixels - low) / (high - low) if high > low else np.zeros_like(pixels)


def _png(colours: NDArray[np.float64]) -> str:
    from PIL import Image

    bytes_ = (np.clip(colours, 0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0)
    picture = Image.fromarray(np.ascontiguousarray(bytes_))
    picture.thumbnail((LARGEST, LARGEST))
    file = io.BytesIO()
    picture.save(file, format="PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()
