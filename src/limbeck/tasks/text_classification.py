"""One text, one class: a unit is a text, and padding never reaches it."""

from __future__ import annotations

from limbeck.tasks._per_sample import PerSample


class TextClassification(PerSample):
    """Say which class a text belongs to, with a transformers model whose head reads `[CLS]`.

    Args:
        classes: The names of the classes.
    """

    name = "text_classification"
    inputs = ("input_ids", "attention_mask")
