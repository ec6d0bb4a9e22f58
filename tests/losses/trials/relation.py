"""Losses over relations against their formulas in numpy and float64."""

from functools import partial
from math import factorial

import numpy as np
import torch
from scipy.special import rel_entr, softmax

from limbeck import losses
from limbeck.testing import check_loss


def rows(features):
    return features.reshape(len(features), -1)


def unit_rows(vectors):
    lengths = np.sqrt((vectors**2).sum(-1, keepdims=True))
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)


def huber(difference):
    size = np.abs(difference)
    return np.where(size <= 1, size**2 / 2, size - 0.5)


def distances(features):
    f = rows(features)
    d = np.sqrt(((f[:, None] - f[None]) ** 2).sum(-1))
    return d / d[d > 0].mean() if (d > 0).any() else d


def angles(features):
    f = rows(features)
    e = unit_rows(f[None] - f[:, None])
    return np.einsum("ijd,ikd->ijk", e, e)


def kl(p, q):
    return rel_entr(p, q).sum()


def rkd_distance(student, teacher, similarity="huber", temperature=1.0):
    s, t, n = distances(student), distances(teacher), len(student)
    if similarity == "huber":
        return huber(s - t).mean()
    total = 0.0
    for i in range(n):
        other = [j for j in range(n) if j != i]
        if other:
            p, q = (softmax(side[i, other] / temperature) for side in (t, s))
            total += kl(p, q)
    return temperature**2 * total / n


def rkd_angle(student, teacher, similarity="huber", temperature=1.0):
    s, t, n = angles(student), angles(teacher), len(student)
    if similarity == "huber":
        return huber(s - t).mean()
    total = 0.0
    for i in range(n):
        for j in range(n):
            other = [k for k in range(n) if k not in (i, j)]
            if i != j and other:
                p, q = (softmax(side[i, j, other] / temperature) for side in (t, s))
                total += kl(p, q)
    return temperature**2 * total / max(1, n * (n - 1))


def similarity_preserving(student, teacher):
    s, t = (unit_rows(rows(side) @ rows(side).T) for side in (student, teacher))
    return ((s - t) ** 2).sum() / len(student) ** 2


def correlation_congruence(student, teacher, kernel="gaussian", gamma=0.4, order=2):
    def correlations(features):
        products = unit_rows(rows(features)) @ unit_rows(rows(features)).T
        if kernel == "bilinear":
            return products
        terms = [(2 * gamma * products) ** p / factorial(p) for p in range(order + 1)]
        return np.exp(-2 * gamma) * sum(terms)

    return ((correlations(student) - correlations(teacher)) ** 2).sum() / len(student) ** 2


def pkt(student, teacher):
    def probabilities(features):
        f = rows(features)
        f = f / (np.sqrt((f**2).sum(1, keepdims=True)) + 1e-7)
        near = (f @ f.T + 1) / 2
        return near / near.sum(1, keepdims=True)

    p, q = probabilities(teacher), probabilities(student)
    return (p * np.log((p + 1e-7) / (q + 1e-7))).sum() / len(student) ** 2


def averaged(maps, height, width):
    """Means over the fields of a grid, which overlap where it does not divide the map."""

    def fields(size, parts):
        return [slice(k * size // parts, -(-(k + 1) * size // parts)) for k in range(parts)]

    down, across = fields(maps.shape[2], height), fields(maps.shape[3], width)
    return np.stack(
        [np.stack([maps[:, :, a, b].mean((2, 3)) for b in across], -1) for a in down], -2
    )


def smaller(one, other):
    height, width = (min(one.shape[axis], other.shape[axis]) for axis in (2, 3))
    return averaged(one, height, width), averaged(other, height, width)


def spatial_correlation(student, teacher, normalized=False):
    values = []
    for mine, other in zip(*smaller(student, teacher), strict=True):
        matrices = []
        for maps in (mine, other):
            f = maps.reshape(len(maps), -1)
            f = unit_rows(f.T).T if normalized else f
            matrices.append(f.T @ f)
        squares = (matrices[0] - matrices[1]) ** 2
        values.append(squares.mean() if normalized else squares.sum())
    return np.mean(values)


def fsp(student, teacher):
    def gram(early, late):
        early, late = smaller(early, late)
        places = early.shape[2] * early.shape[3]
        return np.einsum("nahw,nbhw->nab", early, late) / places

    return ((gram(*student) - gram(*teacher)) ** 2).mean()


def normal(generator, scale, *shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64) * scale


def of_two_widths(generator, scale):
    return normal(generator, scale, 5, 4), normal(generator, scale, 5, 7)


def maps_of_two_sizes(generator, scale):
    return normal(generator, scale, 4, 2, 3, 4), normal(generator, scale, 4, 5, 5, 2)


def two_layers(generator, scale):
    shapes = (4, 3, 4, 4), (4, 2, 2, 3)
    student, teacher = (tuple(normal(generator, scale, *s) for s in shapes) for _ in range(2))
    return student, teacher


def distance_by_huber(student, teacher):
    return losses.rkd_distance(student, teacher)


def angle_by_huber(student, teacher):
    return losses.rkd_angle(student, teacher)


def trial(loss, reference, draw=None, without=(), **settings):
    bound = partial(loss, **settings) if settings else loss
    reference = partial(reference, **settings) if settings else reference
    return partial(
        check_loss, bound, kind="relation", reference=reference, draw=draw, without=without
    )


def both(loss, reference, **settings):
    # The minimum is tried where both sides have one shape, so that one may stand for the other.
    return [
        trial(loss, reference, **settings),
        trial(loss, reference, draw=of_two_widths, without=[1], **settings),
    ]


TRIALS = {
    "correlation_congruence": [
        *both(losses.correlation_congruence, correlation_congruence),
        trial(losses.correlation_congruence, correlation_congruence, gamma=1.0, order=4),
        trial(losses.correlation_congruence, correlation_congruence, kernel="bilinear"),
    ],
    "fsp": [trial(losses.fsp, fsp, draw=two_layers)],
    "pkt": both(losses.pkt, pkt),
    "rkd_angle": [
        *both(angle_by_huber, rkd_angle),
        trial(losses.rkd_angle, rkd_angle, similarity="kl"),
    ],
    "rkd_distance": [
        *both(distance_by_huber, rkd_distance),
        trial(losses.rkd_distance, rkd_distance, similarity="kl"),
    ],
    "similarity_preserving": both(losses.similarity_preserving, similarity_preserving),
    "spatial_correlation": [
        trial(losses.spatial_correlation, spatial_correlation),
        trial(losses.spatial_correlation, spatial_correlation, normalized=True),
        trial(losses.spatial_correlation, spatial_correlation, maps_of_two_sizes, without=[1]),
    ],
}
