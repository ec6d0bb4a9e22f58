"""Multi-label classification of images: an element is an image."""

from __future__ import annotations

from typing import ClassVar

from limbeck.tasks._base import IMAGE_INPUTS
from limbeck.tasks._multilabel import Multilabel


class ImageMultilabel(Multilabel):
    """Multi-label classification of images: every label is present or absent by itself."""

    name: ClassVar[str] = "image_multilabel"
    inputs = IMAGE_INPUTS
