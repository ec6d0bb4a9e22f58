"""From answers to one number a sample: likelihood, Brier score, divergence, entropy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy
from numpy.typing import NDArray

if TYPE_CHECKING:
    from limbeck.export.predictor import Answers

Values = NDArray[np.float64]


def log_probabilities(logits: NDArray[Any]) -> Values:
    r"""Take the logarithm of softmax, in float64; a logit of plus infinity takes everything.

    $$\log p_{ic} = z_{ic} - \log \textstyle\sum_k e^{z_{ik}}$$

    Args:
        logits: `[n, classes]`.

    Returns:
        `[n, classes]` in nats, minus infinity where a class is ruled out.

    Example:
        >>> np.exp(log_probabilities(np.array([[0.0, 0.0], [np.inf, 1.0]]))).tolist()
        [[0.5, 0.5], [1.0, 0.0]]
    """
    finite = logits.astype(np.float64)
    certain = np.isposinf(finite)
    rows = certain.any(axis=1)
    finite[rows] = np.where(certain[rows], 0.0, -np.inf)
    log_p: Values = scipy.special.log_softmax(finite, axis=1)
    return log_p


def right(answers: Answers) -> Values:
    """Say which answers are right: 1 or 0, `[n]`."""
    return (answers.logits.argmax(axis=1) == answers.labels).astype(np.float64)


def losses(log_p: Values, labels: NDArray[np.int64]) -> Values:
    """Give the negative log-likelihood of each label, `[n]` in nats; infinite if it was ruled out.

    Args:
        log_p: Log-probabilities, `[n, classes]`.
        labels: The right answers, `[n]`.
    """
    return np.asarray(-log_p[np.arange(len(labels)), labels])


def brier(log_p: Values, labels: NDArray[np.int64]) -> Values:
    r"""Give the Brier score of each answer, `[n]` in [0, 2].

    $$\sum_c (p_{ic} - [c = y_i])^2$$

    Args:
        log_p: Log-probabilities, `[n, classes]`.
        labels: The right answers, `[n]`.

    Example:
        >>> float(brier(np.log([[0.5, 0.5]]), np.array([0]))[0])
        0.5

    Source: Brier, Monthly Weather Review 1950.
    """
    p = np.exp(log_p)
    hit = p[np.arange(len(labels)), labels]
    return np.asarray(np.square(p).sum(axis=1) - 2 * hit + 1)


def divergences(log_p: Values, log_q: Values) -> Values:
    r"""Give KL(p || q) of each sample, `[n]` in nats; infinite where q rules out what p does not.

    $$\sum_c p_{ic} (\log p_{ic} - \log q_{ic})$$

    Args:
        log_p: Log-probabilities of the one that is followed, `[n, classes]`.
        log_q: Those of the one that follows, `[n, classes]`.

    Example:
        >>> round(float(divergences(np.log([[0.5, 0.5]]), np.log([[0.25, 0.75]]))[0]), 4)
        0.1438

    Source: Kullback and Leibler, Annals of Mathematical Statistics 1951.
    """
    # A class that p rules out adds nothing, whatever q says: 0 log 0 = 0.
    gap = np.subtract(log_p, log_q, out=np.zeros_like(log_p), where=np.isfinite(log_p))
    return np.maximum(0.0, (np.exp(log_p) * gap).sum(axis=1))


def entropies(log_p: Values) -> Values:
    r"""Give the entropy of each answer, `[n]` in nats: 0 if sure, log(classes) if at a loss.

    $$-\sum_c p_{ic} \log p_{ic}$$

    Example:
        >>> round(float(entropies(np.log([[0.5, 0.5]]))[0]), 4)
        0.6931
    """
    return np.asarray(scipy.special.entr(np.exp(log_p)).sum(axis=1))
