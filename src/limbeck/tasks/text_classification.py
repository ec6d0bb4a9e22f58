"""Text classification: an element is a text; padding is masked."""

from __future__ import annotations

from limbeck.tasks._per_sample import PerSample


class TextClassification(PerSample):
    """Classification of texts, with a transformers model whose head reads `[CLS]`.

    Args:
        classes: The names of the classes.
    """

    name = "text_classification"
    inputs = ("input_ids", "attention_mask")
