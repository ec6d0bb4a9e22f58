"""Text classification: an element is a text; padding is masked."""

from __future__ import annotations

from limbeck.tasks._base import TEXT_INPUTS
from limbeck.tasks._classification import Classification


class TextClassification(Classification):
    """Classification of texts, with a transformers model whose head reads `[CLS]`."""

    name = "text_classification"
    inputs = TEXT_INPUTS
