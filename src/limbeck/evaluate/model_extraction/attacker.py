"""Model extraction attacks: response formats, queries, and the surrogate trained on responses."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import scipy
from numpy.typing import NDArray

if TYPE_CHECKING:
    from limbeck.evaluate.context import Normalization
    from limbeck.export.predictor import Predictor

Array = NDArray[np.float64]
ResponseFormat = Callable[[Array], Array]
"""Maps probabilities `[n, classes]` to the distributions that the user infers from a response."""


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
    """Return the probabilities of the top `count` classes; the rest is spread evenly.

    Example:
        >>> top_k(np.array([[0.6, 0.3, 0.06, 0.04]]), 2)
        array([[0.6 , 0.3 , 0.05, 0.05]])
    """
    classes = probabilities.shape[1]
    if count >= classes:
        return probabilities
    order = np.argsort(-probabilities, axis=1, kind="stable")
    kept = np.argsort(order, axis=1, kind="stable") < count
    rest = 1 - np.where(kept, probabilities, 0).sum(axis=1, keepdims=True)
    return np.where(kept, probabilities, np.clip(rest, 0, 1) / (classes - count))


def rounded(probabilities: Array, decimals: int) -> Array:
    """Round, then normalize each row to sum to one; a row of zeros becomes uniform.

    Example:
        >>> rounded(np.array([[0.62, 0.34, 0.04], [0.04, 0.94, 0.02]]), 1).round(2)
        array([[0.67, 0.33, 0.  ],
               [0.  , 1.  , 0.  ]])
    """
    return _normalized(np.round(probabilities, decimals))


def noisy(probabilities: Array, deviation: float, *, seed: int) -> Array:
    """Add normal noise of a standard deviation, clip at zero, and normalize each row to one."""
    noise = np.random.default_rng(seed).normal(scale=deviation, size=probabilities.shape)
    return _normalized(np.clip(probabilities + noise, 0, None))


def _normalized(values: Array) -> Array:
    total = values.sum(axis=1, keepdims=True)
    uniform = np.full(values.shape, 1 / values.shape[1])
    return np.divide(values, total, out=uniform, where=total > 0)


Batch = Mapping[str, NDArray[Any]]
Features = NDArray[np.float32]
FEATURES = 1024
"""Largest number of a surrogate's features: larger images are downsampled for it."""


