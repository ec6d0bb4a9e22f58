"""Random numbers keyed by sample: equal for equal keys, in any batch, order or process."""

from __future__ import annotations

import torch
from torch import Tensor

# The constants of SplitMix64, as signed 64-bit integers, whose products wrap.
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_FIRST = 0xBF58476D1CE4E5B9 - 2**64
_SECOND = 0x94D049BB133111EB - 2**64
_MANTISSA = 53


def keyed_uniform(keys: Tensor, draws: int, *, seed: int = 0) -> Tensor:
    """Draw uniform numbers in [0, 1) by a hash of keys, float64 `[rows, draws]`.

    Args:
        keys: The key of each row, integers `[rows, parts]`, such as sample, view and position.
        draws: The number of draws per row.
        seed: Selects another stream for the same keys.

    Example:
        >>> both = keyed_uniform(torch.tensor([[3, 0], [5, 1]]), 2)
        >>> torch.equal(both[1:], keyed_uniform(torch.tensor([[5, 1]]), 2))
        True

    Source: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators".
    """
    state = torch.full((len(keys),), seed, dtype=torch.long, device=keys.device)
    for part in keys.long().unbind(1):
        state = _mix(state + _GOLDEN) ^ part
    state = _mix(state + _GOLDEN)
    steps = torch.arange(1, draws + 1, device=keys.device) * _GOLDEN
    bits = _mix(state.unsqueeze(1) + steps)
    return _shifted(bits, 64 - _MANTISSA).double() * 2.0**-_MANTISSA


def _mix(state: Tensor) -> Tensor:
    state = (state ^ _shifted(state, 30)) * _FIRST
    state = (state ^ _shifted(state, 27)) * _SECOND
    return state ^ _shifted(state, 31)


def _shifted(state: Tensor, bits: int) -> Tensor:
    """Shift right, filling with zeros: torch's shift of signed integers repeats the sign."""
    return (state >> bits) & ((1 << (64 - bits)) - 1)
