"""Corruption robustness of student and teacher, and prediction variance under noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.evaluate.bootstrap import Beside, Resamples, Statistic, mean
from limbeck.evaluate.corruption.pictures import NOISE, SEVERITIES
from limbeck.evaluate.finding import Estimate, Finding, Unit, find
from limbeck.evaluate.interval import Result
from limbeck.evaluate.paired import paired_difference, shares
from limbeck.evaluate.probabilities import log_probabilities
from limbeck.export.predictor import Predictor

Damage = Callable[[str, int], Mapping[str, Any]]
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
    damage: Damage,
    resamples: Resamples,
    margin: float,
) -> tuple[tuple[CorruptedRow, ...], list[Finding]]:
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


def variance_of_answers(
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
) -> Finding:
    """Compare the prediction variance under noise, which a smooth decision boundary keeps low.

    Args:
        student: The exported student.
        teacher: The reference, or None.
        noisy: The inputs of the same samples, once per draw of the noise.
        resamples: The bootstrap resamples.
    """
    sides = [student] if teacher is None else [student, teacher]
    variances = [_mean_of(variance_of_answers(side, noisy)) for side in sides]
    beside = _beside(resamples, variances)
    return find(
        "Variance of the answers under small noise",
        unit="number",
        better="lower",
        margin=0.1 * (beside.teacher or beside.student).value,
        how=(
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
) -> list[Finding]:
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


def _found(name: str, beside: Beside, how: str, *, margin: float) -> Finding:
    unit: Unit = "share"
    return find(name, unit=unit, better="higher", margin=margin, how=how, **dict(beside))


def _beside(resamples: Resamples, statistics: Sequence[Statistic]) -> Beside:
    return resamples.beside(statistics[0], statistics[1] if len(statistics) > 1 else None)


def _means(resamples: Resamples, values: Sequence[Values]) -> Beside:
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
