"""The models that there are, by source."""

from __future__ import annotations

from limbeck.models.source import Source
from limbeck.models.spec import SOURCES


def sources() -> list[str]:
    """List the sources of models, without importing any.

    Example:
        >>> "timm" in sources()
        True
    """
    return SOURCES.names()


def names(source: str) -> list[str]:
    """List the models that a source knows by name; none for a source of the user's own models.

    Raises:
        InputError: There is no such source, or its library is not installed.

    Example:
        >>> "resnet20" in names("limbeck")
        True
    """
    found: Source = SOURCES.load(source)
    return found.names()
