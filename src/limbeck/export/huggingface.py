"""A transformers model as the folder that `from_pretrained` reads."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from torch import nn

from limbeck.atomic import WriteError
from limbeck.errors import InputError, Problem
from limbeck.export.quiet import quiet
from limbeck.optional import require


def to_folder(model: nn.Module, path: Path, *, tokenizer: Any = None) -> None:
    """Write a transformers model as a Hugging Face folder.

    The folder holds `config.json`, `model.safetensors` and, if there is one, the tokenizer. It is
    made beside its place first and moved there when it is complete.

    Args:
        model: A transformers model.
        path: The folder; what stood there is replaced.
        tokenizer: A transformers tokenizer to put beside the model.

    Raises:
        InputError: transformers is not installed, or the model is not one of its models.
        WriteError: The folder cannot be written to.
    """
    transformers = require("transformers", extra="text")
    if not isinstance(model, transformers.PreTrainedModel):
        raise InputError(
            Problem(
                "export",
                given=type(model).__name__,
                allowed="a transformers model, for the Hugging Face folder",
                fix="Export ONNX or safetensors instead.",
            )
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as near:
            made = Path(near) / "folder"
            with quiet():
                model.save_pretrained(made, safe_serialization=True)
                if tokenizer is not None:
                    tokenizer.save_pretrained(made)
            _take_place(made, path)
    except OSError as error:
        raise WriteError(f"{path}: could not be written ({error.strerror or error}).") from error


def _take_place(made: Path, path: Path) -> None:
    # A folder cannot replace a filled one in one step: the old one steps aside within the temporary
    # folder.
    if path.exists():
        path.rename(made.parent / "old")
    os.replace(made, path)
    shutil.rmtree(made.parent / "old", ignore_errors=True)
