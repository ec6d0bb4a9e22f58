"""Checks of numbers that users give."""

from __future__ import annotations

import math
from typing import TypeGuard


def is_number(value: object) -> TypeGuard[float]:
    """Return whether a value is a finite number; a boolean is not.

    Example:
        >>> is_number(3), is_number(True), is_number(float("nan"))
        (True, False, False)
    """
    # A tuple, since torch 2.9 cannot compile a union.
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_positive(value: object) -> TypeGuard[float]:
    """Return whether a value is a finite number above 0.

    Example:
        >>> is_positive(0.5), is_positive(0), is_positive("4")
        (True, False, False)
    """
    return is_number(value) and value > 0


def is_whole(value: object, *, least: int) -> TypeGuard[int]:
    """Return whether a value is an integer of at least `least`.

    Example:
        >>> is_whole(1, least=1), is_whole(0, least=1), is_whole(2.0, least=1)
        (True, False, False)
    """
    return is_number(value) and isinstance(value, int) and value >= least
