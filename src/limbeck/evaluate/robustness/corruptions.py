"""Image corruptions: five kinds at five severities, seeded and within the pixel range."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

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
from limbeck.evaluate.comparison import Estimate, MetricComparison, Unit, compare
from limbeck.evaluate.metrics import log_probabilities
from limbeck.export.predictor import Predictor

Array = NDArray[np.float64]
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
    pictures: NDArray[np.float32], kind: str, *, severity: int, seed: int = 0
) -> NDArray[np.float32]:
    """Apply a corruption to images, reproducibly by the seed.

    Random draws do not depend on the severity, so that a higher severity is a stronger version of
    the same corruption: the same noise scaled up, a larger square at the same position.

    Args:
        pictures: Pixels in [0, 1], `[n, channels, height, width]`, any number of channels.
        kind: One of `PICTURES`.
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
    check_choice(kind, tuple(PICTURES), where="kind")
    check_severity(severity)
    if severity == 0:
        return pictures.copy()
    random = np.random.default_rng([seed, list(PICTURES).index(kind)])
    worse = PICTURES[kind](pictures.astype(np.float64), severity - 1, random)
    return np.clip(worse, 0, 1).astype(np.float32)


def check_severity(severity: int) -> None:
    """Check that a severity is one of 0 to 5.

    Raises:
        InputError: It is not.
    """
    if severity not in (0, *SEVERITIES):
        raise InputError(Problem("severity", severity, "a whole number from 0 to 5"))


def _noise(pictures: Array, level: int, random: np.random.Generator) -> Array:
    return pictures + NOISE[level] * random.normal(size=pictures.shape)


def _blur(pictures: Array, level: int, _: np.random.Generator) -> Array:
    sigma = BLUR[level] * min(pictures.shape[2:]) / 32
    return scipy.ndimage.gaussian_filter(pictures, sigma=(0, 0, sigma, sigma), mode="nearest")


def _contrast(pictures: Array, level: int, _: np.random.Generator) -> Array:
    mean = pictures.mean(axis=(2, 3), keepdims=True)
    return mean + CONTRAST[level] * (pictures - mean)


def _occlusion(pictures: Array, level: int, random: np.random.Generator) -> Array:
    height, width = pictures.shape[2:]
    worse = pictures.copy()
    for picture, (row, column) in zip(worse, random.random((len(worse), 2)), strict=True):
        rows = _span(row, height, OCCLUSION[level])
        picture[:, rows, _span(column, width, OCCLUSION[level])] = 0.5
    return worse


def _span(centre: float, length: int, share: float) -> slice:
    """Return the pixel range of the square's side; a larger share's contains a smaller one's."""
    size = max(1, round(share * length))
    first = math.floor(centre * length) - size // 2
    return slice(max(first, 0), min(first + size, length))


def _jpeg(pictures: Array, level: int, _: np.random.Generator) -> Array:
    pixels = np.round(pictures * 255).astype(np.uint8)
    if pictures.shape[1] == 3:
        through = [_through_jpeg(one.transpose(1, 2, 0), level) for one in pixels]
        return np.stack(through).transpose(0, 3, 1, 2) / 255
    # Other than RGB, each channel is compressed separately.
    return np.stack([[_through_jpeg(one, level) for one in channels] for channels in pixels]) / 255


def _through_jpeg(pixels: NDArray[np.uint8], level: int) -> NDArray[np.uint8]:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, format="JPEG", quality=JPEG[level])
    with Image.open(file) as image:
        return np.asarray(image)


PICTURES: dict[str, ImageCorruption] = {
    "gaussian noise": _noise,
    "blur": _blur,
    "contrast": _contrast,
    "occlusion": _occlusion,
    "jpeg": _jpeg,
}
"""The kinds, by name."""

TextCorruption = Callable[[list[str], int, np.random.Generator], list[str]]
TYPOS = (0.05, 0.1, 0.2, 0.35, 0.5)
"""Share of the words that get a typo, rounded up."""

DROPPED = (0.05, 0.1, 0.2, 0.35, 0.5)
"""Share of the words that are dropped, rounded up; at least one word stays."""


