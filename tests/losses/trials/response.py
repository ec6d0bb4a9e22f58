"""Hard labels, and the teacher's logits as they are."""

from functools import partial

import numpy as np
from scipy import special

from limbeck import losses
from limbeck.testing import check_loss


def cross_entropy(student, labels):
    return -special.log_softmax(student, axis=1)[np.arange(len(labels)), labels]


def cumulative_cross_entropy(student, labels):
    value = np.zeros(len(labels))
    for k in range(student.shape[1] - 1):
        low, high = (
            special.logsumexp(part, axis=1) - special.logsumexp(student, axis=1)
            for part in (student[:, : k + 1], student[:, k + 1 :])
        )
        value -= np.where(labels > k, high, low)
    return value


def label_smoothing(student, labels):
    targets = 0.9 * np.eye(student.shape[1])[labels] + 0.1 / student.shape[1]
    return -(targets * special.log_softmax(student, axis=1)).sum(1)


def logit_mse(student, teacher):
    return ((student - teacher) ** 2).mean(1)


def quantile_regression(student, teacher, levels=None):
    if levels is None:
        levels = (np.arange(student.shape[1]) + 0.5) / student.shape[1]
    edges = np.array([0, *(np.array(levels[1:]) + levels[:-1]) / 2, 1])
    value = np.zeros(len(student))
    for quantile, level in zip(np.sort(student, axis=1).T, levels, strict=True):
        for sample, weight in zip(np.sort(teacher, axis=1).T, np.diff(edges), strict=True):
            share = np.where(sample > quantile, level, 1 - level)
            value += weight * share * np.abs(sample - quantile) / len(levels)
    return value


def soft_target_kl(student, teacher, temperature):
    p, q = (special.softmax(x / temperature, axis=1) for x in (teacher, student))
    return temperature**2 * special.rel_entr(p, q).sum(1)


def binary_kl(student, teacher, temperature):
    p, q = (special.expit(x / temperature) for x in (teacher, student))
    both = special.rel_entr(p, q) + special.rel_entr(1 - p, 1 - q)
    return temperature**2 * both.mean(1)


smoothed = partial(losses.label_smoothing, smoothing=0.1)

TRIALS = {
    # Independent labels: an offset common to all logits is another prediction.
    "binary_kl": [
        partial(check_loss, losses.binary_kl, kind="response", reference=binary_kl, without=[8])
    ],
    "cross_entropy": [
        partial(check_loss, losses.cross_entropy, kind="hard_label", reference=cross_entropy)
    ],
    # The classes have an order.
    "cumulative_cross_entropy": [
        partial(
            check_loss,
            losses.cumulative_cross_entropy,
            kind="hard_label",
            reference=cumulative_cross_entropy,
            without=[8],
        )
    ],
    "label_smoothing": [
        partial(check_loss, smoothed, kind="hard_label", reference=label_smoothing)
    ],
    "logit_mse": [partial(check_loss, losses.logit_mse, kind="response", reference=logit_mse)],
    "quantile_regression": [
        partial(
            check_loss,
            losses.quantile_regression,
            kind="response",
            reference=quantile_regression,
        )
    ],
    "soft_target_kl": [
        partial(check_loss, losses.soft_target_kl, kind="divergence", reference=soft_target_kl)
    ],
}
