"""What the names promise: the papers' formulas in numpy and float64, written once for all peers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def log_softmax(logits: Array) -> Array:
    """Log-probabilities."""
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _kl(first: Array, second: Array) -> Array:
    return (np.exp(first) * (first - second)).sum(-1)


def forward_kl(student: Array, teacher: Array, *, temperature: float = 1.0) -> Array:
    """T²·KL(teacher ‖ student), Hinton 2015."""
    degree = temperature
    return degree**2 * _kl(log_softmax(teacher / degree), log_softmax(student / degree))


def standardized_kl(student: Array, teacher: Array, *, temperature: float) -> Array:
    """T²·KL of logits at mean 0 and deviation 1, Sun 2024."""
    ours, theirs = (
        (side - side.mean(1, keepdims=True)) / (side.std(1, ddof=1, keepdims=True) + 1e-7)
        for side in (student, teacher)
    )
    return forward_kl(ours, theirs, temperature=temperature)


def reverse_kl(student: Array, teacher: Array, *, temperature: float = 1.0) -> Array:
    """T²·KL(student ‖ teacher)."""
    return forward_kl(teacher, student, temperature=temperature)


def symmetric_kl(share: float) -> Callable[[Array, Array], Array]:
    """share·KL(student ‖ teacher) + (1 − share)·KL(teacher ‖ student)."""

    def mixed(student: Array, teacher: Array) -> Array:
        return share * reverse_kl(student, teacher) + (1 - share) * forward_kl(student, teacher)

    return mixed


def jsd(beta: float) -> Callable[..., Array]:
    """T²·(beta·KL(teacher ‖ m) + (1 − beta)·KL(student ‖ m)), Agarwal 2024."""

    def generalized(student: Array, teacher: Array, *, temperature: float = 1.0) -> Array:
        ours, theirs = (log_softmax(side / temperature) for side in (student, teacher))
        middle = np.log(beta * np.exp(theirs) + (1 - beta) * np.exp(ours))
        return temperature**2 * (beta * _kl(theirs, middle) + (1 - beta) * _kl(ours, middle))

    return generalized


def tvd(student: Array, teacher: Array) -> Array:
    """Half of the distributions' absolute differences."""
    return 0.5 * np.abs(np.exp(log_softmax(student)) - np.exp(log_softmax(teacher))).sum(-1)


def cosine_distance(student: Array, teacher: Array) -> Array:
    """1 − cos."""
    return 1 - (_unit(student) * _unit(teacher)).sum(-1)


def without_square(definition: Callable[..., Array]) -> Callable[..., Array]:
    """The same without T², of softened distributions."""

    def softened(student: Array, teacher: Array, *, temperature: float = 1.0) -> Array:
        return definition(student, teacher, temperature=temperature) / temperature**2

    return softened


def over_classes(definition: Callable[..., Array]) -> Callable[..., Array]:
    """The same, divided by the number of classes."""

    def divided(student: Array, teacher: Array, **settings: float) -> Array:
        return definition(student, teacher, **settings) / student.shape[1]

    return divided


def cross_entropy(student: Array, teacher: Array) -> Array:
    """−Σ p·log q: the divergence and the teacher's entropy."""
    return -(np.exp(log_softmax(teacher)) * log_softmax(student)).sum(-1)


def _unit(rows: Array) -> Array:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def _flat(features: Array) -> Array:
    return features.reshape(len(features), -1)


def _map(features: Array) -> Array:
    return _unit(_flat((features**2).mean(1)))


def attention(student: Array, teacher: Array) -> Array:
    """Mean squared difference of normalised attention maps, as Zagoruyko's code has it."""
    return ((_map(student) - _map(teacher)) ** 2).mean(1)


def attention_norm(student: Array, teacher: Array) -> Array:
    """‖Q_S/‖Q_S‖ − Q_T/‖Q_T‖‖₂, as Zagoruyko's paper has it."""
    return np.linalg.norm(_map(student) - _map(teacher), axis=1)


def factors(student: Array, teacher: Array) -> Array:
    """Mean absolute difference of normalised factors, Kim 2018."""
    return np.abs(_unit(_flat(student)) - _unit(_flat(teacher))).mean(1)


def boundaries(student: Array, teacher: Array) -> Array:
    """Squared hinge of margin 1 on the side where the teacher's neuron is, Heo 2019."""
    hinge = np.where(teacher > 0, 1 - student, 1 + student).clip(min=0)
    return _flat(hinge**2).sum(1)


def variational(variance: float) -> Callable[[Array, Array], Array]:
    """Mean of ½·((s − t)²/σ² + log σ²), Ahn 2019."""

    def surprise(student: Array, teacher: Array) -> Array:
        return _flat((student - teacher) ** 2 / variance + np.log(variance)).mean(1) / 2

    return surprise


def review(student: Array, teacher: Array) -> Array:
    """Mean squared difference at full size and pooled to 4, 2 and 1, halving weights, Chen 2021."""
    total, weight, weights = _flat((student - teacher) ** 2).mean(1), 1.0, 1.0
    for size in (4, 2, 1):
        if size >= student.shape[2]:
            continue
        weight /= 2
        difference = _pool(student - teacher, size)
        total, weights = total + weight * _flat(difference**2).mean(1), weights + weight
    return total / weights


