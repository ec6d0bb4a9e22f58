"""Response formats of a model (all probabilities, top-1, hard label), and output perturbations.

Each function maps probabilities `[n, classes]` to distributions of the same shape: what an
attacker, or a benign user, can infer from the response.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def full(probabilities: Array) -> Array:
    """Return all probabilities."""
    return probabilities


def top_1(probabilities: Array) -> Array:
    """Return the top-1 class and its probability; the rest is spread evenly.

    Example:
        >>> top_1(np.array([[0.6, 0.3, 0.1]]))
        array([[0.6, 0.2, 0.2]])
    """
    return top_k(probabilities, 1)


def label(probabilities: Array) -> Array:
    """Return the hard label, one-hot.

    Example:
        >>> label(np.array([[0.6, 0.3, 0.1]]))
        array([[1., 0., 0.]])
    """
    return np.eye(probabilities.shape[1])[probabilities.argmax(axis=1)]


def top_k(probabilities: Array, count: int) -> Array:
    """Return the top-k classes and their probabilities; the rest is spread evenly over the others.

    Args:
        probabilities: `[n, classes]`.
        count: The number of classes, k.

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
    """Round, then normalize each row to sum to one; a row of zeros becomes uniform.

    Example:
        >>> rounded(np.array([[0.62, 0.34, 0.04], [0.04, 0.94, 0.02]]), 1).round(2)
        array([[0.67, 0.33, 0.  ],
               [0.  , 1.  , 0.  ]])
    """
    return _normal(np.round(probabilities, decimals))


def noisy(probabilities: Array, deviation: float, *, seed: int) -> Array:
    """Add normal noise, clip at zero, and normalize each row to sum to one.

    Args:
        probabilities: `[n, classes]`.
        deviation: The standard deviation of the noise.
        seed: Seed of the noise.
    """
    noise = np.random.default_rng(seed).normal(scale=deviation, size=probabilities.shape)
    return _normal(np.clip(probabilities + noise, 0, None))


def _normal(values: Array) -> Array:
    total = values.sum(axis=1, keepdims=True)
    even = np.full(values.shape, 1 / values.shape[1])
    return np.divide(values, total, out=even, where=total > 0)
