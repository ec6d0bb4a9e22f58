"""Ordinal classification of texts: an element is a text."""

from __future__ import annotations

from limbeck.tasks._base import TEXT_INPUTS
from limbeck.tasks._ordinal import Ordinal


class TextOrdinal(Ordinal):
    """Classification of texts by classes in an order."""

    name = "text_ordinal"
    inputs = TEXT_INPUTS
