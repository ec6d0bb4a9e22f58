"""Defences against model extraction, and their cost for benign users."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from limbeck.core.measurement import Result
from limbeck.evaluate.comparison import Estimate
from limbeck.evaluate.model_extraction import attacker
from limbeck.evaluate.model_extraction.attacker import Array, ResponseFormat

LEAST = 1e-6
"""Probability that replaces zero in the benign user's NLL, which would be infinite."""


class Defence(Result):
    """One defence: the attacker's fidelity under it, and the benign user's accuracy.

    Attributes:
        name: The defence.
        queries: Number of the attacker's queries.
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