@dataclass(frozen=True)
class Numbers:
    """Images, or rows of a table.

    Attributes:
        name: The model's name of the input.
        normalization: The normalization of pixels: noise fills its range, or else the pool's.
    """

    name: str
    normalization: Normalization | None

    def features(self, batch: Batch) -> Features:
        """Return the surrogate's features, `[n, features]`: all numbers; larger images pooled."""
        import torch
        from torch.nn import functional as F

        values = np.asarray(batch[self.name], dtype=np.float32)
        if values.ndim == 4 and values[0].size > FEATURES:
            side = max(1, math.isqrt(FEATURES // values.shape[1]))
            size = (min(side, values.shape[2]), min(side, values.shape[3]))
            values = F.adaptive_avg_pool2d(torch.from_numpy(values), size).numpy()
        return values.reshape(len(values), -1)

    def mixed(self, pool: Batch, count: int, random: np.random.Generator) -> Batch:
        r"""Apply mixup: $\lambda a + (1 - \lambda) b$ with $\lambda$ uniform.

        Source: Zhang et al., ICLR 2018 (arXiv:1710.09412).
        """
        values = np.asarray(pool[self.name], dtype=np.float32)
        first, second = random.integers(len(values), size=(2, count))
        part = random.random((count, *(1,) * (values.ndim - 1)), dtype=np.float32)
        return {self.name: part * values[first] + (1 - part) * values[second]}

    def noise(self, pool: Batch, count: int, random: np.random.Generator) -> Batch:
        """Draw every number uniformly between black and white, or between the pool's extremes."""
        values = np.asarray(pool[self.name], dtype=np.float32)
        low, high = values.min(axis=0), values.max(axis=0)
        if self.normalization is not None:
            mean = np.array(self.normalization.mean, dtype=np.float32)[:, None, None]
            std = np.array(self.normalization.std, dtype=np.float32)[:, None, None]
            low, high = -mean / std, (1 - mean) / std
        drawn = random.random((count, *values.shape[1:]), dtype=np.float32)
        return {self.name: low + drawn * (high - low)}


class Tokens:
    """Texts as token ids: `input_ids` and `attention_mask`, `[n, tokens]`."""

    def features(self, batch: Batch) -> Features:
        """Count the tokens of each text, ids hashed by remainder: a bag, `[n, features]`."""
        ids, present = np.asarray(batch["input_ids"]), np.asarray(batch["attention_mask"]) > 0
        bag = np.zeros((len(ids), FEATURES), dtype=np.float32)
        np.add.at(bag, (np.nonzero(present)[0], ids[present] % FEATURES), 1)
        return np.log1p(bag)

    def mixed(self, pool: Batch, count: int, random: np.random.Generator) -> Batch:
        """Concatenate one text's start and another's rest, cut at half the shorter one."""
        ids, mask = (np.asarray(pool[name]) for name in ("input_ids", "attention_mask"))
        first, second = random.integers(len(ids), size=(2, count))
        middle = np.minimum(mask[first].sum(axis=1), mask[second].sum(axis=1)) // 2
        begin = np.arange(ids.shape[1]) < middle[:, None]
        return {
            "input_ids": np.where(begin, ids[first], ids[second]),
            "attention_mask": np.where(begin, mask[first], mask[second]),
        }

    def noise(self, pool: Batch, count: int, random: np.random.Generator) -> Batch:
        """Replace the tokens between a text's first and last by random tokens of the pool."""
        ids, mask = (np.asarray(pool[name]) for name in ("input_ids", "attention_mask"))
        texts = random.integers(len(ids), size=count)
        position = np.arange(ids.shape[1])
        inside = (position > 0) & (position < mask[texts].sum(axis=1, keepdims=True) - 1)
        tokens = np.unique(ids[mask > 0])
        drawn = tokens[random.integers(len(tokens), size=inside.shape)]
        return {"input_ids": np.where(inside, drawn, ids[texts]), "attention_mask": mask[texts]}


QueryGenerator = Numbers | Tokens
Surrogate = Callable[[Features], Array]
HIDDEN, STEPS, BATCH, RATE = 64, 200, 64, 3e-3


def train(features: Features, responses: Array, *, seed: int) -> Surrogate:
    """Train a network of one hidden layer on queries and responses, by Adam.

    The number of steps does not depend on the number of queries, so that budgets differ in queries
    only.

    Args:
        features: The queries, `[n, features]`.
        responses: Distributions over the classes, `[n, classes]`.
        seed: Seed of the initialization and of the order of batches.

    Returns:
        A function of features, `[m, features]`, that returns probabilities, `[m, classes]`.

    Example:
        >>> queries = np.array([[0.0], [1.0]], dtype=np.float32)
        >>> train(queries, np.eye(2), seed=0)(queries).argmax(axis=1)
        array([0, 1])
    """
    import torch
    from torch import nn

    random = torch.Generator().manual_seed(seed)
    mean, scale = features.mean(axis=0), _scale(features)
    inputs = torch.from_numpy((features - mean) * scale)
    targets = torch.from_numpy(responses.astype(np.float32))
    # Without the default initialization, which would draw from the global generator.
    hidden = nn.utils.skip_init(nn.Linear, inputs.shape[1], HIDDEN)
    output = nn.utils.skip_init(nn.Linear, HIDDEN, targets.shape[1])
    for layer in (hidden, output):
        nn.init.kaiming_normal_(layer.weight, generator=random)
        nn.init.zeros_(layer.bias)
    model = nn.Sequential(hidden, nn.ReLU(), output)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, fused=True)
    for _ in range(STEPS):
        rows = torch.randint(len(inputs), (min(BATCH, len(inputs)),), generator=random)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs[rows]), targets[rows]).backward()
        optimizer.step()

    @torch.no_grad()
    def predict(features: Features) -> Array:
        logits: Array = model(torch.from_numpy((features - mean) * scale)).double().numpy()
        return scipy.special.softmax(logits, axis=1)

    return predict


def _scale(features: Features) -> Features:
    """Compute the inverse of the features' common deviation where a feature varies, and else zero.

    A feature that is constant among the queries carries no information for the surrogate.
    """
    deviation = features.std(axis=0)
    common = float(np.sqrt((deviation**2).mean()))
    if common == 0:
        return np.zeros_like(deviation)
    return np.where(deviation > 0, 1 / common, 0).astype(np.float32)


