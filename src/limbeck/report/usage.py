"""Code snippets of the model card that use a student, with limbeck and without it."""

from __future__ import annotations

from limbeck.data.columns import NO_NUMBER
from limbeck.report.template import render


def usage(task: str) -> str:
    """Return the snippets of a task as Markdown: limbeck's command, the ONNX file, the weights.

    Example:
        >>> "tokenizer.json" in usage("text_classification")
        True
    """
    kind, missing = task.split("_")[0], sorted(NO_NUMBER)
    real, several = task.endswith("_regression"), task.endswith("_multilabel")
    content = {"kind": kind, "real": real, "several": several, "missing": missing}
    return render("usage.md.jinja", **content).strip()


def loading_code(task: str) -> str:
    """Return the code of the card that builds the model from its weights and predicts with it.

    It expects the prepared inputs under the names of the first snippet, and defines `logits` or
    `outputs`.

    Example:
        >>> "load_model" in loading_code("image_classification")
        True
    """
    return usage(task).split("```python\n")[-1].split("```")[0]