def corrupt_texts(
    texts: Sequence[str], kind: str, *, severity: int, seed: int = 0
) -> tuple[str, ...]:
    """Apply a corruption to texts; the words changed at one severity are also changed at the next.

    Words are separated by spaces. A typo doubles a letter, drops one or swaps two, in any script.

    Args:
        texts: The texts.
        kind: One of `TEXTS`.
        severity: From 0 (no change) to 5.
        seed: Seed of the choice of words and of their change.

    Raises:
        InputError: The kind or the severity does not exist.

    Example:
        >>> corrupt_texts(["a fine film for a rainy day"], "dropped words", severity=5)
        ('a fine rainy',)
    """
    check_choice(kind, tuple(TEXTS), where="kind")
    check_severity(severity)
    if severity == 0:
        return tuple(texts)
    return tuple(
        " ".join(TEXTS[kind](text.split(" "), severity - 1, np.random.default_rng([seed, number])))
        for number, text in enumerate(texts)
    )


def _typos(words: list[str], level: int, random: np.random.Generator) -> list[str]:
    order = random.permutation(len(words))
    hit = set(order[: math.ceil(TYPOS[level] * len(words))].tolist())
    # Drawn for every word, changed or not, so that its typo is the same at every severity.
    places = random.random(len(words))
    ways = random.integers(3, size=len(words))
    return [
        _mistyped(word, places[number], int(ways[number])) if number in hit else word
        for number, word in enumerate(words)
    ]


def _mistyped(word: str, where: float, way: int) -> str:
    """Return a word with one letter doubled, dropped, or swapped with the next.

    Example:
        >>> [_mistyped("film", 0.3, way) for way in range(3)]
        ['fiilm', 'flm', 'flim']
    """
    if not word:
        return word
    place = int(where * len(word))
    before, letter, after = word[:place], word[place], word[place + 1 :]
    if way == 1 and len(word) > 1:
        return before + after
    if way == 2 and after and after[0] != letter:
        return before + after[0] + letter + after[1:]
    return before + letter + letter + after


def _dropped(words: list[str], level: int, random: np.random.Generator) -> list[str]:
    lost = min(math.ceil(DROPPED[level] * len(words)), len(words) - 1)
    gone = set(random.permutation(len(words))[:lost].tolist())
    return [word for number, word in enumerate(words) if number not in gone]


TEXTS: dict[str, TextCorruption] = {"typos": _typos, "dropped words": _dropped}
"""The kinds, by name."""

Corruption = Callable[[str, int], Mapping[str, Any]]
"""Returns all samples after a corruption of a kind and a severity; 0 is no change."""

Values = NDArray[np.float64]
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
    damage: Corruption,
    resamples: Resamples,
    margin: float,
) -> tuple[tuple[CorruptedRow, ...], list[MetricComparison]]:
    """Compare the accuracy of both models under every corruption and severity.

    Args:
        student: The exported student.
        teacher: The reference, or None.
        labels: `[n]`.
        kinds: The kinds of corruption.
        damage: Corrupts the samples.
        resamples: The bootstrap resamples.
        margin: The non-inferiority margin of accuracy.
    """
    sides = [student] if teacher is None else [student, teacher]
    clean = [_right(side, damage(kinds[0], 0), labels) for side in sides]
    # [sides, kinds, severities, samples]
    right = np.empty((len(sides), len(kinds), len(SEVERITIES), len(labels)))
    for k, kind in enumerate(kinds):
        for s, severity in enumerate(SEVERITIES):
            inputs = damage(kind, severity)
            for number, side in enumerate(sides):
                right[number, k, s] = _right(side, inputs, labels)
    rows = tuple(
        _row(kind, severity, list(right[:, k, s]))
        for k, kind in enumerate(kinds)
        for s, severity in enumerate(SEVERITIES)
    )
    return rows, _findings(clean, right, kinds, resamples, margin)


def prediction_variance(
    predictor: Predictor, noisy: Sequence[Mapping[str, Any]]
) -> NDArray[np.float64]:
    r"""Measure the prediction variance under noise, `[n]`.

    $$\sum_c \mathrm{Var}_k\; p_c(x + \eta_k)$$

    Args:
        predictor: The model.
        noisy: The inputs of the same samples, once per draw of the noise; at least two draws.
    """
    answers = np.stack([np.exp(log_probabilities(answered(predictor, one))) for one in noisy])
    return answers.var(axis=0, ddof=1).sum(axis=1)


