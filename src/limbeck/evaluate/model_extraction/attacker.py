"""Response formats of a model (all probabilities, top-1, hard label), and output perturbations.

Each function maps probabilities `[n, classes]` to distributions of the same shape: what an
attacker, or a benign user, can infer from the response.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import numpy as np
import scipy
from numpy.typing import NDArray

if TYPE_CHECKING:
    from limbeck.evaluate.context import Normalization
    from limbeck.export.predictor import Predictor


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


Batch = Mapping[str, NDArray[Any]]
Features = NDArray[np.float32]
FEATURES = 1024
"""Largest number of a surrogate's features: larger images are downsampled for it."""


class QueryGenerator(Protocol):
    """The interface of queries of one modality."""

    def features(self, batch: Batch) -> Features:
        """Compute the surrogate's features, `[n, features]`."""
        ...

    def mixed(self, pool: Batch, count: int, random: np.random.Generator) -> Batch:
        """Mix pairs of inputs from a pool."""
        ...

    def noise(self, pool: Batch, count: int, random: np.random.Generator) -> Batch:
        """Generate noise inputs, within the range of a pool's."""
        ...


class Numbers:
    """Images, or rows of a table.

    Args:
        name: The model's name of the input.
        pixels: The normalization of pixels: noise fills its range, or else that of the pool.
    """

    def __init__(self, name: str, pixels: Normalization | None) -> None:
        self._name = name
        self._pixels = pixels

    def features(self, batch: Batch) -> Features:
        """Return all numbers; of larger images, means of neighbours."""
        import torch
        from torch.nn import functional as F

        values = np.asarray(batch[self._name], dtype=np.float32)
        if values.ndim == 4 and values[0].size > FEATURES:
            side = max(1, math.isqrt(FEATURES // values.shape[1]))
            size = (min(side, values.shape[2]), min(side, values.shape[3]))
            values = F.adaptive_avg_pool2d(torch.from_numpy(values), size).numpy()
        return values.reshape(len(values), -1)

    def mixed(self, pool: Batch, count: int, random: np.random.Generator) -> Batch:
        r"""Apply mixup: $\lambda a + (1 - \lambda) b$ with $\lambda$ uniform.

        Source: Zhang et al., ICLR 2018 (arXiv:1710.09412).
        """
        values = np.asarray(pool[self._name], dtype=np.float32)
        one, other = random.integers(len(values), size=(2, count))
        part = random.random((count, *(1,) * (values.ndim - 1)), dtype=np.float32)
        return {self._name: part * values[one] + (1 - part) * values[other]}

    def noise(self, pool: Batch, count: int, random: np.random.Generator) -> Batch:
        """Draw every number uniformly between black and white, or between the pool's extremes."""
        values = np.asarray(pool[self._name], dtype=np.float32)
        low, high = values.min(axis=0), values.max(axis=0)
        if self._pixels is not None:
            mean, std = (
                np.array(part, dtype=np.float32)[:, None, None]
                for part in (self._pixels.mean, self._pixels.std)
            )
            low, high = -mean / std, (1 - mean) / std
        drawn = random.random((count, *values.shape[1:]), dtype=np.float32)
        return {self._name: low + drawn * (high - low)}


class Tokens:
    """Texts as token ids: `input_ids` and `attention_mask`, `[n, tokens]`."""

    def features(self, batch: Batch) -> Features:
        """Count the tokens of each text, with ids hashed by remainder: a bag of tokens."""
        ids, there = np.asarray(batch["input_ids"]), np.asarray(batch["attention_mask"]) > 0
        bag = np.zeros((len(ids), FEATURES), dtype=np.float32)
        rows = np.broadcast_to(np.arange(len(ids))[:, None], ids.shape)
        np.add.at(bag, (rows[there], ids[there] % FEATURES), 1)
        return np.log1p(bag)

    def mixed(self, pool: Batch, count: int, random: np.random.Generator) -> Batch:
        """Concatenate one text's beginning and another's end, cut at the middle of the shorter."""
        ids, mask = (np.asarray(pool[name]) for name in ("input_ids", "attention_mask"))
        one, other = random.integers(len(ids), size=(2, count))
        middle = np.minimum(mask[one].sum(axis=1), mask[other].sum(axis=1)) // 2
        begin = np.arange(ids.shape[1]) < middle[:, None]
        return {
            "input_ids": np.where(begin, ids[one], ids[other]),
            "attention_mask": np.where(begin, mask[one], mask[other]),
        }

    def noise(self, pool: Batch, count: int, random: np.random.Generator) -> Batch:
        """Replace the tokens between a text's first and last by random tokens of the whole pool."""
        ids, mask = (np.asarray(pool[name]) for name in ("input_ids", "attention_mask"))
        frame = random.integers(len(ids), size=count)
        place = np.arange(ids.shape[1])
        inside = (place > 0) & (place < mask[frame].sum(axis=1, keepdims=True) - 1)
        words = np.unique(ids[mask > 0])
        drawn = words[random.integers(len(words), size=inside.shape)]
        return {
            "input_ids": np.where(inside, drawn, ids[frame]),
            "attention_mask": mask[frame],
        }


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


Form = Callable[[Array], Array]
Strategy = Literal["random", "uncertain", "mixed", "noise"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
FEW = 20
"""Number of own inputs of an attacker that mixes them."""

AT_ONCE = 128


@dataclass(frozen=True)
class QueryResult:
    """Possible queries and the victim's responses.

    Attributes:
        features: The surrogate's features, `[n, features]`.
        probabilities: The victim's, `[n, classes]`.
    """

    features: Features
    probabilities: Array

    def rows(self, which: NDArray[np.int64]) -> QueryResult:
        """Return the given rows."""
        return QueryResult(self.features[which], self.probabilities[which])


@dataclass(frozen=True)
class ExtractedModel:
    """The attacker's result for one budget.

    Attributes:
        queries: The rows of the possible queries that were used.
        responses: Its model's predictions of the test samples, `[n]`.
    """

    queries: NDArray[np.int64]
    responses: NDArray[np.int64]


def queries(
    strategy: Strategy, material: QueryGenerator, pool: Batch, count: int, *, seed: int
) -> Batch:
    """Generate an attacker's queries, in order; `uncertain` selects from twice as many.

    `random` queries with in-distribution inputs and, once they run out, with mixtures of them.
    `uncertain` selects from the same those of smallest margin. `mixed` queries with `FEW` inputs
    and their mixtures, `noise` with noise.

    Args:
        strategy: The query strategy.
        material: The generator of the inputs' modality.
        pool: In-distribution inputs.
        count: Number of queries.
        seed: Seed of the order and of the draws.

    Source: Papernot et al., 2017 (arXiv:1602.02697); Pal et al., AAAI 2020 (arXiv:1905.09165), for
    active learning; Orekondy et al., CVPR 2019 (arXiv:1812.02766).
    """
    random = np.random.default_rng(seed)
    have = len(next(iter(pool.values())))
    own = _rows(pool, random.permutation(have))
    if strategy == "noise":
        return material.noise(own, count, random)
    if strategy == "mixed":
        few = _rows(own, np.arange(min(FEW, have, count)))
        return _joined(few, material.mixed(few, count - _count(few), random))
    wanted = 2 * count if strategy == "uncertain" else count
    some = _rows(own, np.arange(min(have, wanted)))
    return _joined(some, material.mixed(own, wanted - _count(some), random))


def query(victim: Predictor, material: QueryGenerator, batch: Batch) -> QueryResult:
    """Query the victim with every input of a batch."""
    return QueryResult(material.features(batch), probabilities(victim, batch))


def probabilities(victim: Predictor, batch: Batch) -> Array:
    """Compute a model's probabilities, `[n, classes]`, in batches."""
    parts = [
        victim.predict(_rows(batch, np.arange(first, min(first + AT_ONCE, _count(batch)))))
        for first in range(0, _count(batch), AT_ONCE)
    ]
    logits = np.concatenate([np.asarray(part["logits"], dtype=np.float64) for part in parts])
    return scipy.special.softmax(logits, axis=1)


def extract(
    queried: QueryResult,
    form: Form,
    budgets: Sequence[int],
    tests: Features,
    *,
    chooses: bool,
    seed: int,
) -> list[ExtractedModel]:
    """Train a surrogate for each budget, and predict the test samples with it.

    Args:
        queried: Possible queries and the victim's responses.
        form: The response format.
        budgets: Numbers of queries allowed, ascending.
        tests: The surrogate's features of the test samples, `[n, features]`.
        chooses: Whether the attacker selects the queries of smallest margin each time the budget
            grows; it begins with the first ones.
        seed: Seed of the surrogates' training.

    Returns:
        The attacker's result for each budget.
    """
    told = form(queried.probabilities)
    known = np.arange(0)
    surrogate: Surrogate | None = None
    extracted = []
    for budget in budgets:
        if chooses and surrogate is not None:
            known = np.append(
                known, _unsure(surrogate, queried.features, known)[: budget - len(known)]
            )
        else:
            known = np.arange(min(budget, len(told)))
        surrogate = train(queried.features[known], told[known], seed=seed)
        extracted.append(ExtractedModel(known, surrogate(tests).argmax(axis=1)))
    return extracted


def _unsure(surrogate: Surrogate, features: Features, known: NDArray[Any]) -> NDArray[Any]:
    """Sort unused queries by the margin between the top two classes."""
    first = np.sort(surrogate(features), axis=1)
    margin = first[:, -1] - first[:, -2]
    margin[known] = np.inf
    return np.argsort(margin, kind="stable")[: len(features) - len(known)]


def _count(batch: Batch) -> int:
    return len(next(iter(batch.values())))


def _rows(batch: Batch, rows: NDArray[np.int64]) -> Batch:
    return {name: np.asarray(values)[rows] for name, values in batch.items()}


def _joined(one: Batch, other: Batch) -> Batch:
    return {name: np.concatenate([values, other[name]]) for name, values in one.items()}
