"""Losses over features against their formulas in numpy and float64."""

from functools import partial

import numpy as np
import torch

from limbeck import losses
from limbeck.testing import check_loss


def per_sample(function):
    """A loss of one sample's features, `[...]` each, made one of a batch."""

    def loss(student, teacher, **settings):
        pairs = zip(student, teacher, strict=True)
        return np.array([function(s, t, **settings) for s, t in pairs], dtype=np.float64)

    return loss


def averages(inputs, outputs):
    """The matrix that averages `inputs` numbers to `outputs`, by fields that cover all of them."""
    matrix = np.zeros((outputs, inputs))
    for place in range(outputs):
        first, last = place * inputs // outputs, -(-(place + 1) * inputs // outputs)
        matrix[place, first:last] = 1 / (last - first)
    return matrix


def shrunk(features, size):
    """`[channels, *space]` averaged to a size, axis by axis."""
    for axis, length in enumerate(size, start=1):
        matrix = averages(features.shape[axis], length)
        features = np.moveaxis(np.tensordot(matrix, features, (1, axis)), 0, axis)
    return features


def alike(student, teacher):
    """Two maps `[channels, *space]` at the size of the smaller; sequences get channels first."""
    if student.ndim == 2:
        student, teacher = student.T, teacher.T
    size = np.minimum(student.shape[1:], teacher.shape[1:])
    return shrunk(student, size), shrunk(teacher, size)


def normalized(vector):
    length = np.sqrt((vector**2).sum())
    return vector / length if length else vector


def attention(features, power):
    return normalized((np.abs(features) ** power).mean(0).ravel())


@per_sample
def fitnet_hint(student, teacher, norm="l2"):
    d = np.abs(student - teacher)
    huber = np.where(d <= 1, d**2 / 2, d - 0.5)
    return {"l2": d**2, "l1": d, "huber": huber}[norm].mean()


@per_sample
def attention_transfer(student, teacher, power=2.0, norm="mean"):
    a, b = (attention(side, power) for side in alike(student, teacher))
    return ((a - b) ** 2).sum() / (len(a) if norm == "mean" else 1)


@per_sample
def gram(student, teacher, scale="gatys"):
    a, b = (side.reshape(len(side), -1) for side in alike(student, teacher))
    total = ((a @ a.T - b @ b.T) ** 2).sum()
    return total / (4 * a.size**2) if scale == "gatys" else total


@per_sample
def activation_boundary(student, teacher, margin=1.0, variant="hinge"):
    total = 0.0
    for s, t in zip(student.ravel(), teacher.ravel(), strict=True):
        if variant == "hinge":
            if t > 0:
                total += (s - margin) ** 2 if s <= margin else 0
            else:
                total += (s + margin) ** 2 if s > -margin else 0
        else:  # on the other side: its own distance and the whole of the teacher's
            total += (s - t) ** 2 if (s > 0) == (t > 0) else s**2 + t**2
    return total


@per_sample
def neuron_selectivity(student, teacher, kernel="polynomial"):
    a, b = alike(student, teacher)
    a, b = ([normalized(channel.ravel()) for channel in side] for side in (a, b))
    power = 2 if kernel == "polynomial" else 1

    def mean(left, right):
        return np.mean([np.dot(x, y) ** power for x in left for y in right])

    return mean(a, a) + mean(b, b) - 2 * mean(a, b)


@per_sample
def factor_transfer(student, teacher, form="map", distance="l1", power=2.0):
    if form == "map":
        a, b = (attention(side, power) for side in alike(student, teacher))
        return (np.abs(a - b) ** (1 if distance == "l1" else 2)).mean()
    difference = normalized(student.ravel()) - normalized(teacher.ravel())
    return np.linalg.norm(difference, ord=1 if distance == "l1" else 2)


@per_sample
def variational_information(student, teacher, variance=1.0):
    variance = np.asarray(variance)
    if variance.ndim == 1:
        axes = -1 if student.ndim == 2 else (-1, *[1] * (student.ndim - 1))
        variance = variance.reshape(axes)
    return np.mean(((teacher - student) ** 2 / variance + np.log(variance)) / 2)


@per_sample
def overhaul(student, teacher, margin=-0.5):
    margin = np.asarray(margin)
    if margin.ndim == 1:
        margin = margin.reshape(-1 if student.ndim == 2 else (-1, *[1] * (student.ndim - 1)))
    m = np.broadcast_to(margin, teacher.shape)
    value = (student - m) ** 2 * ((student > m) & (teacher <= m))
    value += (student - teacher) ** 2 * ((student > teacher) & (teacher > m) & (teacher <= 0))
    value += (student - teacher) ** 2 * (teacher > 0)
    return value.sum()


