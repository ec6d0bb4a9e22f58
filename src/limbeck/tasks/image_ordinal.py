"""Ordinal classification of images: an element is an image."""

from __future__ import annotations

from limbeck.tasks._base import IMAGE_INPUTS
from limbeck.tasks._ordinal import Ordinal


class ImageOrdinal(Ordinal):
    """Classification of images by classes in an order."""

    name = "image_ordinal"
    inputs = IMAGE_INPUTS
