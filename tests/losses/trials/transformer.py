"""Attention, hidden states and the relations of tokens."""

from functools import partial

import numpy as np
import torch
from scipy import special

from limbeck import losses
from limbeck.testing import check_loss


def attention_kl(student, teacher, heads="match"):
    if heads == "mean":
        student, teacher = student.mean(1, keepdims=True), teacher.mean(1, keepdims=True)
    return special.rel_entr(teacher, student).sum(-1).reshape(len(student), -1).mean(1)


def attention_mse(student, teacher):
    student, teacher = (np.where(x <= -100, 0, x) for x in (student, teacher))
    return mean_squares(student, teacher)


def mean_squares(student, teacher):
    return ((student - teacher) ** 2).reshape(len(student), -1).mean(1)


def hidden_cosine(student, teacher):
    sizes = np.linalg.norm(student, axis=-1) * np.linalg.norm(teacher, axis=-1)
    return (1 - (student * teacher).sum(-1) / sizes).reshape(len(student), -1).mean(1)


def minilm_relation(student, teacher, heads=12):
    relations = []
    for states in (teacher, student):
        samples, tokens, features = states.shape
        split = states.reshape(samples, tokens, heads, features // heads)
        scores = np.einsum("sihd,sjhd->shij", split, split) / np.sqrt(features // heads)
        relations.append(special.softmax(scores, axis=-1))
    return special.rel_entr(*relations).sum(-1).mean((1, 2))


def normal(*shapes):
    """Draw student and teacher of these shapes, six samples of each."""

    def draw(generator, scale):
        student, teacher = (
            torch.randn(6, *shape, generator=generator, dtype=torch.float64) * scale
            for shape in (shapes[0], shapes[-1])
        )
        return student, teacher

    return draw


def probabilities(*shapes):
    """Draw distributions over the last axis: soft at scale 1, and one for one key at 1e4."""

    def draw(generator, scale):
        student, teacher = normal(*shapes)(generator, 0.3 * scale)
        return student.softmax(-1), teacher.softmax(-1)

    return draw


def of_scores(student, teacher):
    """Take scores, whose softmax is as precise as the loss."""
    single = torch.promote_types(student.dtype, torch.float32)
    student, teacher = (x.softmax(-1, dtype=single) for x in (student, teacher))
    return losses.attention_kl(student, teacher)


def attention_kl_of_scores(student, teacher):
    return attention_kl(*(special.softmax(x, axis=-1) for x in (student, teacher)))


def of_one_query(student, teacher):
    """Hide the mask: `[elements, heads, keys]` has no tokens that could be padding."""
    return losses.attention_kl(student, teacher)


def trial(loss, reference, draw, **more):
    return partial(check_loss, loss, kind="feature", reference=reference, draw=draw, **more)


def of_states(loss, reference):
    return [trial(loss, reference, draw) for draw in (normal((4, 5)), normal((5,)))]


two = {"heads": 2}
averaged = {"heads": "mean"}

TRIALS = {
    "attention_kl": [
        # It is at its minimum among distributions only; a gradient of -1 for every probability,
        # which it has at student = teacher, is one that softmax does not let through.
        trial(losses.attention_kl, attention_kl, probabilities((2, 3, 4)), without=[1]),
        trial(of_one_query, attention_kl, probabilities((2, 4)), without=[1]),
        trial(
            partial(losses.attention_kl, **averaged),
            partial(attention_kl, **averaged),
            probabilities((2, 3, 4), (3, 3, 4)),
            without=[1],
        ),
        trial(of_scores, attention_kl_of_scores, normal((2, 3, 4))),
    ],
    "attention_mse": [trial(losses.attention_mse, attention_mse, normal((2, 3, 3)))],
    "embedding_mse": of_states(losses.embedding_mse, mean_squares),
    "hidden_cosine": of_states(losses.hidden_cosine, hidden_cosine),
    "hidden_mse": of_states(losses.hidden_mse, mean_squares),
    "minilm_relation": [
        trial(
            partial(losses.minilm_relation, **two),
            partial(minilm_relation, **two),
            normal((4, 6), (4, 10)),
        ),
    ],
}
