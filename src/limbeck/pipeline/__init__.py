"""Recipe execution: from a recipe to an exported student."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from limbeck.pipeline.schema import recipe_schema

__all__ = ["recipe_schema"]


def __getattr__(name: str) -> Any:
    """Import a name lazily: the schema needs every stage, and a stage needs torch."""
    if name not in __all__:
        raise AttributeError(f"module 'limbeck.pipeline' has no attribute {name!r}")
    from limbeck.pipeline.schema import recipe_schema

    return recipe_schema
