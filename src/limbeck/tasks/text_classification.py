"""One text, one class: a unit is a text, and padding never reaches it."""

from __future__ import annotations

from torch import Tensor, nn

from limbeck.tasks._per_sample import PerSample
from limbeck.tasks.task import Batch


class TextClassification(PerSample):
    """Say which class a text belongs to, with a transformers model whose head reads `[CLS]`.

    Args:
        classes: The names of the classes.
    """

    name = "text_classification"
    inputs = ("input_ids", "attention_mask")

    def outputs(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Run the model: `input_ids` and `attention_mask [n, tokens]` to `logits [n, classes]`."""
        answer = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        return {"logits": answer if isinstance(answer, Tensor) else answer.logits}
