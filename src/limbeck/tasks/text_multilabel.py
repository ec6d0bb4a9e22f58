"""Multi-label classification of texts: an element is a text."""

from __future__ import annotations

from typing import ClassVar

from limbeck.tasks._base import TEXT_INPUTS
from limbeck.tasks._multilabel import Multilabel


class TextMultilabel(Multilabel):
    """Multi-label classification of texts: every label is present or absent by itself."""

    name: ClassVar[str] = "text_multilabel"
    inputs = TEXT_INPUTS
