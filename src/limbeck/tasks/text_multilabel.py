"""Multi-label classification of texts: an element is a text."""

from __future__ import annotations

from typing import ClassVar

from limbeck.tasks._multilabel import Multilabel


class TextMultilabel(Multilabel):
    """Multi-label classification of texts: every label is present or absent by itself."""

    name: ClassVar[str] = "text_multilabel"
    inputs: ClassVar[tuple[str, ...]] = ("input_ids", "attention_mask")