def _pool(maps: Array, size: int) -> Array:
    samples, channels, height, width = maps.shape
    return maps.reshape(samples, channels, size, height // size, size, width // size).mean((3, 5))


def similarity(student: Array, teacher: Array) -> Any:
    """‖G̃_S − G̃_T‖²_F / b², rows of the Gram matrix of length 1 (L2), Tung 2019."""
    ours, theirs = (_unit(_flat(side) @ _flat(side).T) for side in (student, teacher))
    return ((ours - theirs) ** 2).mean()


def similarity_of_sums(student: Array, teacher: Array) -> Any:
    """The same with rows whose absolute values sum to 1 (L1)."""
    ours, theirs = (_flat(side) @ _flat(side).T for side in (student, teacher))
    ours, theirs = (rows / np.abs(rows).sum(1, keepdims=True) for rows in (ours, theirs))
    return ((ours - theirs) ** 2).mean()


def probabilities(student: Array, teacher: Array) -> Any:
    """Mean of p·log(p/q) over pairs, from cosines scaled to [0, 1], Passalis 2018."""
    q, p = (_near(_flat(side)) for side in (student, teacher))
    return (p * np.log(p / q)).mean()


def _near(rows: Array) -> Array:
    scaled = (_unit(rows) @ _unit(rows).T + 1) / 2
    return scaled / scaled.sum(1, keepdims=True)


def _huber(difference: Array) -> Any:
    size = np.abs(difference)
    return np.where(size < 1, difference**2 / 2, size - 0.5).mean()


def distances(student: Array, teacher: Array, **_: float) -> Any:
    """Huber loss of pairwise distances over their mean, Park 2019."""
    return _huber(_scaled(_flat(student)) - _scaled(_flat(teacher)))


def _scaled(rows: Array) -> Array:
    apart = np.linalg.norm(rows[:, None] - rows[None], axis=-1)
    return apart / apart[apart > 0].mean()


def angles(student: Array, teacher: Array, **_: float) -> Any:
    """Huber loss of the cosines under which samples see each other, Park 2019."""
    return _huber(_seen(_flat(student)) - _seen(_flat(teacher)))


def _seen(rows: Array) -> Array:
    towards = rows[None] - rows[:, None]
    length = np.linalg.norm(towards, axis=-1, keepdims=True)
    towards = np.divide(towards, length, out=np.zeros_like(towards), where=length > 0)
    return towards @ towards.transpose(0, 2, 1)


def congruence(student: Array, teacher: Array) -> Any:
    """‖C_S − C_T‖²_F / n², bilinear, Peng 2019."""
    ours, theirs = (_flat(side) @ _flat(side).T for side in (student, teacher))
    return ((ours - theirs) ** 2).mean()


def congruence_gaussian(student: Array, teacher: Array) -> Any:
    """The same with the Taylor series (γ = 0.4, order 2) of a Gaussian of vectors of length 1."""
    ours, theirs = (_series(_unit(_flat(side))) for side in (student, teacher))
    return ((ours - theirs) ** 2).mean()


def root_over_pairs(definition: Callable[[Array, Array], Any]) -> Callable[[Array, Array], Any]:
    """A norm over n² where its square was asked for."""

    def root(student: Array, teacher: Array) -> Any:
        return np.sqrt(definition(student, teacher)) / len(student)

    return root


def _series(rows: Array, gamma: float = 0.4) -> Array:
    product = 2 * gamma * (rows @ rows.T)
    return np.exp(-2 * gamma) * (1 + product + product**2 / 2)


def flow(student: Any, teacher: Any) -> Any:
    """Mean over samples of ‖G_S − G_T‖², G = F₁·F₂ᵀ/(h·w), Yim 2017."""
    ours, theirs = (_product(*side) for side in (student, teacher))
    return ((ours - theirs) ** 2).sum((1, 2)).mean()


def flow_of_columns(student: Any, teacher: Any) -> Any:
    """The same with a sum of the columns' norms, not squared."""
    ours, theirs = (_product(*side) for side in (student, teacher))
    return np.linalg.norm(ours - theirs, axis=1).sum(1).mean()


def _product(first: Array, second: Array) -> Array:
    a, b = (side.reshape(*side.shape[:2], -1) for side in (first, second))
    return a @ b.transpose(0, 2, 1) / a.shape[2]


def stronger(student: Array, teacher: Array, *, temperature: float = 1.0) -> Any:
    """T²·(1 − mean correlation within elements) + T²·(1 − … across elements), Huang 2022."""
    ours, theirs = (np.exp(log_softmax(side / temperature)) for side in (student, teacher))
    within, across = _uncorrelated(ours, theirs), _uncorrelated(ours.T, theirs.T)
    return temperature**2 * (within + across)


def _uncorrelated(a: Array, b: Array) -> Any:
    a, b = (side - side.mean(1, keepdims=True) for side in (a, b))
    return 1 - (_unit(a) * _unit(b)).sum(1).mean()
