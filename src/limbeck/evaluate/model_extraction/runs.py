"""The victim of model extraction, its query pool, and the attacks on it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from limbeck.core.measurement import Result
from limbeck.evaluate.bootstrap import share
from limbeck.evaluate.comparison import Estimate
from limbeck.evaluate.model_extraction import attacker
from limbeck.evaluate.model_extraction.attacker import (
    STRATEGIES,
    Batch,
    ExtractionRun,
    QueryGenerator,
    QueryResult,
    ResponseFormat,
    Strategy,
    label,
)
from limbeck.evaluate.model_extraction.defences import Defence, OutputPerturbation, utility

if TYPE_CHECKING:
    from limbeck.export.predictor import Predictor

Hits = NDArray[np.bool_]


class Victim:
    """A model under extraction attack; the responses to a strategy's queries are cached.

    Args:
        predictor: The model.
        generator: The query generator of its inputs' modality.
        pool: Unlabelled inputs available to an attacker.
        tests: Inputs on which an attacker's surrogate is evaluated, with `labels`.
        budgets: The attacker's numbers of queries, ascending.
        seed: Seed of everything random.
    """

    def __init__(
        self,
        predictor: Predictor,
        generator: QueryGenerator,
        pool: Batch,
        tests: Batch,
        *,
        budgets: Sequence[int],
        seed: int,
    ) -> None:
        self._predictor = predictor
        self._generator = generator
        self._pool = pool
        self._tests = tests
        self._seed = seed
        self._queried: dict[Strategy, QueryResult] = {}
        self.budgets = tuple(budgets)

    @cached_property
    def tests(self) -> QueryResult:
        """Return the surrogate's features of the test samples, and the victim's responses."""
        return attacker.query(self._predictor, self._generator, self._tests)

    def queried(self, strategy: Strategy) -> QueryResult:
        """Return the victim's responses to a strategy's queries within the largest budget."""
        if strategy not in self._queried:
            batch = attacker.queries(
                strategy, self._generator, self._pool, self.budgets[-1], seed=self._seed
            )
            self._queried[strategy] = attacker.query(self._predictor, self._generator, batch)
        return self._queried[strategy]

    def extracted(
        self, strategy: Strategy, response_format: ResponseFormat, budgets: Sequence[int]
    ) -> list[ExtractionRun]:
        """Run the extraction attack with each budget, by one strategy and response format."""
        return attacker.extract(
            self.queried(strategy),
            response_format,
            budgets,
            self.tests,
            active=strategy == "uncertain",
            seed=self._seed,
        )

    def defended(self, perturbation: OutputPerturbation, from_labels: Hits) -> Defence:
        """Measure a defence that perturbs every output, for an attacker and for a benign user.

        Args:
            perturbation: The output perturbation.
            from_labels: The hits of the attacker that learns from unchanged labels.
        """
        most = self.budgets[-1:]
        apply = perturbation.apply
        hits = self.extracted("random", apply, most)[0].hits
        plain = self.queried("random").probabilities
        if (apply(plain).argmax(axis=1) != plain.argmax(axis=1)).any():
            from_labels = self.extracted("random", lambda p: label(apply(p)), most)[0].hits
        return self.defence(perturbation, max(hits, from_labels, key=np.mean), most[0])

    def defence(self, perturbation: OutputPerturbation, hits: Hits, budget: int) -> Defence:
        """Describe a defence, whose attack was run already."""
        accuracy, nll = utility(
            perturbation.apply(self.tests.probabilities), np.asarray(self._tests["labels"])
        )
        return Defence(
            name=perturbation.name,
            queries=budget,
            agreement=share(hits),
            accuracy=accuracy,
            nll=nll,
        )


RESPONSE_FORMATS: dict[str, ResponseFormat] = {
    "probabilities": attacker.full,
    "top1": attacker.top_1,
    "hard_label": attacker.label,
}
DESCRIPTIONS = {
    "probabilities": "all probabilities",
    "top1": "the first class and its probability",
    "hard_label": "the label alone",
}
"""The response formats in words."""

LEVELS = (0.7, 0.8, 0.9, 0.95)
ExtractionRuns = dict[tuple[Strategy, str], list[ExtractionRun]]


class ExtractionScore(Result):
    """The extraction fidelity of one attacker.

    Attributes:
        strategy: The query strategy: random, uncertain, mixed or noise.
        response_format: The response format: probabilities, top1 or hard_label.
        queries: Number of queries.
        agreement: Top-1 agreement of its surrogate with the victim on test samples.
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
    attacks: list[tuple[Strategy, str]] = [(strategy, "probabilities") for strategy in STRATEGIES]
    attacks += [("random", name) for name in RESPONSE_FORMATS if name != "probabilities"]
    return {
        (strategy, name): victim.extracted(strategy, RESPONSE_FORMATS[name], victim.budgets)
        for strategy, name in attacks
    }


def extraction_scores(runs: ExtractionRuns) -> tuple[ExtractionScore, ...]:
    """Compute the extraction fidelity of each attacker."""
    return tuple(
        ExtractionScore(
            strategy=strategy,
            response_format=response_format,
            queries=len(run.queries),
            agreement=share(run.hits),
        )
        for (strategy, response_format), each in runs.items()
        for run in each
    )


def extraction_costs(found: Sequence[ExtractionScore], price: float) -> tuple[ExtractionCost, ...]:
    """Compute the cost of levels of fidelity at a price per query, by the cheapest strategy.

    Example:
        >>> score = ExtractionScore(
        ...     strategy="random",
        ...     response_format="probabilities",
        ...     queries=200,
        ...     agreement=Estimate(value=0.75),
        ... )
        >>> [cost.price for cost in extraction_costs([score], 0.01)][:2]
        [2.0, None]
    """
    costs = []
    for name in RESPONSE_FORMATS:
        scores = [score for score in found if score.response_format == name]
        for level in LEVELS if scores else ():
            reached = [score.queries for score in scores if score.agreement.value >= level]
            fewest = min(reached, default=None)
            costs.append(
                ExtractionCost(
                    response_format=name,
                    agreement=level,
                    queries=fewest,
                    price=None if fewest is None else fewest * price,
                )
            )
    return tuple(costs)
