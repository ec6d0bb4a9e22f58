"""Out-of-distribution (OOD) detection: AUROC and FPR@95TPR by confidence, entropy and energy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy
from numpy.typing import NDArray

from limbeck.core.measurement import Result
from limbeck.evaluate.bootstrap import Counts, PairedEstimate, Resamples, Statistic
from limbeck.evaluate.metrics import Ranking, auroc, entropies, fpr_at_95_tpr, log_probabilities

if TYPE_CHECKING:
    from limbeck.evaluate.context import Normalization


Values = NDArray[np.float64]
Score = Callable[[NDArray[Any]], Values]
Metric = Callable[[Ranking, Counts, Values], Values]


def max_softmax_probability(logits: NDArray[Any]) -> Values:
    """Compute the maximum softmax probability per sample, an OOD score.

    Source: Hendrycks and Gimpel, ICLR 2017 (arXiv:1610.02136).
    """
    return np.asarray(np.exp(log_probabilities(logits)).max(axis=1))


def negative_entropy(logits: NDArray[Any]) -> Values:
    """Compute the negative entropy per sample, in nats, an OOD score."""
    return -entropies(log_probabilities(logits))


def negative_free_energy(logits: NDArray[Any]) -> Values:
    r"""Compute the negative free energy per sample, $\log \sum_c e^{z_c}$, an OOD score.

    Source: Liu et al., NeurIPS 2020 (arXiv:2010.03759).
    """
    return np.asarray(scipy.special.logsumexp(logits.astype(np.float64), axis=1))


SCORES: Mapping[str, Score] = {
    "maximum softmax probability": max_softmax_probability,
    "entropy": negative_entropy,
    "energy": negative_free_energy,
}
"""OOD scores by name, `logits` to `[n]`: high for in-distribution samples."""


def ood_images(
    images: NDArray[Any], normalization: Normalization, *, seed: int
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Generate out-of-distribution images by name: noise, shuffled pixels, and inverted images.

    Both `images` and the generated ones are the models' inputs, `[n, channels, height, width]`, of
    pixels in [0, 1] before normalization. Shuffled images keep the colours of the originals,
    inverted ones their shapes.

    Example:
        >>> from limbeck.evaluate.context import Normalization
        >>> black = np.zeros((1, 1, 2, 2))
        >>> generated = dict(ood_images(black, Normalization((0.0,), (1.0,)), seed=0))
        >>> {name: image.max() for name, image in generated.items() if name != "noise"}
        {'shuffled pixels': np.float32(0.0), 'inverted': np.float32(1.0)}
    """
    random = np.random.default_rng(seed)
    mean, std = (np.asarray(c)[:, None, None] for c in (normalization.mean, normalization.std))
    pixels = np.clip(images * std + mean, 0, 1)
    flat = pixels.reshape(*pixels.shape[:2], -1)
    # One order per image for all channels, so that colours stay intact.
    order = random.permuted(np.broadcast_to(np.arange(flat.shape[2]), flat[:, :1].shape), axis=2)
    generated = {
        "noise": random.random(pixels.shape),
        "shuffled pixels": np.take_along_axis(flat, order, axis=2).reshape(pixels.shape),
        "inverted": 1 - pixels,
    }
    for name, values in generated.items():
        yield name, ((values - mean) / std).astype(np.float32)


class OodDetection(Result):
    """OOD detection metrics of one score on one set of OOD samples.

    Attributes:
        samples: The kind of OOD samples.
        score: The OOD score.
        count: Numbers of in-distribution and of OOD samples.
        auroc: The probability that a test sample scores above an OOD sample.
        fpr_at_95_tpr: FPR@95TPR: the share of OOD samples accepted at the threshold that accepts
            95 % of the test samples.
    """

    samples: str
    score: str
    count: tuple[int, int]
    auroc: PairedEstimate
    fpr_at_95_tpr: PairedEstimate


@dataclass(frozen=True)
class Logits:
    """The logits of one model, in and out of distribution: `[n, classes]` and `[m, classes]`."""

    in_distribution: NDArray[Any]
    out_of_distribution: NDArray[Any]


def ood_detection(
    student: Logits,
    teacher: Logits | None = None,
    *,
    samples: str,
    n_resamples: int = 1000,
    seed: int = 0,
) -> tuple[OodDetection, ...]:
    """Measure OOD detection by each score; `samples` names the kind of OOD samples.

    In-distribution and OOD samples are resampled separately.
    """
    count = (len(student.in_distribution), len(student.out_of_distribution))
    resamples = Resamples(sum(count), n_resamples=n_resamples, seed=seed, parts=count)
    in_distribution = np.repeat([1.0, 0.0], count)

    def statistic(metric: Metric, logits: Logits, score: Score) -> Statistic:
        both = np.concatenate([logits.in_distribution, logits.out_of_distribution])
        ranking = Ranking.of(score(both))
        return lambda counts: metric(ranking, counts, in_distribution)

    def paired(metric: Metric, score: Score) -> PairedEstimate:
        return resamples.paired(
            statistic(metric, student, score),
            None if teacher is None else statistic(metric, teacher, score),
        )

    return tuple(
        OodDetection(
            samples=samples,
            score=name,
            count=count,
            auroc=paired(auroc, score),
            fpr_at_95_tpr=paired(fpr_at_95_tpr, score),
        )
        for name, score in SCORES.items()
    )
