"""The victim of model extraction, its query pool, and the attacks on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from limbeck.evaluate.finding import Estimate
from limbeck.evaluate.interval import wilson
from limbeck.evaluate.stealing import thief
from limbeck.evaluate.stealing.defences import Change, Defence, utility
from limbeck.evaluate.stealing.forms import label
from limbeck.evaluate.stealing.material import Batch, Material
from limbeck.evaluate.stealing.thief import Asked, Form, Strategy

if TYPE_CHECKING:
    from limbeck.export.predictor import Predictor

Hits = NDArray[np.bool_]


@dataclass(frozen=True)
class Robbery:
    """The result of one extraction attack.

    Attributes:
        asked: The rows of the possible queries that were used.
        hits: Where its model's prediction equals the victim's on the test samples, `[n]`.
    """

    asked: NDArray[np.int64]
    hits: Hits


class Victim:
    """A model under extraction attack; the responses to a strategy's queries are cached.

    Args:
        predictor: The model.
        material: The generator of its inputs' modality.
        pool: Unlabelled inputs available to an attacker.
        tests: Inputs on which an attacker's model is evaluated, with `label`.
        budgets: The attacker's numbers of queries, ascending.
        seed: Seed of everything random.
    """

    def __init__(
        self,
        predictor: Predictor,
        material: Material,
        pool: Batch,
        tests: Batch,
        *,
        budgets: Sequence[int],
        seed: int,
    ) -> None:
        self._predictor = predictor
        self._material = material
        self._pool = pool
        self._tests = tests
        self._seed = seed
        self._answered: dict[Strategy, Asked] = {}
        self.budgets = tuple(budgets)

    @cached_property
    def tests(self) -> Asked:
        """Return the surrogate's features of the test samples, and the victim's responses."""
        return thief.ask(self._predictor, self._material, self._tests)

    def asked(self, strategy: Strategy) -> Asked:
        """Return the victim's responses to a strategy's queries within the largest budget."""
        if strategy not in self._answered:
            batch = thief.queries(
                strategy, self._material, self._pool, self.budgets[-1], seed=self._seed
            )
            self._answered[strategy] = thief.ask(self._predictor, self._material, batch)
        return self._answered[strategy]

    def robbed(self, strategy: Strategy, form: Form, budgets: Sequence[int]) -> list[Robbery]:
        """Run the extraction attack with each budget, by one strategy and response format."""
        mine = self.tests.probabilities.argmax(axis=1)
        stolen = thief.steal(
            self.asked(strategy),
            form,
            budgets,
            self.tests.features,
            chooses=strategy == "uncertain",
            seed=self._seed,
        )
        return [Robbery(loot.asked, loot.answers == mine) for loot in stolen]

    def defended(self, change: Change, plain: Hits) -> Defence:
        """Measure a defence that perturbs every output, for an attacker and for a benign user.

        Args:
            change: The output perturbation.
            plain: The hits of the attacker that learns from unchanged labels.
        """
        most = self.budgets[-1:]
        hits = self.robbed("random", change.made, most)[0].hits
        told = self.asked("random").probabilities
        if (change.made(told).argmax(axis=1) != told.argmax(axis=1)).any():
            plain = self.robbed("random", lambda p: label(change.made(p)), most)[0].hits
        return self._defence(change, max(hits, plain, key=np.mean), most[0])

    def capped(self, budget: int, change: Change, hits: Hits) -> Defence:
        """Describe a cap on queries, whose attack was run already."""
        return self._defence(change, hits, budget)

    def _defence(self, change: Change, hits: Hits, budget: int) -> Defence:
        right, nll = utility(
            change.made(self.tests.probabilities), np.asarray(self._tests["label"])
        )
        return Defence(
            name=change.name, queries=budget, agreement=share(hits), accuracy=right, nll=nll
        )


def share(hits: Hits) -> Estimate:
    """Compute the share of test samples, with Wilson's interval."""
    interval = wilson(int(hits.sum()), len(hits))
    return Estimate(value=float(hits.mean()), interval=interval)
