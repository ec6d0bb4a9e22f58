"""Selections of elements."""

from typing import TypeAlias

from torch import Tensor

Rows: TypeAlias = slice | Tensor
"""Which units: a slice, or their numbers `[chosen]`."""
