"""Encoded images that differ in size, mode and orientation."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image


def encode(image: Image.Image, kind: str = "PNG", **more: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **more)
    return file.getvalue()


def random_image(seed: int) -> bytes:
    """Return an encoded image whose size, mode and orientation differ with the seed."""
    size = (9 + seed % 5, 8 + seed % 3)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 4), np.uint8)
    mode = ("RGB", "L", "RGBA", "P", "CMYK", "LA", "1")[seed % 7]
    exif = Image.Exif()
    exif[0x0112] = 1 + seed % 8
    image = Image.fromarray(pixels[..., :3]).convert(mode)
    return encode(image, *(("JPEG",) if mode == "CMYK" else ()), exif=exif)