@per_sample
def pyramid(student, teacher):
    if student.ndim == 1:
        student, teacher = student[:, None], teacher[:, None]
    elif student.ndim == 2:
        student, teacher = student.T, teacher.T
    value, weight, total = np.mean((student - teacher) ** 2), 1.0, 1.0
    for size in (4, 2, 1):
        if size < student.shape[1]:
            weight /= 2
            total += weight
            a, b = (shrunk(side, [size] * (side.ndim - 1)) for side in (student, teacher))
            value += weight * np.mean((a - b) ** 2)
    return value / total


def review_kd(student, teacher):
    if isinstance(student, tuple):
        return sum(pyramid(s, t) for s, t in zip(student, teacher, strict=True))
    return pyramid(student, teacher)


def drawn(*shapes):
    """Draw a pair of the shapes; of several layers if the shapes are lists."""

    def one(shape, generator, scale):
        if isinstance(shape, list):
            return tuple(one(layer, generator, scale) for layer in shape)
        return torch.randn(6, *shape, generator=generator, dtype=torch.float64) * scale

    def draw(generator, scale):
        student, teacher = (one(shape, generator, scale) for shape in shapes)
        return student, teacher

    return draw


def trial(loss, reference, *, shapes=(), without=(), **settings):
    return partial(
        check_loss,
        partial(loss, **settings),
        kind="feature",
        reference=partial(reference, **settings),
        without=without,
        draw=drawn(*shapes) if shapes else None,
    )


def learned(loss, reference, name, values, shape):
    """A trial of one number a channel."""
    return partial(
        check_loss,
        partial(loss, **{name: torch.tensor(values, dtype=torch.float64)}),
        kind="feature",
        reference=partial(reference, **{name: values}),
        draw=drawn(shape, shape),
    )


MAP, SEQUENCE = (3, 2, 3), (4, 3)
LAYERS = [(1, 3, 3), (2, 2)]

TRIALS = {
    "activation_boundary": [
        # A fixed margin, not the teacher's: no minimum at student = teacher.
        trial(losses.activation_boundary, activation_boundary, without=[1]),
        trial(losses.activation_boundary, activation_boundary, margin=0.3, without=[1]),
        trial(losses.activation_boundary, activation_boundary, variant="margin"),
    ],
    "attention_transfer": [
        trial(losses.attention_transfer, attention_transfer),
        trial(losses.attention_transfer, attention_transfer, norm="sum", power=3.0),
        trial(losses.attention_transfer, attention_transfer, shapes=(SEQUENCE, SEQUENCE)),
    ],
    "factor_transfer": [
        trial(losses.factor_transfer, factor_transfer),
        trial(losses.factor_transfer, factor_transfer, distance="l2"),
        trial(losses.factor_transfer, factor_transfer, form="factor"),
        trial(losses.factor_transfer, factor_transfer, form="factor", distance="l2"),
    ],
    "fitnet_hint": [
        trial(losses.fitnet_hint, fitnet_hint),
        trial(losses.fitnet_hint, fitnet_hint, norm="l1"),
        trial(losses.fitnet_hint, fitnet_hint, norm="huber"),
    ],
    "gram": [
        trial(losses.gram, gram),
        trial(losses.gram, gram, scale="sum", shapes=(SEQUENCE, SEQUENCE)),
    ],
    "neuron_selectivity": [
        trial(losses.neuron_selectivity, neuron_selectivity, shapes=(MAP, MAP)),
        trial(losses.neuron_selectivity, neuron_selectivity, shapes=((4, 1, 2), (4, 1, 2))),
        trial(losses.neuron_selectivity, neuron_selectivity, kernel="linear"),
    ],
    "overhaul": [
        trial(losses.overhaul, overhaul, margin=-0.5),
        learned(losses.overhaul, overhaul, "margin", [-0.2, -1.0, 0.0], MAP),
    ],
    "review_kd": [
        trial(losses.review_kd, review_kd, shapes=((1, 5, 3), (1, 5, 3))),
        trial(losses.review_kd, review_kd, shapes=(LAYERS, LAYERS)),
        trial(losses.review_kd, review_kd, shapes=((3, 2), (3, 2))),
    ],
    "variational_information": [
        trial(losses.variational_information, variational_information, variance=2.0),
        learned(
            losses.variational_information,
            variational_information,
            "variance",
            [0.5, 1.0, 7.0],
            MAP,
        ),
    ],
}
