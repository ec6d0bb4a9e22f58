"""Exported models as files, and a common prediction interface for torch and ONNX.

The package is callable: `limbeck.export(model, example, folder)` exports a plain module.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


class _Package(ModuleType):
    """A package that can be called: `export` names both it and the function."""

    def __call__(self, *arguments: Any, **settings: Any) -> Path:
        """Export a plain module; see `limbeck.export.module.export`."""
        from limbeck.export.module import export

        return export(*arguments, **settings)


sys.modules[__name__].__class__ = _Package
