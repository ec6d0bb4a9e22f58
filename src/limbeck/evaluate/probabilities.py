"""Per-sample metrics from logits: log-likelihood, Brier score, KL divergence, entropy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy
from numpy.typing import NDArray

if TYPE_CHECKING:
    from limbeck.export.predictor import Answers

Values = NDArray[np.float64]


def log_probabilities(logits: NDArray[Any]) -> Values:
    r"""Compute log-softmax in float64; a logit of plus infinity takes all probability.

    $$\log p_{ic} = z_{ic} - \log \textstyle\sum_k e^{z_{ik}}$$

    Args:
        logits: `[n, classes]`.

    Returns:
        `[n, classes]` in nats, minus infinity where a class has no probability.

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
    """Return whether each prediction is correct: 1 or 0, `[n]`."""
    return (answers.logits.argmax(axis=1) == answers.labels).astype(np.float64)


def losses(log_p: Values, labels: NDArray[np.int64]) -> Values:
    """Compute the negative log-likelihood per sample, `[n]` in nats; infinite at probability 0.

    Args:
        log_p: Log-probabilities, `[n, classes]`.
        labels: `[n]`.
    """
    return np.asarray(-log_p[np.arange(len(labels)), labels])


def brier(log_p: Values, labels: NDArray[np.int64]) -> Values:
    r"""Compute the Brier score per sample, `[n]` in [0, 2].

    $$\sum_c (p_{ic} - [c = y_i])^2$$

    Args:
        log_p: Log-probabilities, `[n, classes]`.
        labels: `[n]`.

    Example:
        >>> float(brier(np.log([[0.5, 0.5]]), np.array([0]))[0])
        0.5

    Source: Brier, Monthly Weather Review 1950.
    """
    p = np.exp(log_p)
    hit = p[np.arange(len(labels)), labels]
    return np.asarray(np.square(p).sum(axis=1) - 2 * hit + 1)


def divergences(log_p: Values, log_q: Values) -> Values:
    r"""Compute KL(p || q) per sample, `[n]` in nats; infinite where q is 0 and p is not.

    $$\sum_c p_{ic} (\log p_{ic} - \log q_{ic})$$

    Args:
        log_p: Log-probabilities of the reference, `[n, classes]`.
        log_q: Those of the approximation, `[n, classes]`.

    Example:
        >>> round(float(divergences(np.log([[0.5, 0.5]]), np.log([[0.25, 0.75]]))[0]), 4)
        0.1438

    Source: Kullback and Leibler, Annals of Mathematical Statistics 1951.
    """
    # Where p is 0 the term is 0, whatever q is: 0 log 0 = 0.
    gap = np.subtract(log_p, log_q, out=np.zeros_like(log_p), where=np.isfinite(log_p))
    return np.maximum(0.0, (np.exp(log_p) * gap).sum(axis=1))


def entropies(log_p: Values) -> Values:
    r"""Compute the entropy per sample, `[n]` in nats: from 0 to log(classes).

    $$-\sum_c p_{ic} \log p_{ic}$$

    Example:
        >>> round(float(entropies(np.log([[0.5, 0.5]]))[0]), 4)
        0.6931
    """
    return np.asarray(scipy.special.entr(np.exp(log_p)).sum(axis=1))
