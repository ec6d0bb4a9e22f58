"""Corruptions of images and texts at five severities, and the accuracy under them."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import scipy
from numpy.typing import NDArray

from limbeck.core.measurement import Result
from limbeck.errors import InputError, Problem, check_choice
from limbeck.evaluate.bootstrap import (
    PairedEstimate,
    Resamples,
    Statistic,
    mean,
    paired_difference,
    shares,
)
from limbeck.evaluate.comparison import Estimate, MetricComparison, compare
from limbeck.evaluate.metrics import log_probabilities
from limbeck.export.predictor import Predictor

Array = NDArray[np.float64]
T = TypeVar("T")
ImageCorruption = Callable[[Array, int, np.random.Generator], Array]
NOISE = (0.04, 0.08, 0.12, 0.18, 0.26)
"""Standard deviation of Gaussian noise, for pixels in [0, 1]."""

BLUR = (0.4, 0.7, 1.0, 1.4, 2.0)
"""Standard deviation of a Gaussian blur, in pixels of an image whose shorter side is 32."""

CONTRAST = (0.75, 0.5, 0.4, 0.3, 0.15)
"""Factor of each pixel's distance from its channel's mean."""

OCCLUSION = (0.15, 0.25, 0.35, 0.45, 0.55)
"""Side of a grey square, as a share of the image's."""

JPEG = (50, 30, 18, 10, 5)
"""JPEG quality."""

SEVERITIES = (1, 2, 3, 4, 5)


def corrupt_images(
    pixels: NDArray[np.float32], kind: str, *, severity: int, seed: int = 0
) -> NDArray[np.float32]:
    """Apply a corruption to images, reproducibly by the seed.

    Random draws do not depend on the severity, so that a higher severity is a stronger version of
    the same corruption: the same noise scaled up, a larger square at the same position.

    Args:
        pixels: In [0, 1], `[n, channels, height, width]`, any number of channels.
        kind: One of `IMAGE_CORRUPTIONS`.
        severity: From 0 (no change) to 5.
        seed: Seed of noise and positions.

    Raises:
        InputError: The kind or the severity does not exist.

    Example:
        >>> black = np.zeros((1, 1, 8, 8), dtype=np.float32)
        >>> float(corrupt_images(black, "occlusion", severity=5).max())
        0.5

    Source: Hendrycks & Dietterich, ICLR 2019 (arXiv:1903.12261); the severities are limbeck's own.
    """
    _check(kind, severity, IMAGE_CORRUPTIONS)
    if severity == 0:
        return pixels.copy()
    random = np.random.default_rng([seed, list(IMAGE_CORRUPTIONS).index(kind)])
    corrupted = IMAGE_CORRUPTIONS[kind](pixels.astype(np.float64), severity - 1, random)
    return np.clip(corrupted, 0, 1).astype(np.float32)


def _check(kind: str, severity: int, kinds: Collection[str]) -> None:
    check_choice(kind, tuple(kinds), where="kind")
    if severity not in (0, *SEVERITIES):
        raise InputError(Problem("severity", severity, "a whole number from 0 to 5"))


def _noise(pixels: Array, level: int, random: np.random.Generator) -> Array:
    return pixels + NOISE[level] * random.normal(size=pixels.shape)


def _blur(pixels: Array, level: int, _: np.random.Generator) -> Array:
    sigma = BLUR[level] * min(pixels.shape[2:]) / 32
    return scipy.ndimage.gaussian_filter(pixels, sigma=(0, 0, sigma, sigma), mode="nearest")


def _contrast(pixels: Array, level: int, _: np.random.Generator) -> Array:
    channel_mean = pixels.mean(axis=(2, 3), keepdims=True)
    return channel_mean + CONTRAST[level] * (pixels - channel_mean)


def _occlusion(pixels: Array, level: int, random: np.random.Generator) -> Array:
    height, width = pixels.shape[2:]
    occluded = pixels.copy()
    for image, (row, column) in zip(occluded, random.random((len(pixels), 2)), strict=True):
        rows = _span(row, height, OCCLUSION[level])
        image[:, rows, _span(column, width, OCCLUSION[level])] = 0.5
    return occluded


def _span(centre: float, length: int, share: float) -> slice:
    """Return the pixel range of the square's side; a larger share's contains a smaller one's."""
    size = max(1, round(share * length))
    first = math.floor(centre * length) - size // 2
    return slice(max(first, 0), min(first + size, length))


