"""Prune: take weights, channels, heads or layers out."""

from __future__ import annotations

from typing import ClassVar

from limbeck.compress.pruners import PRUNERS
from limbeck.pipeline.compression import Compression
from limbeck.registry import Registry


class Prune(Compression):
    """Take out what counts least: single weights by masks, or whole channels, heads and layers."""

    registry: ClassVar[Registry] = PRUNERS
    verb: ClassVar[str] = "pruned"

    method: str = "magnitude"
