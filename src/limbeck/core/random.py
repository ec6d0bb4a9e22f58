"""Random numbers keyed by sample: equal for equal keys, in any batch, order or process.

Both generators hash their keys with the finaliser of SplitMix64: `random_bits` in numpy, for data
loaders, and `keyed_uniform` in torch, on the device of the keys.

Source: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators".
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

GOLDEN, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
"""The constants of SplitMix64."""

S27, S30, S31, S32 = (np.uint64(shift) for shift in (27, 30, 31, 32))
MASK, MANTISSA = 2**64 - 1, 53


def random_bits(*words: int, index: ArrayLike) -> NDArray[np.uint64]:
    """Draw 64 random bits for each sample.

    Args:
        words: The purpose of the numbers: a seed, a view, the index of the draw.
        index: The sample indices, `[n]`.

    Example:
        >>> all_at_once = random_bits(0, 7, index=[3, 4, 5])
        >>> bool(all_at_once[2] == random_bits(0, 7, index=[5])[0])
        True
    """
    return _mix((_state(words) ^ np.asarray(index, dtype=np.uint64)) + np.uint64(GOLDEN))


def seed_all(*words: int) -> None:
    """Set the seeds of torch, numpy and Python by a hash of some numbers."""
    [bits] = random_bits(*words, index=[0]).tolist()
    torch.manual_seed(bits >> 1)
    np.random.seed(bits % 2**32)
    random.seed(bits)


@contextmanager
def seeded(*words: int) -> Iterator[None]:
    """Run a block with seeds of its own, and restore the random states of the program after it.

    Args:
        words: The purpose of the numbers, as for `random_bits`.

    Example:
        >>> with seeded(0, 7):
        ...     first = torch.rand(1)
        >>> with seeded(0, 7):
        ...     print(bool(torch.rand(1) == first))
        True
    """
    states = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=devices):
        seed_all(*words)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


def below(bound: int, bits: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Convert the upper 32 random bits to integers in [0, bound), uniform up to one in 2**32.

    Example:
        >>> bool(below(3, random_bits(1, index=range(8))).max() <= 2)
        True
    """
    return (((bits >> S32) * np.uint64(bound)) >> S32).astype(np.int64)


# All batches of an epoch share their words.
@lru_cache(maxsize=64)
def _state(words: tuple[int, ...]) -> NDArray[np.uint64]:
    state = np.zeros(1, dtype=np.uint64)
    for word in words:
        state = _mix((state ^ np.uint64(word & MASK)) + np.uint64(GOLDEN))
    return state


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits = (bits ^ (bits >> S30)) * np.uint64(FIRST)
    bits = (bits ^ (bits >> S27)) * np.uint64(SECOND)
    return bits ^ (bits >> S31)


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
    """
    golden = _signed(GOLDEN)
    state = torch.full((len(keys),), seed, dtype=torch.long, device=keys.device)
    for part in keys.long().unbind(1):
        state = _mix_tensor(state + golden) ^ part
    state = _mix_tensor(state + golden)
    steps = torch.arange(1, draws + 1, device=keys.device) * golden
    bits = _mix_tensor(state.unsqueeze(1) + steps)
    return _shifted(bits, 64 - MANTISSA).double() * 2.0**-MANTISSA


def _mix_tensor(state: Tensor) -> Tensor:
    """Compute `_mix` of signed integers, the only 64-bit ones that torch multiplies everywhere."""
    state = (state ^ _shifted(state, 30)) * _signed(FIRST)
    state = (state ^ _shifted(state, 27)) * _signed(SECOND)
    return state ^ _shifted(state, 31)


def _signed(constant: int) -> int:
    """Return the signed 64-bit integer of the same bits, whose products wrap."""
    return constant - 2**64


def _shifted(state: Tensor, bits: int) -> Tensor:
    """Shift right, filling with zeros: torch's shift of signed integers repeats the sign."""
    return (state >> bits) & ((1 << (64 - bits)) - 1)
