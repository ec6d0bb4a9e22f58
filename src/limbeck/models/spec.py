"""What a recipe says about a model."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from limbeck.errors import did_you_mean
from limbeck.registry import Registry

SOURCES = Registry("limbeck.models.sources", kind="model.source", attribute="source")


def _known_source(name: str) -> str:
    allowed = SOURCES.names()
    if name not in allowed:
        raise ValueError(f"allowed: {', '.join(allowed)}. {did_you_mean(name, allowed)}".strip())
    return name


class ModelSpec(BaseModel):
    """The `teacher` or `student` part of a recipe; keys of its own are the model's arguments.

    Attributes:
        source: Where the model comes from: a file in `limbeck/models/sources`.
        name: The model's name there; for `python`, `module:callable` or `file.py:callable`.
        path: For `transformers`: a local folder to load instead of a name.
        weights: A safetensors file, or a folder that holds model.safetensors, to begin from.

    Example:
        >>> ModelSpec(source="limbeck", name="digits_cnn", width=64).arguments
        {'width': 64}
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    source: Annotated[
        str, AfterValidator(_known_source), Field(json_schema_extra={"enum": [*SOURCES.names()]})
    ]
    name: str = ""
    path: str | None = None
    weights: str | None = None

    @model_validator(mode="after")
    def _named(self) -> Self:
        if self.path is not None and self.source != "transformers":
            raise ValueError("path is given; allowed: with source: transformers only")
        if not self.name and self.path is None:
            raise ValueError(f"name is missing; {self.source} needs it")
        if self.path is not None and (self.name or self.arguments):
            raise ValueError("path and a name or arguments are given; allowed: one of them")
        return self

    @property
    def arguments(self) -> dict[str, Any]:
        """The model's own arguments."""
        return dict(self.model_extra or {})
