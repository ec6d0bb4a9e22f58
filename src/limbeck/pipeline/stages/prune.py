"""Pruning stage: removes weights, channels, heads or layers."""

from __future__ import annotations

from typing import ClassVar

from limbeck.compress.pruners import PRUNERS
from limbeck.core.registry import Registry
from limbeck.pipeline.compression import Compression


class Prune(Compression):
    """Pruning of single weights by masks, or of whole channels, heads and layers."""

    registry: ClassVar[Registry] = PRUNERS
    verb: ClassVar[str] = "pruned"

    method: str = "magnitude"