Strategy = Literal["random", "uncertain", "mixed", "noise"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
FEW = 20
"""Number of own inputs of an attacker that mixes them."""

AT_ONCE = 128


@dataclass(frozen=True)
class QueryResult:
    """Queries and the victim's responses.

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
class ExtractionRun:
    """The result of one extraction attack.

    Attributes:
        queries: The rows of the possible queries that were used.
        hits: Whether the surrogate predicts the victim's class of each test sample, `[n]`.
    """

    queries: NDArray[np.int64]
    hits: NDArray[np.bool_]


def queries(
    strategy: Strategy, generator: QueryGenerator, pool: Batch, count: int, *, seed: int
) -> Batch:
    """Generate an attacker's queries, in order; `uncertain` selects from twice as many.

    `random` queries with inputs of the pool and, once they run out, with mixtures of them.
    `uncertain` selects from the same those of smallest margin. `mixed` queries with `FEW` inputs
    and their mixtures, `noise` with noise.

    Source: Papernot et al., 2017 (arXiv:1602.02697); Pal et al., AAAI 2020 (arXiv:1905.09165), for
    active learning; Orekondy et al., CVPR 2019 (arXiv:1812.02766).
    """
    random = np.random.default_rng(seed)
    own = _rows(pool, random.permutation(count_samples(pool)))
    if strategy == "noise":
        return generator.noise(own, count, random)
    if strategy == "mixed":
        own = _rows(own, slice(min(FEW, count)))
    total = 2 * count if strategy == "uncertain" else count
    plain = _rows(own, slice(total))
    mixed = generator.mixed(own, total - count_samples(plain), random)
    return {name: np.concatenate([values, mixed[name]]) for name, values in plain.items()}


def query(victim: Predictor, generator: QueryGenerator, batch: Batch) -> QueryResult:
    """Query the victim with every input of a batch."""
    parts = [
        victim.predict(_rows(batch, slice(first, first + AT_ONCE)))["logits"]
        for first in range(0, count_samples(batch), AT_ONCE)
    ]
    logits = np.concatenate([np.asarray(part, dtype=np.float64) for part in parts])
    return QueryResult(generator.features(batch), scipy.special.softmax(logits, axis=1))


def extract(
    queried: QueryResult,
    response_format: ResponseFormat,
    budgets: Sequence[int],
    tests: QueryResult,
    *,
    active: bool,
    seed: int,
) -> list[ExtractionRun]:
    """Train a surrogate for each budget, and compare it with the victim on the test samples.

    Args:
        queried: Possible queries and the victim's responses.
        response_format: The format in which the attacker receives them.
        budgets: Numbers of queries allowed, ascending.
        tests: The test samples and the victim's responses.
        active: Whether the attacker selects the queries of smallest margin each time the budget
            grows; it begins with the first ones.
        seed: Seed of the surrogates' training.
    """
    responses = response_format(queried.probabilities)
    used, surrogate, runs = np.arange(0), None, []
    for budget in budgets:
        if active and surrogate is not None:
            unused = _by_margin(surrogate, queried.features, used)
            used = np.append(used, unused[: budget - len(used)])
        else:
            used = np.arange(min(budget, len(responses)))
        surrogate = train(queried.features[used], responses[used], seed=seed)
        predicted = surrogate(tests.features).argmax(axis=1)
        runs.append(ExtractionRun(used, predicted == tests.probabilities.argmax(axis=1)))
    return runs


def _by_margin(
    surrogate: Surrogate, features: Features, used: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Sort unused queries by the margin between the top two classes."""
    ordered = np.sort(surrogate(features), axis=1)
    margin = ordered[:, -1] - ordered[:, -2]
    margin[used] = np.inf
    return np.argsort(margin, kind="stable")[: len(features) - len(used)]


def count_samples(batch: Batch) -> int:
    """Return the number of samples of a batch."""
    return len(next(iter(batch.values())))


def _rows(batch: Batch, rows: NDArray[np.int64] | slice) -> Batch:
    return {name: np.asarray(values)[rows] for name, values in batch.items()}