def compare_variance(
    student: Predictor,
    teacher: Predictor | None,
    noisy: Sequence[Mapping[str, Any]],
    *,
    resamples: Resamples,
) -> MetricComparison:
    """Compare the prediction variance under noise, which a smooth decision boundary keeps low.

    Args:
        student: The exported student.
        teacher: The reference, or None.
        noisy: The inputs of the same samples, once per draw of the noise.
        resamples: The bootstrap resamples.
    """
    sides = [student] if teacher is None else [student, teacher]
    variances = [_mean_of(prediction_variance(side, noisy)) for side in sides]
    beside = _beside(resamples, variances)
    return compare(
        "Variance of the answers under small noise",
        unit="number",
        direction="lower",
        margin=0.1 * (beside.teacher or beside.student).value,
        method=(
            f"Gaussian noise of {NOISE[0]}, where pixels go from 0 to 1, was drawn {len(noisy)} "
            "times and answered by what ships: the variance of its probabilities, over classes."
        ),
        **dict(beside),
    )


def answered(predictor: Predictor, inputs: Mapping[str, Any]) -> NDArray[np.float32]:
    """Compute the logits `[n, classes]` of many samples, in batches."""
    arrays = {name: np.asarray(values) for name, values in inputs.items()}
    count = len(next(iter(arrays.values())))
    parts = [
        predictor.predict({name: values[at : at + BATCH] for name, values in arrays.items()})
        for at in range(0, count, BATCH)
    ]
    return np.concatenate([np.asarray(part["logits"], dtype=np.float32) for part in parts])


def _right(side: Predictor, inputs: Mapping[str, Any], labels: NDArray[np.int64]) -> Values:
    return (answered(side, inputs).argmax(axis=1) == labels).astype(np.float64)


def _row(kind: str, severity: int, right: Sequence[Values]) -> CorruptedRow:
    beside = shares(right[0], right[1] if len(right) > 1 else None)
    return CorruptedRow(
        kind=kind, severity=severity, student=beside.student, teacher=beside.teacher
    )


def _findings(
    clean: Sequence[Values],
    right: NDArray[np.float64],
    kinds: Sequence[str],
    resamples: Resamples,
    margin: float,
) -> list[MetricComparison]:
    listed = ", ".join(kinds)
    over_all = [side.mean(axis=(0, 1)) for side in right]
    mean_accuracy = _means(resamples, over_all)
    how = f"Mean over five severities of {listed}, each sample answered by what ships."
    found = [_found("Mean accuracy under corruption", mean_accuracy, how, margin=margin)]
    if all(side.any() for side in clean):
        kept = [_ratio_of(worse, to) for worse, to in zip(over_all, clean, strict=True)]
        how = f"{how[:-1]}, divided by the accuracy on the same samples unchanged."
        name = "Share of accuracy kept under corruption"
        found.append(_found(name, _beside(resamples, kept), how, margin=margin))
    for k, kind in enumerate(kinds):
        beside = _means(resamples, [side[k].mean(axis=0) for side in right])
        how = f"Mean over five severities of {kind}, each sample answered by what ships."
        found.append(_found(f"Accuracy under {kind}", beside, how, margin=margin))
    return found


def _found(name: str, beside: PairedEstimate, how: str, *, margin: float) -> MetricComparison:
    unit: Unit = "share"
    return compare(name, unit=unit, direction="higher", margin=margin, method=how, **dict(beside))


def _beside(resamples: Resamples, statistics: Sequence[Statistic]) -> PairedEstimate:
    return resamples.paired(statistics[0], statistics[1] if len(statistics) > 1 else None)


def _means(resamples: Resamples, values: Sequence[Values]) -> PairedEstimate:
    """Estimate mean accuracies, with a paired interval: a bootstrap may have zero width."""
    beside = _beside(resamples, [_mean_of(side) for side in values])
    if len(values) == 1:
        return beside
    return beside.model_copy(update={"difference": paired_difference(values[0], values[1])})


def _mean_of(values: Values) -> Statistic:
    return lambda counts: mean(counts, values)


def _ratio_of(values: Values, to: Values) -> Statistic:
    def ratio(counts: Values) -> Values:
        whole = counts @ to
        # Undefined if no clean sample is correct.
        gone = np.full_like(whole, np.nan)
        return np.divide(counts @ values, whole, out=gone, where=whole > 0)

    return ratio
