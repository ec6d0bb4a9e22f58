"""What a model tells: all probabilities, the first alone, or a label; and what a defence changes.

Each function takes probabilities `[n, classes]`, and gives distributions of the same shape: what a
thief can make of the answer, and an honest user too.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def full(probabilities: Array) -> Array:
    """Tell everything."""
    return probabilities


def top_1(probabilities: Array) -> Array:
    """Tell the first class and its probability; what is left is anybody's guess.

    Example:
        >>> top_1(np.array([[0.6, 0.3, 0.1]]))
        array([[0.6, 0.2, 0.2]])
    """
    return top_k(probabilities, 1)


def label(probabilities: Array) -> Array:
    """Tell the first class alone.

    Example:
        >>> label(np.array([[0.6, 0.3, 0.1]]))
        array([[1., 0., 0.]])
    """
    return np.eye(probabilities.shape[1])[probabilities.argmax(axis=1)]


def top_k(probabilities: Array, count: int) -> Array:
    """Tell the first classes and their probabilities; the others share what is left.

    Args:
        probabilities: `[n, classes]`.
        count: How many classes are told.

    Example:
        >>> top_k(np.array([[0.6, 0.3, 0.06, 0.04]]), 2)
        array([[0.6 , 0.3 , 0.05, 0.05]])
    """
    classes = probabilities.shape[1]
    if count >= classes:
        return probabilities
    order = np.argsort(-probabilities, axis=1, kind="stable")
    told = np.argsort(order, axis=1, kind="stable") < count
    left = 1 - np.where(told, probabilities, 0).sum(axis=1, keepdims=True)
    return np.where(told, probabilities, np.clip(left, 0, 1) / (classes - count))


def rounded(probabilities: Array, decimals: int) -> Array:
    """Round, then make each row sum to one again; a row of zeros says nothing.

    Example:
        >>> rounded(np.array([[0.62, 0.34, 0.04], [0.04, 0.94, 0.02]]), 1).round(2)
        array([[0.67, 0.33, 0.  ],
               [0.  , 1.  , 0.  ]])
    """
    return _normal(np.round(probabilities, decimals))


def noisy(probabilities: Array, deviation: float, *, seed: int) -> Array:
    """Add normal noise, cut at zero, and make each row sum to one again.

    Args:
        probabilities: `[n, classes]`.
        deviation: The standard deviation of the noise.
        seed: Decides the noise.
    """
    noise = np.random.default_rng(seed).normal(scale=deviation, size=probabilities.shape)
    return _normal(np.clip(probabilities + noise, 0, None))


def _normal(values: Array) -> Array:
    total = values.sum(axis=1, keepdims=True)
    even = np.full(values.shape, 1 / values.shape[1])
    return np.divide(values, total, out=even, where=total > 0)
