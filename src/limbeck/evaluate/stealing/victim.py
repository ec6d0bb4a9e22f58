"""One victim, what can be asked of it, and how far thieves get."""

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
    """What came of robbing a victim once.

    Attributes:
        asked: Which of the possible queries the thief asked.
        hits: Where its model answers the test samples as the victim does, `[n]`.
    """

    asked: NDArray[np.int64]
    hits: Hits


class Victim:
    """A model that answers whoever asks; each query of a strategy is answered once and kept.

    Args:
        predictor: Who is asked.
        material: The kind of its inputs.
        pool: Unlabelled inputs that a thief may have.
        tests: Inputs by which a thief's model is judged, with `label`.
        budgets: How many queries a thief has, ascending.
        seed: For whatever is drawn.
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
        """What a surrogate sees of the test samples, and what the victim thinks of them."""
        return thief.ask(self._predictor, self._material, self._tests)

    def asked(self, strategy: Strategy) -> Asked:
        """Answer what a thief could ask within the largest budget."""
        if strategy not in self._answered:
            batch = thief.queries(
                strategy, self._material, self._pool, self.budgets[-1], seed=self._seed
            )
            self._answered[strategy] = thief.ask(self._predictor, self._material, batch)
        return self._answered[strategy]

    def robbed(self, strategy: Strategy, form: Form, budgets: Sequence[int]) -> list[Robbery]:
        """Rob it with each of some budgets, by one strategy and told in one form."""
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
        """Change every answer, and see what is left to a thief and to an honest user.

        Args:
            change: What is done to the answers.
            plain: How far the thief gets that learns from labels which are as they were.
        """
        most = self.budgets[-1:]
        hits = self.robbed("random", change.made, most)[0].hits
        told = self.asked("random").probabilities
        if (change.made(told).argmax(axis=1) != told.argmax(axis=1)).any():
            plain = self.robbed("random", lambda p: label(change.made(p)), most)[0].hits
        return self._defence(change, max(hits, plain, key=np.mean), most[0])

    def capped(self, budget: int, change: Change, hits: Hits) -> Defence:
        """Describe a cap on queries, whose thief is known already."""
        return self._defence(change, hits, budget)

    def _defence(self, change: Change, hits: Hits, budget: int) -> Defence:
        right, nll = utility(
            change.made(self.tests.probabilities), np.asarray(self._tests["label"])
        )
        return Defence(
            name=change.name, queries=budget, agreement=share(hits), accuracy=right, nll=nll
        )


def share(hits: Hits) -> Estimate:
    """Give the share of test samples, with Wilson's interval."""
    interval = wilson(int(hits.sum()), len(hits))
    return Estimate(value=float(hits.mean()), interval=interval)