def _jpeg(pixels: Array, level: int, _: np.random.Generator) -> Array:
    values = np.round(pixels * 255).astype(np.uint8)
    if pixels.shape[1] == 3:
        decoded = [_through_jpeg(image.transpose(1, 2, 0), level) for image in values]
        return np.stack(decoded).transpose(0, 3, 1, 2) / 255
    # Other than RGB, each channel is compressed separately.
    return np.stack([[_through_jpeg(one, level) for one in image] for image in values]) / 255


def _through_jpeg(pixels: NDArray[np.uint8], level: int) -> NDArray[np.uint8]:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, format="JPEG", quality=JPEG[level])
    with Image.open(file) as image:
        return np.asarray(image)


IMAGE_CORRUPTIONS: dict[str, ImageCorruption] = {
    "gaussian noise": _noise,
    "blur": _blur,
    "contrast": _contrast,
    "occlusion": _occlusion,
    "jpeg": _jpeg,
}
"""Corruptions of images, by name."""

TextCorruption = Callable[[list[str], int, np.random.Generator], list[str]]
WORDS = (0.05, 0.1, 0.2, 0.35, 0.5)
"""Share of the words that get a typo or are dropped, rounded up."""


def corrupt_texts(
    texts: Sequence[str], kind: str, *, severity: int, seed: int = 0
) -> tuple[str, ...]:
    """Apply a corruption to texts; the words changed at one severity are also changed at the next.

    Words are separated by spaces. A typo doubles a letter, drops one or swaps two, in any script.

    Args:
        texts: The texts.
        kind: One of `TEXT_CORRUPTIONS`.
        severity: From 0 (no change) to 5.
        seed: Seed of the choice of words and of their change.

    Raises:
        InputError: The kind or the severity does not exist.

    Example:
        >>> corrupt_texts(["a fine film for a rainy day"], "dropped words", severity=5)
        ('a fine rainy',)
    """
    _check(kind, severity, TEXT_CORRUPTIONS)
    if severity == 0:
        return tuple(texts)
    corrupt = TEXT_CORRUPTIONS[kind]
    return tuple(
        " ".join(corrupt(text.split(" "), severity - 1, np.random.default_rng([seed, number])))
        for number, text in enumerate(texts)
    )


def _typos(words: list[str], level: int, random: np.random.Generator) -> list[str]:
    order = random.permutation(len(words))
    hit = set(order[: math.ceil(WORDS[level] * len(words))].tolist())
    # Drawn for every word, changed or not, so that its typo is the same at every severity.
    positions = random.random(len(words))
    kinds = random.integers(3, size=len(words))
    return [
        _mistyped(word, positions[number], int(kinds[number])) if number in hit else word
        for number, word in enumerate(words)
    ]


def _mistyped(word: str, position: float, kind: int) -> str:
    """Return a word with one letter doubled, dropped, or swapped with the next.

    Example:
        >>> [_mistyped("film", 0.3, kind) for kind in range(3)]
        ['fiilm', 'flm', 'flim']
    """
    if not word:
        return word
    index = int(position * len(word))
    before, letter, after = word[:index], word[index], word[index + 1 :]
    if kind == 1 and len(word) > 1:
        return before + after
    if kind == 2 and after and after[0] != letter:
        return before + after[0] + letter + after[1:]
    return before + letter + letter + after


def _dropped(words: list[str], level: int, random: np.random.Generator) -> list[str]:
    """Drop words; at least one stays."""
    count = min(math.ceil(WORDS[level] * len(words)), len(words) - 1)
    dropped = set(random.permutation(len(words))[:count].tolist())
    return [word for number, word in enumerate(words) if number not in dropped]


TEXT_CORRUPTIONS: dict[str, TextCorruption] = {"typos": _typos, "dropped words": _dropped}
"""Corruptions of texts, by name."""

Corruption = Callable[[str, int], Mapping[str, Any]]
"""Returns all samples after a corruption of a kind and a severity; 0 is no change."""

BATCH = 100
"""Batch size of predictions."""


class CorruptedRow(Result):
    """The accuracy under one corruption, at one severity from 1 to 5."""

    kind: str
    severity: int
    student: Estimate
    teacher: Estimate | None


