"""Extraction fidelity by query strategy, response format and budget, and its cost."""

from __future__ import annotations

from collections.abc import Sequence

from limbeck.evaluate.finding import Estimate
from limbeck.evaluate.interval import Result
from limbeck.evaluate.stealing import forms
from limbeck.evaluate.stealing.thief import STRATEGIES, Form, Strategy
from limbeck.evaluate.stealing.victim import Robbery, Victim, share

FORMS: dict[str, Form] = {"full": forms.full, "top_1": forms.top_1, "label": forms.label}
TELLS = {
    "full": "all probabilities",
    "top_1": "the first class and its probability",
    "label": "the label alone",
}
LEVELS = (0.7, 0.8, 0.9, 0.95)
Robberies = dict[tuple[Strategy, str], list[Robbery]]


class Theft(Result):
    """The extraction fidelity of one attacker.

    Attributes:
        strategy: The query strategy: random, uncertain, mixed or noise.
        form: The response format: full, top_1 or label.
        queries: Number of queries.
        agreement: Top-1 agreement of its model with the victim on test samples.
    """

    strategy: Strategy
    form: str
    queries: int
    agreement: Estimate


class Cost(Result):
    """The cost of a level of extraction fidelity: the fewest queries tried that reach it.

    Attributes:
        form: The response format.
        agreement: The level.
        queries: Number of queries; None if no budget tried reached it.
        price: Their price; None as well.
    """

    form: str
    agreement: float
    queries: int | None
    price: float | None


def rob(victim: Victim) -> Robberies:
    """Run every strategy on full responses, and random queries on reduced ones."""
    tried: list[tuple[Strategy, str]] = [(strategy, "full") for strategy in STRATEGIES]
    tried += [("random", form) for form in FORMS if form != "full"]
    return {
        (strategy, form): victim.robbed(strategy, FORMS[form], victim.budgets)
        for strategy, form in tried
    }


def thefts(robberies: Robberies) -> tuple[Theft, ...]:
    """Compute the extraction fidelity of each attacker."""
    return tuple(
        Theft(
            strategy=strategy,
            form=form,
            queries=len(robbery.asked),
            agreement=share(robbery.hits),
        )
        for (strategy, form), each in robberies.items()
        for robbery in each
    )


def costs(found: Sequence[Theft], price: float) -> tuple[Cost, ...]:
    """Compute the cost of levels of fidelity at a price per query, by the cheapest strategy.

    Args:
        found: The extraction fidelities.
        price: The price of a query.

    Example:
        >>> one = Theft(
        ...     strategy="random", form="full", queries=200, agreement=Estimate(value=0.75)
        ... )
        >>> [cost.price for cost in costs([one], 0.01)][:2]
        [2.0, None]
    """
    table = []
    for form in FORMS:
        for level in LEVELS:
            reached = [
                theft.queries
                for theft in found
                if theft.form == form and theft.agreement.value >= level
            ]
            fewest = min(reached, default=None)
            paid = None if fewest is None else fewest * price
            table.append(Cost(form=form, agreement=level, queries=fewest, price=paid))
    return tuple(cost for cost in table if any(theft.form == cost.form for theft in found))
