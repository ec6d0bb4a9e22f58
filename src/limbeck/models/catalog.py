"""The available models, by source."""

from __future__ import annotations

from limbeck.models.source import Source
from limbeck.models.spec import SOURCES


def sources() -> list[str]:
    """Return the sources of models, without importing any.

    Example:
        >>> "timm" in sources()
        True
    """
    return SOURCES.names()


def names(source: str) -> list[str]:
    """Return the model names of a source; none for a source of the user's own models.

    Raises:
        InputError: The source is unknown, or its library is not installed.

    Example:
        >>> "resnet20" in names("limbeck")
        True
    """
    found: Source = SOURCES.load(source)
    return found.names()
