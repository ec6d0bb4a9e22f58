"""Forward hooks (taps): capture of submodule inputs and outputs, by path.

They work on any module, without subclassing or changes of its code.
"""

from __future__ import annotations

from limbeck.taps.capture import Taps
from limbeck.taps.hooks import first_tensor
from limbeck.taps.listing import Layer, list_paths
from limbeck.taps.paths import expand, is_pattern, select

__all__ = ["Layer", "Taps", "expand", "first_tensor", "is_pattern", "list_paths", "select"]
