"""Contrastive losses against their formulas in numpy and float64."""

from functools import partial

import numpy as np
import torch
from scipy.special import logsumexp

from limbeck import losses
from limbeck.testing import check_loss


def normalized(vectors):
    lengths = np.sqrt((vectors**2).sum(-1, keepdims=True))
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)


def rows(features):
    return normalized(features.reshape(len(features), -1))


def others(labels, i, n):
    return [k for k in range(n) if k != i and (labels is None or labels[k] != labels[i])]


def info_nce(student, teacher, temperature=0.1, symmetric=False, labels=None):
    s, t, n = rows(student), rows(teacher), len(student)
    values = []
    for i in range(n):
        own = s[i] @ t[i] / temperature
        rest = [s[i] @ t[k] / temperature for k in others(labels, i, n)]
        values.append(logsumexp([own, *rest]) - own)
        if symmetric:
            rest = [t[i] @ s[k] / temperature for k in others(labels, i, n)]
            values.append(logsumexp([own, *rest]) - own)
    return np.mean(values)


def estimate(anchor, positive, negatives, temperature, z):
    m = len(negatives)
    if not m:
        return 0.0
    own = np.exp(anchor @ positive / temperature) / z
    rest = np.exp(negatives @ anchor / temperature) / z
    return -np.log(own / (own + m)) - np.log(m / (rest + m)).sum()


def crd(
    student,
    teacher,
    temperature=0.07,
    labels=None,
    positives=None,
    negatives=None,
    student_positives=None,
    student_negatives=None,
    drawn=None,
    first_cosines=None,
):
    s, t, n = rows(student), rows(teacher), len(student)
    z = (1, 1) if first_cosines is None else np.exp(first_cosines / temperature).mean(1)
    near = [t if positives is None else normalized(positives)]
    near.append(s if student_positives is None else normalized(student_positives))
    total = 0.0
    for i in range(n):
        if negatives is None:
            far = [side[others(labels, i, n)] for side in (t, s)]
        else:
            banks = (negatives, student_negatives)
            which = slice(None) if drawn is None else drawn[i]
            far = [normalized(bank[i] if bank.ndim == 3 else bank[which]) for bank in banks]
        total += estimate(s[i], near[0][i], far[0], temperature, z[0])
        total += estimate(t[i], near[1][i], far[1], temperature, z[1])
    return total / n


RNG = np.random.default_rng(5)
# One set of negatives for all: a trial leaves samples out, and gives them another order.
BANK = {
    "negatives": RNG.normal(size=(9, 12)),
    "student_negatives": RNG.normal(size=(9, 12)),
    "first_cosines": RNG.uniform(-0.5, 0.5, size=(2, 20)),
}


def by_all(loss):
    """Hide the labels, so that every other sample is a negative."""

    def unlabelled(student, teacher, *, temperature):
        return loss(student, teacher, temperature=temperature)

    return unlabelled


def with_bank(student, teacher, *, temperature):
    held = {name: torch.from_numpy(part) for name, part in BANK.items()}
    return losses.crd(student, teacher, temperature=temperature, **held)


def trial(loss, reference):
    # Law 1: what pushes samples apart is lowest where they are farther apart than the teacher's.
    return partial(check_loss, loss, kind="relation", reference=reference, without=[1])


TRIALS = {
    "crd": [
        trial(losses.crd, crd),
        trial(by_all(losses.crd), crd),
        trial(with_bank, partial(crd, **BANK)),
    ],
    "info_nce": [
        trial(losses.info_nce, info_nce),
        trial(by_all(losses.info_nce), info_nce),
        trial(partial(losses.info_nce, symmetric=True), partial(info_nce, symmetric=True)),
    ],
}