def compare_corruptions(
    student: Predictor,
    teacher: Predictor | None,
    labels: NDArray[np.int64],
    *,
    kinds: Sequence[str],
    corrupt: Corruption,
    resamples: Resamples,
    margin: float,
) -> tuple[tuple[CorruptedRow, ...], list[MetricComparison]]:
    """Compare the accuracy of both models under every corruption and severity."""
    predictors = [student] if teacher is None else [student, teacher]

    def correct(kind: str, severity: int) -> list[NDArray[np.bool_]]:
        inputs = corrupt(kind, severity)
        return [predict_logits(one, inputs).argmax(axis=1) == labels for one in predictors]

    def compared(name: str, estimates: PairedEstimate, method: str) -> MetricComparison:
        return compare(
            name,
            unit="share",
            direction="higher",
            margin=margin,
            method=f"Accuracy of the exported file, mean over five severities of {method}.",
            **dict(estimates),
        )

    clean = np.array(correct(kinds[0], 0), dtype=np.float64)
    grid = [[correct(kind, severity) for severity in SEVERITIES] for kind in kinds]
    # [models, kinds, severities, samples]
    corrupted = np.moveaxis(np.array(grid, dtype=np.float64), 2, 0).copy()
    rows = []
    for k, kind in enumerate(kinds):
        for s, severity in enumerate(SEVERITIES):
            both = shares(*_pair(list(corrupted[:, k, s])))
            rows.append(
                CorruptedRow(
                    kind=kind, severity=severity, student=both.student, teacher=both.teacher
                )
            )
    listed = ", ".join(kinds)
    overall = corrupted.mean(axis=(1, 2))
    comparisons = [compared("Mean accuracy under corruption", _means(resamples, overall), listed)]
    if clean.any(axis=1).all():
        ratios = resamples.paired(
            *_pair([_ratio_of(*each) for each in zip(overall, clean, strict=True)])
        )
        method = f"{listed}, divided by the accuracy on the clean samples"
        comparisons.append(compared("Relative accuracy under corruption", ratios, method))
    for k, kind in enumerate(kinds):
        means = _means(resamples, corrupted[:, k].mean(axis=1))
        comparisons.append(compared(f"Accuracy under {kind}", means, kind))
    return tuple(rows), comparisons


def prediction_variance(
    predictor: Predictor, noisy: Sequence[Mapping[str, Any]]
) -> NDArray[np.float64]:
    r"""Measure the prediction variance under noise, `[n]`.

    $$\sum_c \mathrm{Var}_k\; p_c(x + \eta_k)$$
    """
    p = np.stack([np.exp(log_probabilities(predict_logits(predictor, one))) for one in noisy])
    return p.var(axis=0, ddof=1).sum(axis=1)


def compare_variance(
    student: Predictor,
    teacher: Predictor | None,
    noisy: Sequence[Mapping[str, Any]],
    *,
    resamples: Resamples,
) -> MetricComparison:
    """Compare the prediction variance under noise, see `prediction_variance`, of both models."""
    predictors = [student] if teacher is None else [student, teacher]
    variances = [partial(mean, values=prediction_variance(one, noisy)) for one in predictors]
    both = resamples.paired(*_pair(variances))
    return compare(
        "Prediction variance under Gaussian noise",
        unit="number",
        direction="lower",
        margin=0.1 * (both.teacher or both.student).value,
        method=(
            f"Variance of the exported file's probabilities over {len(noisy)} draws of Gaussian "
            f"noise of standard deviation {NOISE[0]}, for pixels from 0 to 1; summed over classes."
        ),
        **dict(both),
    )


def predict_logits(predictor: Predictor, inputs: Mapping[str, Any]) -> NDArray[np.float32]:
    """Compute the logits `[n, classes]` of many samples, in batches."""
    arrays = {name: np.asarray(values) for name, values in inputs.items()}
    count = len(next(iter(arrays.values())))
    parts = [
        predictor.predict({name: values[at : at + BATCH] for name, values in arrays.items()})
        for at in range(0, count, BATCH)
    ]
    return np.concatenate([np.asarray(part["logits"], dtype=np.float32) for part in parts])


def _pair(values: Sequence[T]) -> tuple[T, T | None]:
    """Return the student's value, and the teacher's or None."""
    return values[0], values[1] if len(values) > 1 else None


def _means(resamples: Resamples, values: Array) -> PairedEstimate:
    """Estimate mean accuracies, with a paired interval: a bootstrap may have zero width."""
    both = resamples.paired(*_pair([partial(mean, values=each) for each in values]))
    if len(values) == 1:
        return both
    return both.model_copy(update={"difference": paired_difference(*values)})


def _ratio_of(values: Array, clean: Array) -> Statistic:
    def ratio(counts: Array) -> Array:
        divisor = counts @ clean
        # Undefined if no clean sample is correct.
        undefined = np.full_like(divisor, np.nan)
        return np.divide(counts @ values, divisor, out=undefined, where=divisor > 0)

    return ratio
