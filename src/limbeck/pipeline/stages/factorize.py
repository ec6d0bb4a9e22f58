"""Low-rank factorisation stage."""

from __future__ import annotations

from typing import ClassVar

from limbeck.compress.factorizers import FACTORIZERS
from limbeck.core.registry import Registry
from limbeck.pipeline.compression import Compression


class Factorize(Compression):
    """Low-rank factorisation: replaces layers by two of low rank each, where that is smaller."""

    registry: ClassVar[Registry] = FACTORIZERS
    verb: ClassVar[str] = "factorised"

    method: str = "svd"
