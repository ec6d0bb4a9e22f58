"""The victim of model extraction, its query pool, and the attacks on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from limbeck.core.measurement import Result
from limbeck.evaluate.comparison import Estimate
from limbeck.evaluate.intervals import wilson
from limbeck.evaluate.model_extraction import attacker
from limbeck.evaluate.model_extraction.attacker import (
    STRATEGIES,
    Batch,
    Form,
    QueryGenerator,
    QueryResult,
    Strategy,
    label,
)
from limbeck.evaluate.model_extraction.defences import Defence, OutputPerturbation, utility

if TYPE_CHECKING:
    from limbeck.export.predictor import Predictor


Hits = NDArray[np.bool_]


@dataclass(frozen=True)
class ExtractionRun:
    """The result of one extraction attack.

    Attributes:
        queries: The rows of the possible queries that were used.
        hits: Where its model's prediction equals the victim's on the test samples, `[n]`.
    """

    queries: NDArray[np.int64]
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
        material: QueryGenerator,
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
        self._answered: dict[Strategy, QueryResult] = {}
        self.budgets = tuple(budgets)

    @cached_property
    def tests(self) -> QueryResult:
        """Return the surrogate's features of the test samples, and the victim's responses."""
        return attacker.query(self._predictor, self._material, self._tests)

    def queried(self, strategy: Strategy) -> QueryResult:
        """Return the victim's responses to a strategy's queries within the largest budget."""
        if strategy not in self._answered:
            batch = attacker.queries(
                strategy, self._material, self._pool, self.budgets[-1], seed=self._seed
            )
            self._answered[strategy] = attacker.query(self._predictor, self._material, batch)
        return self._answered[strategy]

    def extracted(
        self, strategy: Strategy, form: Form, budgets: Sequence[int]
    ) -> list[ExtractionRun]:
        """Run the extraction attack with each budget, by one strategy and response format."""
        mine = self.tests.probabilities.argmax(axis=1)
        copies = attacker.extract(
            self.queried(strategy),
            form,
            budgets,
            self.tests.features,
            chooses=strategy == "uncertain",
            seed=self._seed,
        )
        return [ExtractionRun(copy.queries, copy.responses == mine) for copy in copies]

    def defended(self, change: OutputPerturbation, plain: Hits) -> Defence:
        """Measure a defence that perturbs every output, for an attacker and for a benign user.

        Args:
            change: The output perturbation.
            plain: The hits of the attacker that learns from unchanged labels.
        """
        most = self.budgets[-1:]
        hits = self.extracted("random", change.apply, most)[0].hits
        told = self.queried("random").probabilities
        if (change.apply(told).argmax(axis=1) != told.argmax(axis=1)).any():
            plain = self.extracted("random", lambda p: label(change.apply(p)), most)[0].hits
        return self._defence(change, max(hits, plain, key=np.mean), most[0])

    def capped(self, budget: int, change: OutputPerturbation, hits: Hits) -> Defence:
        """Describe a cap on queries, whose attack was run already."""
        return self._defence(change, hits, budget)

    def _defence(self, change: OutputPerturbation, hits: Hits, budget: int) -> Defence:
        right, nll = utility(
            change.apply(self.tests.probabilities), np.asarray(self._tests["labels"])
        )
        return Defence(
            name=change.name, queries=budget, agreement=share(hits), accuracy=right, nll=nll
        )


def share(hits: Hits) -> Estimate:
    """Compute the share of test samples, with Wilson's interval."""
    interval = wilson(int(hits.sum()), len(hits))
    return Estimate(value=float(hits.mean()), interval=interval)


RESPONSE_FORMATS: dict[str, Form] = {
    "probabilities": attacker.full,
    "top1": attacker.top_1,
    "hard_label": attacker.label,
}
TELLS = {
    "probabilities": "all probabilities",
    "top1": "the first class and its probability",
    "hard_label": "the label alone",
}
LEVELS = (0.7, 0.8, 0.9, 0.95)
ExtractionRuns = dict[tuple[Strategy, str], list[ExtractionRun]]


class ExtractionScore(Result):
    """The extraction fidelity of one attacker.

    Attributes:
        strategy: The query strategy: random, uncertain, mixed or noise.
        response_format: The response format: probabilities, top1 or hard_label.
        queries: Number of queries.
        agreement: Top-1 agreement of its model with the victim on test samples.
    """

    strategy: Strategy
    response_format: str
    queries: int
    agreement: Estimate


class ExtractionCost(Result):
    """The cost of a level of extraction fidelity: the fewest queries tried that reach it.

    Attributes:
        response_format: The response format.
        agreement: The level.
        queries: Number of queries; None if no budget tried reached it.
        price: Their price; None as well.
    """

    response_format: str
    agreement: float
    queries: int | None
    price: float | None


def extract_all(victim: Victim) -> ExtractionRuns:
    """Run every strategy on full responses, and random queries on reduced ones."""
    tried: list[tuple[Strategy, str]] = [(strategy, "probabilities") for strategy in STRATEGIES]
    tried += [("random", form) for form in RESPONSE_FORMATS if form != "probabilities"]
    return {
        (strategy, form): victim.extracted(strategy, RESPONSE_FORMATS[form], victim.budgets)
        for strategy, form in tried
    }


def extraction_scores(runs: ExtractionRuns) -> tuple[ExtractionScore, ...]:
    """Compute the extraction fidelity of each attacker."""
    return tuple(
        ExtractionScore(
            strategy=strategy,
            response_format=form,
            queries=len(run.queries),
            agreement=share(run.hits),
        )
        for (strategy, form), each in runs.items()
        for run in each
    )


def extraction_costs(found: Sequence[ExtractionScore], price: float) -> tuple[ExtractionCost, ...]:
    """Compute the cost of levels of fidelity at a price per query, by the cheapest strategy.

    Args:
        found: The extraction fidelities.
        price: The price of a query.

    Example:
        >>> one = ExtractionScore(
        ...     strategy="random",
        ...     response_format="probabilities",
        ...     queries=200,
        ...     agreement=Estimate(value=0.75),
        ... )
        >>> [cost.price for cost in extraction_costs([one], 0.01)][:2]
        [2.0, None]
    """
    table = []
    for form in RESPONSE_FORMATS:
        for level in LEVELS:
            reached = [
                score.queries
                for score in found
                if score.response_format == form and score.agreement.value >= level
            ]
            fewest = min(reached, default=None)
            paid = None if fewest is None else fewest * price
            table.append(
                ExtractionCost(response_format=form, agreement=level, queries=fewest, price=paid)
            )
    return tuple(
        cost
        for cost in table
        if any(score.response_format == cost.response_format for score in found)
    )
