"""The surrogate model of an extraction attack: a small network of a fixed size."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy
from numpy.typing import NDArray

Features = NDArray[np.float32]
Array = NDArray[np.float64]
Surrogate = Callable[[Features], Array]
Layers = list[NDArray[np.float32]]
HIDDEN, STEPS, BATCH, RATE = 64, 200, 64, 3e-3


def train(features: Features, answers: Array, *, seed: int) -> Surrogate:
    """Train a network of one hidden layer on queries and responses.

    The number of steps does not depend on the number of queries, so that budgets differ in queries
    only. Thirty are trained for one student: for networks so small, numpy takes half of torch's
    time.

    Args:
        features: The queries, `[n, features]`.
        answers: Distributions over the classes, `[n, classes]`.
        seed: Seed of the initialization and of the order of batches.

    Returns:
        A function of features, `[m, features]`, that returns probabilities, `[m, classes]`.

    Example:
        >>> asked = np.array([[0.0], [1.0]], dtype=np.float32)
        >>> train(asked, np.eye(2), seed=0)(asked).argmax(axis=1)
        array([0, 1])
    """
    random = np.random.default_rng(seed)
    centre, scale = features.mean(axis=0), _scale(features)
    inputs, targets = (features - centre) * scale, answers.astype(np.float32)
    layers = _begin(inputs.shape[1], targets.shape[1], random)
    moments = [np.zeros_like(p) for p in layers], [np.zeros_like(p) for p in layers]
    for step in range(1, STEPS + 1):
        rows = random.integers(len(inputs), size=min(BATCH, len(inputs)))
        _move(layers, gradients(layers, inputs[rows], targets[rows]), moments, step)

    def answer(asked: Features) -> Array:
        return scipy.special.softmax(
            _forward(layers, (asked - centre) * scale)[1].astype(float), axis=1
        )

    return answer


def gradients(layers: Layers, inputs: Features, targets: NDArray[np.float32]) -> Layers:
    """Compute the gradients of the mean cross-entropy with distributions, in the layers' order.

    Args:
        layers: Weight and bias of the hidden layer, `[features, hidden]` and `[hidden]`, then of
            the last, `[hidden, classes]` and `[classes]`.
        inputs: `[n, features]`.
        targets: `[n, classes]`.
    """
    hidden, logits = _forward(layers, inputs)
    off = (scipy.special.softmax(logits, axis=1) - targets) / len(inputs)
    back = (off @ layers[2].T) * (hidden > 0)
    return [inputs.T @ back, back.sum(axis=0), hidden.T @ off, off.sum(axis=0)]


def _forward(layers: Layers, inputs: Features) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    hidden = np.maximum(inputs @ layers[0] + layers[1], 0)
    return hidden, hidden @ layers[2] + layers[3]


def _begin(features: int, classes: int, random: np.random.Generator) -> Layers:
    """Initialize weights as He et al. (arXiv:1502.01852)."""
    first, last = (
        random.normal(scale=np.sqrt(2 / before), size=(before, after)).astype(np.float32)
        for before, after in ((features, HIDDEN), (HIDDEN, classes))
    )
    return [first, np.zeros(HIDDEN, np.float32), last, np.zeros(classes, np.float32)]


def _move(layers: Layers, slopes: Layers, moments: tuple[Layers, Layers], step: int) -> None:
    """Apply one step of Adam (Kingma and Ba, arXiv:1412.6980), in place."""
    rate = RATE * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
    for layer, slope, first, second in zip(layers, slopes, *moments, strict=True):
        first += 0.1 * (slope - first)
        second += 0.001 * (slope * slope - second)
        layer -= np.float32(rate) * first / (np.sqrt(second) + 1e-8)


def _scale(features: Features) -> Features:
    """Compute the inverse of the features' common deviation where a feature varies, and else zero.

    A feature that is constant among the queries is not informative, whatever it is in the tests.
    """
    deviation = features.std(axis=0)
    common = float(np.sqrt((deviation**2).mean()))
    if common == 0:
        return np.zeros_like(deviation)
    return np.where(deviation > 0, 1 / common, 0).astype(np.float32)
