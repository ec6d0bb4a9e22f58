"""Listen to what a module's parts take in and put out, by their paths.

Works on any module: nothing is subclassed and nothing of the model's code is touched.
"""

from __future__ import annotations

from limbeck.taps.capture import Taps
from limbeck.taps.listing import Layer, list_paths
from limbeck.taps.paths import expand, is_pattern, select
from limbeck.taps.record import first_tensor

__all__ = ["Layer", "Taps", "expand", "first_tensor", "is_pattern", "list_paths", "select"]
