"""Counter-based random numbers: a function of their purpose, not of the order of the draws.

The numbers of a generator depend on all earlier draws. Here the bits of sample i are a hash of i
and of words such as a seed and a view: the same in any batch, order, process and resumed run.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
FIRST, SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
S27, S30, S31, S32 = (np.uint64(shift) for shift in (27, 30, 31, 32))
MASK = 2**64 - 1


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble 64 bits bijectively: the finaliser of splitmix64 (Steele, Lea and Flood 2014)."""
    bits = (bits ^ (bits >> S30)) * FIRST
    bits = (bits ^ (bits >> S27)) * SECOND
    return bits ^ (bits >> S31)


# All batches of an epoch share their words.
@lru_cache(maxsize=64)
def _state(words: tuple[int, ...]) -> NDArray[np.uint64]:
    state = np.zeros(1, dtype=np.uint64)
    for word in words:
        state = _mix((state ^ np.uint64(word & MASK)) + GOLDEN)
    return state


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
    samples = np.asarray(index, dtype=np.uint64)
    return _mix((_state(words) ^ samples) + GOLDEN)


def below(bound: int, bits: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Convert the upper 32 random bits to integers in [0, bound), uniform up to one in 2**32.

    Example:
        >>> bool(below(3, random_bits(1, index=range(8))).max() <= 2)
        True
    """
    return (((bits >> S32) * np.uint64(bound)) >> S32).astype(np.int64)
