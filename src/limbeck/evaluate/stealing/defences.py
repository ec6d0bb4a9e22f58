"""What a defence takes from a thief, and what from an honest user."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from limbeck.evaluate.finding import Estimate
from limbeck.evaluate.interval import Result
from limbeck.evaluate.stealing import forms

Array = NDArray[np.float64]
LEAST = 1e-6
"""What an honest user takes a probability of zero for: a surprise, but not an endless one."""


class Defence(Result):
    """One defence: what it leaves the thief and what the honest user.

    Attributes:
        name: What is done.
        queries: How many queries the thief has.
        agreement: How often the thief's model answers as the victim does, by the better of two
            thieves: one learns from the answers as they are, one from the first class alone.
        accuracy: How often the answers that an honest user gets are right.
        nll: Their mean negative log-likelihood, in nats, with `LEAST` for a probability of zero.
    """

    name: str
    queries: int
    agreement: Estimate
    accuracy: float
    nll: float


@dataclass(frozen=True)
class Change:
    """What is done to every answer: probabilities to probabilities, `[n, classes]`."""

    name: str
    made: Callable[[Array], Array]


def changes(classes: int, *, seed: int) -> list[Change]:
    """Name the defences that change answers.

    Args:
        classes: How many classes there are.
        seed: Decides the noise.

    Source: Tramèr et al., USENIX Security 2016 (arXiv:1609.02943).
    """
    three = [Change("only the first 3 classes", partial(forms.top_k, count=3))]
    return [
        Change("none", forms.full),
        Change("rounded to 2 decimals", partial(forms.rounded, decimals=2)),
        Change("rounded to 1 decimal", partial(forms.rounded, decimals=1)),
        Change("noise of 0.1", partial(forms.noisy, deviation=0.1, seed=seed)),
        Change("noise of 0.3", partial(forms.noisy, deviation=0.3, seed=seed)),
        *(three if classes > 3 else []),
        Change("only the first class, with its probability", forms.top_1),
        Change("the label alone", forms.label),
    ]


def utility(told: Array, labels: NDArray[np.int64]) -> tuple[float, float]:
    """Give accuracy, and negative log-likelihood in nats, of answers to an honest user.

    Args:
        told: Distributions over the classes, `[n, classes]`.
        labels: The right answers, `[n]`.

    Example:
        >>> utility(np.array([[0.5, 0.5], [0.0, 1.0]]), np.array([0, 1]))
        (1.0, 0.34...)
    """
    likely = np.maximum(told[np.arange(len(labels)), labels], LEAST)
    right = float((told.argmax(axis=1) == labels).mean())
    return right, float(-np.log(likely).mean())
