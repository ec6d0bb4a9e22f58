"""Code snippets of the model card that use a student, with limbeck and without it."""

from __future__ import annotations

from limbeck.data.modality import MODALITIES
from limbeck.report.template import render


def usage(task: str, modality: str) -> str:
    """Return the snippets of a task as Markdown: limbeck's command, the ONNX file, the weights.

    Args:
        task: The task's name; its file states how outputs are read.
        modality: The modality of its data; its file states how an input is prepared.

    Example:
        >>> "tokenizer.json" in usage("text_classification", "text")
        True
    """
    from limbeck.tasks import TASKS  # torch is not needed to report a run

    code, kind = MODALITIES.load(modality).usage, TASKS.load(task)
    reading, restoring = kind.reading, kind.restoring
    return render("usage.md.jinja", code=code, reading=reading, restoring=restoring).strip()


def loading_code(task: str, modality: str) -> str:
    """Return the code of the card that builds the model from its weights and predicts with it.

    It expects the prepared inputs under the names of the first snippet, and defines `logits` or
    `outputs`.

    Example:
        >>> "load_model" in loading_code("image_classification", "image")
        True
    """
    return usage(task, modality).split("```python\n")[-1].split("```")[0]
