"""Predictions taken apart, brought to one scale, or related to each other."""

from functools import partial

import numpy as np
from scipy import special

from limbeck import losses
from limbeck.testing import check_loss


def soft(logits, temperature=1.0):
    return special.softmax(logits / temperature, axis=1)


def kl(p, q):
    return special.rel_entr(p, q).sum(1)


def dkd(student, teacher, labels, temperature, alpha=1.0, beta=8.0):
    right = np.eye(student.shape[1], dtype=bool)[labels]
    pairs, others = [], []
    for logits in (teacher, student):
        probabilities = soft(logits, temperature)
        rest = probabilities[~right].reshape(len(labels), -1)
        pairs.append(np.stack([probabilities[right], rest.sum(1)], axis=1))
        others.append(rest / rest.sum(1, keepdims=True))
    return temperature**2 * (alpha * kl(*pairs) + beta * kl(*others))


def ttm(student, teacher, temperature):
    powers = soft(teacher) ** (1 / temperature)
    return kl(powers / powers.sum(1, keepdims=True), soft(student))


def wttm(student, teacher, temperature):
    return (soft(teacher) ** (1 / temperature)).sum(1) * ttm(student, teacher, temperature)


def standardized_kl(student, teacher, temperature=2.0, correction=1):
    scores = [
        (x - x.mean(1, keepdims=True)) / (x.std(1, ddof=correction, keepdims=True) + 1e-7)
        for x in (teacher, student)
    ]
    return temperature**2 * kl(*(soft(score, temperature) for score in scores))


def dist(student, teacher, temperature=1.0, beta=2.0, gamma=2.0):
    q, p = soft(student, temperature), soft(teacher, temperature)
    rows, columns = (
        np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(*sides, strict=True)])
        for sides in ((q, p), (q.T, p.T))
    )
    return temperature**2 * (beta * (1 - rows) + gamma * (1 - columns))


def mlkd(student, teacher, temperatures=(2, 3, 4, 5, 6), instance=1.0, batch=1.0, classes=1.0):
    total = 0.0
    for temperature in temperatures:
        q, p = soft(student, temperature), soft(teacher, temperature)
        total += instance * temperature**2 * kl(p, q).mean()
        total += batch * np.sum((p @ p.T - q @ q.T) ** 2) / p.shape[0]
        total += classes * np.sum((p.T @ p - q.T @ q) ** 2) / p.shape[1]
    return total


def trial(loss, reference, *, kind, without=(), **settings):
    return partial(
        check_loss,
        partial(loss, **settings),
        kind=kind,
        reference=partial(reference, **settings),
        without=without,
    )


TRIALS = {
    "dkd": [
        trial(losses.dkd, dkd, kind="divergence"),
        trial(losses.dkd, dkd, kind="divergence", alpha=0.5, beta=2.0),
    ],
    # A correlation is scale-invariant: T² makes its gradient grow with T.
    "dist": [
        trial(losses.dist, dist, kind="batch", without=[5]),
        trial(losses.dist, dist, kind="batch", without=[5], beta=1.0, gamma=0.5),
    ],
    "mlkd": [
        trial(losses.mlkd, mlkd, kind="batch"),
        trial(losses.mlkd, mlkd, kind="batch", instance=0.0, temperatures=[4.0]),
    ],
    # The scores, not the logits, are compared in the limit of large T.
    "standardized_kl": [
        trial(losses.standardized_kl, standardized_kl, kind="divergence", without=[5]),
        trial(
            losses.standardized_kl, standardized_kl, kind="divergence", without=[5], correction=0
        ),
    ],
    # The minimum is at the teacher's logits over T: only the teacher is softened.
    "ttm": [trial(losses.ttm, ttm, kind="response", without=[1])],
    # The same, and its factor grows from 1 to the number of classes with T.
    "wttm": [trial(losses.wttm, wttm, kind="response", without=[1, 5])],
}
