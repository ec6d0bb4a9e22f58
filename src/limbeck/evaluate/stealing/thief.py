"""The attacker of model extraction: queries within a budget, and a surrogate trained on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import scipy
from numpy.typing import NDArray

from limbeck.evaluate.stealing import surrogate
from limbeck.evaluate.stealing.material import Batch, Features, Material

if TYPE_CHECKING:
    from limbeck.export.predictor import Predictor

Array = NDArray[np.float64]
Form = Callable[[Array], Array]
Strategy = Literal["random", "uncertain", "mixed", "noise"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
FEW = 20
"""Number of own inputs of an attacker that mixes them."""
AT_ONCE = 128


@dataclass(frozen=True)
class Asked:
    """Possible queries and the victim's responses.

    Attributes:
        features: The surrogate's features, `[n, features]`.
        probabilities: The victim's, `[n, classes]`.
    """

    features: Features
    probabilities: Array

    def rows(self, which: NDArray[np.int64]) -> Asked:
        """Return the given rows."""
        return Asked(self.features[which], self.probabilities[which])


@dataclass(frozen=True)
class Loot:
    """The attacker's result for one budget.

    Attributes:
        asked: The rows of the possible queries that were used.
        answers: Its model's predictions of the test samples, `[n]`.
    """

    asked: NDArray[np.int64]
    answers: NDArray[np.int64]


def queries(strategy: Strategy, material: Material, pool: Batch, count: int, *, seed: int) -> Batch:
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


def ask(victim: Predictor, material: Material, batch: Batch) -> Asked:
    """Query the victim with every input of a batch."""
    return Asked(material.features(batch), probabilities(victim, batch))


def probabilities(victim: Predictor, batch: Batch) -> Array:
    """Compute a model's probabilities, `[n, classes]`, in batches."""
    parts = [
        victim.predict(_rows(batch, np.arange(first, min(first + AT_ONCE, _count(batch)))))
        for first in range(0, _count(batch), AT_ONCE)
    ]
    logits = np.concatenate([np.asarray(part["logits"], dtype=np.float64) for part in parts])
    return scipy.special.softmax(logits, axis=1)


def steal(
    asked: Asked, form: Form, budgets: Sequence[int], tests: Features, *, chooses: bool, seed: int
) -> list[Loot]:
    """Train a surrogate for each budget, and predict the test samples with it.

    Args:
        asked: Possible queries and the victim's responses.
        form: The response format.
        budgets: Numbers of queries allowed, ascending.
        tests: The surrogate's features of the test samples, `[n, features]`.
        chooses: Whether the attacker selects the queries of smallest margin each time the budget
            grows; it begins with the first ones.
        seed: Seed of the surrogates' training.

    Returns:
        The attacker's result for each budget.
    """
    told = form(asked.probabilities)
    known = np.arange(0)
    thief: surrogate.Surrogate | None = None
    loot = []
    for budget in budgets:
        if chooses and thief is not None:
            known = np.append(known, _unsure(thief, asked.features, known)[: budget - len(known)])
        else:
            known = np.arange(min(budget, len(told)))
        thief = surrogate.train(asked.features[known], told[known], seed=seed)
        loot.append(Loot(known, thief(tests).argmax(axis=1)))
    return loot


def _unsure(thief: surrogate.Surrogate, features: Features, known: NDArray[Any]) -> NDArray[Any]:
    """Sort unused queries by the margin between the top two classes."""
    first = np.sort(thief(features), axis=1)
    margin = first[:, -1] - first[:, -2]
    margin[known] = np.inf
    return np.argsort(margin, kind="stable")[: len(features) - len(known)]


def _count(batch: Batch) -> int:
    return len(next(iter(batch.values())))


def _rows(batch: Batch, rows: NDArray[np.int64]) -> Batch:
    return {name: np.asarray(values)[rows] for name, values in batch.items()}


def _joined(one: Batch, other: Batch) -> Batch:
    return {name: np.concatenate([values, other[name]]) for name, values in one.items()}
