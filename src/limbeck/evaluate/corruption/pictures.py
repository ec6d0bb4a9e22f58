"""Image corruptions: five kinds at five severities, seeded and within the pixel range."""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
import scipy
from numpy.typing import NDArray

from limbeck.errors import InputError, Problem, check_choice

Array = NDArray[np.float64]
Corruption = Callable[[Array, int, np.random.Generator], Array]

NOISE = (0.04, 0.08, 0.12, 0.18, 0.26)
"""Standard deviation of Gaussian noise, for pixels in [0, 1]."""
BLUR = (0.4, 0.7, 1.0, 1.4, 2.0)
"""Standard deviation of a Gaussian blur, in pixels of an image whose shorter side is 32."""
CONTRAST = (0.75, 0.5, 0.4, 0.3, 0.15)
"""Factor of each pixel's distance from its channel's mean."""
OCCLUSION = (0.15, 0.25, 0.35, 0.45, 0.55)
"""Side of a grey square, as a share of the image's."""
JPEG = (50, 30, 18, 10, 5)
"""JPEG quality."""
SEVERITIES = (1, 2, 3, 4, 5)


def corrupt_pictures(
    pictures: NDArray[np.float32], kind: str, *, severity: int, seed: int = 0
) -> NDArray[np.float32]:
    """Apply a corruption to images, reproducibly by the seed.

    Random draws do not depend on the severity, so that a higher severity is a stronger version of
    the same corruption: the same noise scaled up, a larger square at the same position.

    Args:
        pictures: Pixels in [0, 1], `[n, channels, height, width]`, any number of channels.
        kind: One of `PICTURES`.
        severity: From 0 (no change) to 5.
        seed: Seed of noise and positions.

    Raises:
        InputError: The kind or the severity does not exist.

    Example:
        >>> black = np.zeros((1, 1, 8, 8), dtype=np.float32)
        >>> float(corrupt_pictures(black, "occlusion", severity=5).max())
        0.5

    Source: Hendrycks & Dietterich, ICLR 2019 (arXiv:1903.12261); the severities are limbeck's own.
    """
    check_choice(kind, tuple(PICTURES), where="kind")
    check_severity(severity)
    if severity == 0:
        return pictures.copy()
    random = np.random.default_rng([seed, list(PICTURES).index(kind)])
    worse = PICTURES[kind](pictures.astype(np.float64), severity - 1, random)
    return np.clip(worse, 0, 1).astype(np.float32)


def check_severity(severity: int) -> None:
    """Check that a severity is one of 0 to 5.

    Raises:
        InputError: It is not.
    """
    if severity not in (0, *SEVERITIES):
        raise InputError(Problem("severity", severity, "a whole number from 0 to 5"))


def _noise(pictures: Array, level: int, random: np.random.Generator) -> Array:
    return pictures + NOISE[level] * random.normal(size=pictures.shape)


def _blur(pictures: Array, level: int, _: np.random.Generator) -> Array:
    sigma = BLUR[level] * min(pictures.shape[2:]) / 32
    return scipy.ndimage.gaussian_filter(pictures, sigma=(0, 0, sigma, sigma), mode="nearest")


def _contrast(pictures: Array, level: int, _: np.random.Generator) -> Array:
    mean = pictures.mean(axis=(2, 3), keepdims=True)
    return mean + CONTRAST[level] * (pictures - mean)


def _occlusion(pictures: Array, level: int, random: np.random.Generator) -> Array:
    height, width = pictures.shape[2:]
    worse = pictures.copy()
    for picture, (row, column) in zip(worse, random.random((len(worse), 2)), strict=True):
        rows = _span(row, height, OCCLUSION[level])
        picture[:, rows, _span(column, width, OCCLUSION[level])] = 0.5
    return worse


def _span(centre: float, length: int, share: float) -> slice:
    """Return the pixel range of the square's side; a larger share's contains a smaller one's."""
    size = max(1, round(share * length))
    first = math.floor(centre * length) - size // 2
    return slice(max(first, 0), min(first + size, length))


def _jpeg(pictures: Array, level: int, _: np.random.Generator) -> Array:
    pixels = np.round(pictures * 255).astype(np.uint8)
    if pictures.shape[1] == 3:
        through = [_through_jpeg(one.transpose(1, 2, 0), level) for one in pixels]
        return np.stack(through).transpose(0, 3, 1, 2) / 255
    # Other than RGB, each channel is compressed separately.
    return np.stack([[_through_jpeg(one, level) for one in channels] for channels in pixels]) / 255


def _through_jpeg(pixels: NDArray[np.uint8], level: int) -> NDArray[np.uint8]:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, format="JPEG", quality=JPEG[level])
    with Image.open(file) as image:
        return np.asarray(image)


PICTURES: dict[str, Corruption] = {
    "gaussian noise": _noise,
    "blur": _blur,
    "contrast": _contrast,
    "occlusion": _occlusion,
    "jpeg": _jpeg,
}
"""The kinds, by name."""
