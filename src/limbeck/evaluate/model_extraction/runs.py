"""The victim of model extraction, the attacks on it, and defences with their cost to users."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from limbeck.core.measurement import Result
from limbeck.evaluate.bootstrap import share
from limbeck.evaluate.comparison import Estimate
from limbeck.evaluate.model_extraction import attacker
from limbeck.evaluate.model_extraction.attacker import (
    STRATEGIES,
    Array,
    Batch,
    ExtractionRun,
    QueryGenerator,
    QueryResult,
    ResponseFormat,
    Strategy,
    label,
)

if TYPE_CHECKING:
    from limbeck.export.predictor import Predictor

Hits = NDArray[np.bool_]


LEAST = 1e-6
"""Probability that replaces zero in the benign user's NLL, which would be infinite."""


class Defence(Result):
    """One defence: the attacker's fidelity under it, and the benign user's accuracy.

    Attributes:
        agreement: Extraction fidelity, by the better of two attackers: one learns from the
            responses as they are, one from the top-1 class alone.
        accuracy: The accuracy of the responses to a benign user.
        nll: Their mean negative log-likelihood, in nats, with `LEAST` for a probability of zero.
    """

    name: str
    queries: int
    agreement: Estimate
    accuracy: float
    nll: float


@dataclass(frozen=True)
class OutputPerturbation:
    """An output perturbation: probabilities to probabilities, `[n, classes]`."""

    name: str
    apply: ResponseFormat


def output_perturbations(classes: int, *, seed: int) -> list[OutputPerturbation]:
    """Return the defences that perturb outputs; `seed` is that of the noise.

    Source: Tramèr et al., USENIX Security 2016 (arXiv:1609.02943).
    """
    top_3 = [OutputPerturbation("only the first 3 classes", partial(attacker.top_k, count=3))]
    return [
        OutputPerturbation("none", attacker.full),
        OutputPerturbation("rounded to 2 decimals", partial(attacker.rounded, decimals=2)),
        OutputPerturbation("rounded to 1 decimal", partial(attacker.rounded, decimals=1)),
        OutputPerturbation("noise of 0.1", partial(attacker.noisy, deviation=0.1, seed=seed)),
        OutputPerturbation("noise of 0.3", partial(attacker.noisy, deviation=0.3, seed=seed)),
        *(top_3 if classes > 3 else []),
        OutputPerturbation("only the first class, with its probability", attacker.top_1),
        OutputPerturbation("the label alone", attacker.label),
    ]


def utility(responses: Array, labels: NDArray[np.int64]) -> tuple[float, float]:
    """Compute accuracy, and negative log-likelihood in nats, of the responses to a benign user.

    Args:
        responses: Distributions over the classes, `[n, classes]`.
        labels: `[n]`.

    Example:
        >>> utility(np.array([[0.5, 0.5], [0.0, 1.0]]), np.array([0, 1]))
        (1.0, 0.34...)
    """
    likelihood = np.maximum(responses[np.arange(len(labels)), labels], LEAST)
    accuracy = float((responses.argmax(axis=1) == labels).mean())
    return accuracy, float(-np.log(likelihood).mean())


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


class ExtractionScore(Result):
    """The extraction fidelity of one attacker: its surrogate's top-1 agreement on test samples."""

    strategy: Strategy
    response_format: str
    queries: int
    agreement: Estimate


@dataclass
class Victim:
    """A model under extraction attack; the responses to a strategy's queries are cached.

    Attributes:
        predictor: The model.
        generator: The query generator of its inputs' modality.
        pool: Unlabelled inputs available to an attacker.
        test_samples: Inputs on which an attacker's surrogate is evaluated, with `labels`.
        budgets: The attacker's numbers of queries, ascending.
        seed: Seed of everything random.
    """

    predictor: Predictor
    generator: QueryGenerator
    pool: Batch
    test_samples: Batch
    budgets: Sequence[int]
    seed: int
    _queried: dict[Strategy, QueryResult] = field(default_factory=dict)

    @cached_property
    def tests(self) -> QueryResult:
        """Return the surrogate's features of the test samples, and the victim's responses."""
        return attacker.query(self.predictor, self.generator, self.test_samples)

    @cached_property
    def attacks(self) -> dict[tuple[Strategy, str], list[ExtractionRun]]:
        """Run every strategy on full responses, and random queries on reduced ones."""
        kinds: list[tuple[Strategy, str]] = [(strategy, "probabilities") for strategy in STRATEGIES]
        kinds += [("random", name) for name in RESPONSE_FORMATS if name != "probabilities"]
        return {
            (strategy, name): self.extracted(strategy, RESPONSE_FORMATS[name], self.budgets)
            for strategy, name in kinds
        }

    def queried(self, strategy: Strategy) -> QueryResult:
        """Return the victim's responses to a strategy's queries within the largest budget."""
        if strategy not in self._queried:
            batch = attacker.queries(
                strategy, self.generator, self.pool, self.budgets[-1], seed=self.seed
            )
            self._queried[strategy] = attacker.query(self.predictor, self.generator, batch)
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
            seed=self.seed,
        )

    def scores(self) -> tuple[ExtractionScore, ...]:
        """Compute the extraction fidelity of each attacker."""
        return tuple(
            ExtractionScore(
                strategy=strategy,
                response_format=name,
                queries=len(run.queries),
                agreement=share(run.hits),
            )
            for (strategy, name), runs in self.attacks.items()
            for run in runs
        )

    def defences(self) -> tuple[Defence, ...]:
        """Measure output perturbations, then caps on the number of queries."""
        from_labels = [run.hits for run in self.attacks["random", "hard_label"]]
        full = [run.hits for run in self.attacks["random", "probabilities"]]
        classes = self.tests.probabilities.shape[1]
        defences = [
            self._perturbed(one, from_labels[-1])
            for one in output_perturbations(classes, seed=self.seed)
        ]
        for budget, *hits in zip(self.budgets[:-1], full, from_labels, strict=False):
            cap = OutputPerturbation(f"no more than {budget} queries", attacker.full)
            defences.append(self._defence(cap, max(hits, key=np.mean), budget))
        return tuple(defences)

    def _perturbed(self, perturbation: OutputPerturbation, from_labels: Hits) -> Defence:
        """Attack perturbed outputs; `from_labels` are the hits of learning from plain labels."""
        most = self.budgets[-1:]
        apply = perturbation.apply
        hits = self.extracted("random", apply, most)[0].hits
        plain = self.queried("random").probabilities
        if (apply(plain).argmax(axis=1) != plain.argmax(axis=1)).any():
            from_labels = self.extracted("random", lambda p: label(apply(p)), most)[0].hits
        return self._defence(perturbation, max(hits, from_labels, key=np.mean), most[0])

    def _defence(self, perturbation: OutputPerturbation, hits: Hits, budget: int) -> Defence:
        accuracy, nll = utility(
            perturbation.apply(self.tests.probabilities), np.asarray(self.test_samples["labels"])
        )
        return Defence(
            name=perturbation.name,
            queries=budget,
            agreement=share(hits),
            accuracy=accuracy,
            nll=nll,
        )


LEVELS = (0.7, 0.8, 0.9, 0.95)


class ExtractionCost(Result):
    """The cost of a level of agreement: the fewest queries that reach it; None if none do."""

    response_format: str
    agreement: float
    queries: int | None
    price: float | None


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
