"""The source text of an architecture.py, which rebuilds a student's module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def with_build(text: str, callee: str, arguments: Mapping[str, Any], *positional: Any) -> str:
    """Add `build()`, which calls a function that the text defines or imports.

    The callee is aliased first, so that it may itself be named `build`.

    Example:
        >>> print(with_build("from torch import nn", "nn.Linear", {"bias": False}, 2, 1))
        from torch import nn
        <BLANKLINE>
        <BLANKLINE>
        _builder = nn.Linear
        <BLANKLINE>
        <BLANKLINE>
        def build():
            "Make the module as it was trained; its weights are in model.safetensors."
            return _builder(2, 1, bias=False)
        <BLANKLINE>
    """
    parts = [repr(value) for value in positional]
    parts += [f"{name}={value!r}" for name, value in arguments.items()]
    return f"""{text.rstrip()}


_builder = {callee}


def build():
    "Make the module as it was trained; its weights are in model.safetensors."
    return _builder({", ".join(parts)})
"""
