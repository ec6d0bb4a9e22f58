"""Samples from outside of what a model was made for, and how well its answers give them away."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy
from numpy.typing import NDArray

from limbeck.evaluate.bootstrap import Beside, Counts, Resamples
from limbeck.evaluate.interval import Result
from limbeck.evaluate.probabilities import entropies, log_probabilities
from limbeck.evaluate.ranking import Ranking, auroc, false_positives

if TYPE_CHECKING:
    from limbeck.evaluate.sitting import Pixels

Values = NDArray[np.float64]
Score = Callable[[NDArray[Any]], Values]
Figure = Callable[[Ranking, Counts, Values], Values]


def surest(logits: NDArray[Any]) -> Values:
    """Score a sample by its largest probability.

    Source: Hendrycks and Gimpel, ICLR 2017 (arXiv:1610.02136).
    """
    return np.asarray(np.exp(log_probabilities(logits)).max(axis=1))


def least_entropy(logits: NDArray[Any]) -> Values:
    """Score a sample by its negative entropy, in nats."""
    return -entropies(log_probabilities(logits))


def energy(logits: NDArray[Any]) -> Values:
    r"""Score a sample by its negative free energy, $\log \sum_c e^{z_c}$.

    Source: Liu et al., NeurIPS 2020 (arXiv:2010.03759).
    """
    return np.asarray(scipy.special.logsumexp(logits.astype(np.float64), axis=1))


SCORES: Mapping[str, Score] = {
    "largest probability": surest,
    "entropy": least_entropy,
    "energy": energy,
}
"""By name: what is high for samples that the model was made for. `logits` to `[n]`."""


def pictures_outside(
    pictures: NDArray[Any], pixels: Pixels, *, seed: int
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Make pictures that are none of the classes: noise, shuffled pixels, and negatives.

    All lie in the pixel box [0, 1], and shuffled and inverted ones have the brightness or the
    shapes of the pictures that they come from.

    Args:
        pictures: What the models take, `[n, channels, height, width]`.
        pixels: How that comes from pixels in [0, 1].
        seed: Decides noise and order.

    Returns:
        Names and pictures as the models take them, of the same shape.

    Example:
        >>> from limbeck.evaluate.sitting import Pixels
        >>> black = np.zeros((1, 1, 2, 2))
        >>> made = dict(pictures_outside(black, Pixels(mean=(0.0,), std=(1.0,)), seed=0))
        >>> {name: picture.max() for name, picture in made.items() if name != "noise"}
        {'shuffled pixels': np.float32(0.0), 'inverted': np.float32(1.0)}
    """
    random = np.random.default_rng(seed)
    mean, std = (np.asarray(part)[:, None, None] for part in (pixels.mean, pixels.std))
    shown = np.clip(pictures * std + mean, 0, 1)
    flat = shown.reshape(*shown.shape[:2], -1)
    # One order a picture, the same in all its channels: colours stay whole.
    order = random.permuted(np.broadcast_to(np.arange(flat.shape[2]), flat[:, :1].shape), axis=2)
    made = {
        "noise": random.random(shown.shape),
        "shuffled pixels": np.take_along_axis(flat, order, axis=2).reshape(shown.shape),
        "inverted": 1 - shown,
    }
    for name, picture in made.items():
        yield name, ((picture - mean) / std).astype(np.float32)


class Outside(Result):
    """How well samples from outside are told from the test samples, by one score.

    Attributes:
        samples: What the samples from outside are.
        score: What they are told by.
        count: How many test samples and how many from outside were looked at.
        auroc: How often a test sample scores above one from outside.
        false_positives: The share let through of those from outside, where 95 % of the test samples
            are.
    """

    samples: str
    score: str
    count: tuple[int, int]
    auroc: Beside
    false_positives: Beside


@dataclass(frozen=True)
class Logits:
    """What one model answers inside and outside: `[n, classes]` and `[m, classes]`."""

    inside: NDArray[Any]
    outside: NDArray[Any]


def told_apart(
    student: Logits,
    teacher: Logits | None = None,
    *,
    samples: str,
    draws: int = 1000,
    seed: int = 0,
) -> tuple[Outside, ...]:
    """Measure by each of the scores how well samples from outside are told from those inside.

    Args:
        student: What the student answers.
        teacher: What the teacher answers to the same samples.
        samples: What the samples from outside are.
        draws: How often both sets are drawn again, each on its own.
        seed: Decides the draws.
    """
    count = (len(student.inside), len(student.outside))
    resamples = Resamples(sum(count), draws=draws, seed=seed, parts=count)
    inside = np.repeat([1.0, 0.0], count)

    def beside(figure: Figure, score: Score) -> Beside:
        one = _ranked(student, score)
        other = None if teacher is None else _ranked(teacher, score)
        return resamples.beside(
            lambda counts: figure(one, counts, inside),
            None if other is None else lambda counts: figure(other, counts, inside),
        )

    return tuple(
        Outside(
            samples=samples,
            score=name,
            count=count,
            auroc=beside(auroc, score),
            false_positives=beside(false_positives, score),
        )
        for name, score in SCORES.items()
    )


def _ranked(logits: Logits, score: Score) -> Ranking:
    return Ranking.of(score(np.concatenate([logits.inside, logits.outside])))
