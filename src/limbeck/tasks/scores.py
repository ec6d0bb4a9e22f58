"""Scores: metrics of a task, computed from a model's outputs with parts per sample.

A score is a function of parts per sample, so that it is computed batch by batch, with weights and
in bounded memory, and resampled for its confidence interval. Most scores are functions of sums over
samples (`of_sums`); others, such as the mean average precision, rank the parts of all samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from limbeck.core.measurement import Metric

Parts: TypeAlias = NDArray[np.float64] | list[NDArray[np.float64]]
"""The parts of a score per sample: `[samples, parts]`, or `[rows, parts]` for each sample if
samples have different numbers of rows, as a detector's boxes."""

Sums: TypeAlias = NDArray[np.float64]
Counts: TypeAlias = NDArray[np.float64]
"""How often each sample counts in each bootstrap draw, `[draws, samples]`."""

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Score:
    """A metric as a function of parts per sample.

    Attributes:
        metric: Name, title, unit and direction.
        parts: Computes each sample's parts from a model's outputs, the batch, and the elements'
            weights by output; weights are among the parts, so that the value is a weighted mean.
        value: Computes the metric per bootstrap draw, `[draws]`, from the parts of all samples and
            how often each counts; `of_sums` builds it from a function of sums.

    Example:
        >>> outputs = {"logits": np.array([[2.0, 1.0], [0.0, 3.0]])}
        >>> batch, weights = {"labels": np.array([0, 0])}, {"logits": np.array([3.0, 1.0])}
        >>> parts = ACCURACY.parts(outputs, batch, weights)
        >>> ACCURACY.value(parts, np.array([[1.0, 1.0], [2.0, 0.0]])).tolist()
        [0.75, 1.0]
    """

    metric: Metric
    parts: Callable[[Arrays, Arrays, Arrays], Parts]
    value: Callable[[Parts, Counts], NDArray[np.float64]]


def of_sums(
    function: Callable[[Sums], NDArray[np.float64]],
) -> Callable[[Parts, Counts], NDArray[np.float64]]:
    """Build the value of a score from a function of the sums over samples.

    Args:
        function: Computes the metric from sums, `[..., parts]` to `[...]`.

    Example:
        >>> of_sums(ratio)(np.array([[1.0, 1.0], [0.0, 1.0]]), np.ones((1, 2))).tolist()
        [0.5]
    """

    def value(parts: Parts, counts: Counts) -> NDArray[np.float64]:
        return function(counts @ np.asarray(parts))

    return value


def median_of(parts: Parts, counts: Counts) -> NDArray[np.float64]:
    """Compute the weighted median over samples of a mean per sample, from pairs of sum and weight.

    It is the smallest value whose samples and all smaller ones have half of the weight.

    Example:
        >>> parts = np.array([[2.0, 1.0], [12.0, 2.0], [1.0, 1.0]])
        >>> median_of(parts, np.array([[1.0, 1.0, 1.0], [0.0, 1.0, 0.0]])).tolist()
        [2.0, 6.0]
    """
    kept = np.asarray(parts)[:, 1] > 0
    rows = np.asarray(parts)[kept]
    if not len(rows):
        return np.full(len(counts), np.nan)
    values = rows[:, 0] / rows[:, 1]
    order = np.argsort(values, kind="stable")
    reached = (counts[:, kept][:, order] * rows[order, 1]).cumsum(axis=1)
    place = (reached >= reached[:, -1:] / 2).argmax(axis=1)
    return np.where(reached[:, -1] > 0, values[order][place], np.nan)


def _correct(outputs: Arrays, batch: Arrays, weights: Arrays) -> Sums:
    correct = outputs["logits"].argmax(axis=1) == batch["labels"]
    weight = weights["logits"].astype(np.float64)
    return np.stack([weight * correct, weight], axis=1)


def ratio(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divide the first sum by the second; NaN without weight.

    Example:
        >>> float(ratio(np.array([3.0, 4.0])))
        0.75
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(sums[..., 0] / sums[..., 1])


ACCURACY = Score(Metric(name="accuracy", title="Accuracy"), _correct, of_sums(ratio))
"""Top-1 accuracy: the weighted share of samples whose largest logit is that of the label."""


def _rows(labels: NDArray[Any]) -> NDArray[Any]:
    """Return labels as rows, `[samples, targets]`."""
    return labels[:, None] if labels.ndim == 1 else labels


def _errors(outputs: Arrays, batch: Arrays, weights: Arrays) -> tuple[Sums, Sums, Sums]:
    """Return the errors and the targets, `[samples, targets]`, and the weights, `[samples, 1]`."""
    target = _rows(batch["labels"]).astype(np.float64)
    error = outputs["values"].astype(np.float64) - target
    return error, target, weights["values"].astype(np.float64)[:, None]


def squared_errors(outputs: Arrays, batch: Arrays, weights: Arrays) -> Sums:
    """Compute the weighted squared error of each target, and the weight, `[n, targets + 1]`."""
    error, _, weight = _errors(outputs, batch, weights)
    return np.concatenate([weight * error**2, weight], axis=1)


def absolute_errors(outputs: Arrays, batch: Arrays, weights: Arrays) -> Sums:
    """Compute the weighted absolute error of each target, and the weight, `[n, targets + 1]`."""
    error, _, weight = _errors(outputs, batch, weights)
    return np.concatenate([weight * np.abs(error), weight], axis=1)


def explained_parts(outputs: Arrays, batch: Arrays, weights: Arrays) -> Sums:
    """Compute squared error, target and squared target of each target, and the weight."""
    error, target, weight = _errors(outputs, batch, weights)
    return np.concatenate([weight * x for x in (error**2, target, target**2)] + [weight], axis=1)


def means_of(sums: Sums) -> NDArray[np.float64]:
    """Divide sums by the last one, the sum of weights, `[..., parts - 1]`."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(sums[..., :-1] / sums[..., -1:])


def r_squared(sums: Sums) -> NDArray[np.float64]:
    """Compute R² of each target from the sums of `explained_parts`, `[..., targets]`."""
    error, mean, square = np.split(means_of(sums), 3, axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(1 - error / (square - mean**2))


R_SQUARED = Score(
    Metric(name="r2", title="R²", unit=""),
    explained_parts,
    of_sums(lambda sums: np.asarray(r_squared(sums).mean(-1))),
)
"""The coefficient of determination, 1 − SSE / SST, the mean over targets: 1 is perfect, and 0 is
the mean of the evaluated targets as prediction."""

DEVIATIONS = "SD"
"""The unit of errors divided by the standard deviation of their target over the training rows."""


def _error_scores(deviations: tuple[float, ...] = ()) -> tuple[Score, Score]:
    """Return RMSE and MAE, each target divided by its deviation; by default in its unit."""
    scale = np.array(deviations or 1.0)
    unit = DEVIATIONS if deviations else ""

    def squares(sums: Sums) -> NDArray[np.float64]:
        return np.asarray((np.sqrt(means_of(sums)) / scale).mean(-1))

    def sizes(sums: Sums) -> NDArray[np.float64]:
        return np.asarray((means_of(sums) / scale).mean(-1))

    names = (("rmse", "Root mean squared error"), ("mae", "Mean absolute error"))
    rmse, mae = (
        Metric(name=name, title=title, unit=unit, higher_is_better=False) for name, title in names
    )
    return Score(rmse, squared_errors, of_sums(squares)), Score(
        mae, absolute_errors, of_sums(sizes)
    )


def regression_scores(deviations: tuple[float, ...]) -> tuple[Score, ...]:
    """Return R², RMSE and MAE of real targets.

    The errors of one target are in its unit. Units of several targets cannot be averaged: each
    error is divided by the standard deviation of its target, and the mean over targets is in
    standard deviations. R² has no unit.

    Args:
        deviations: The standard deviation of each target over the training rows.

    Example:
        >>> [score.metric.unit for score in regression_scores((2.0, 0.1))]
        ['', 'SD', 'SD']
    """
    return (R_SQUARED, *_error_scores(deviations if len(deviations) > 1 else ()))


def label_counts(outputs: Arrays, batch: Arrays, weights: Arrays) -> Sums:
    """Return true positives, false positives and false negatives of each label."""
    found, true = outputs["logits"] > 0, _rows(batch["labels"]) > 0.5
    weight = weights["logits"].astype(np.float64)[:, None]
    parts = (found & true, found & ~true, ~found & true)
    return np.concatenate([weight * part for part in parts], axis=1)


def f1_of_labels(sums: Sums) -> NDArray[np.float64]:
    """Compute the F1 score of each label, `[..., labels]`; NaN for one never present."""
    right, wrong, missed = np.split(sums, 3, axis=-1)
    total = 2 * right + wrong + missed
    with np.errstate(invalid="ignore"):
        return np.asarray(2 * right / total)


def _macro_f1(sums: Sums) -> NDArray[np.float64]:
    return np.asarray(np.nan_to_num(f1_of_labels(sums)).mean(-1))


def _right_labels(outputs: Arrays, batch: Arrays, weights: Arrays) -> Sums:
    right = (outputs["logits"] > 0) == (_rows(batch["labels"]) > 0.5)
    weight = weights["logits"].astype(np.float64)
    return np.stack([weight * right.mean(axis=1), weight], axis=1)


def _exact(outputs: Arrays, batch: Arrays, weights: Arrays) -> Sums:
    right = ((outputs["logits"] > 0) == (_rows(batch["labels"]) > 0.5)).all(axis=1)
    weight = weights["logits"].astype(np.float64)
    return np.stack([weight * right, weight], axis=1)


MACRO_F1 = Score(Metric(name="macro_f1", title="Macro F1"), label_counts, of_sums(_macro_f1))
"""The F1 score at a probability of 0.5, the mean over labels; 0 for a label never present."""

LABEL_ACCURACY = Score(
    Metric(name="label_accuracy", title="Label accuracy"), _right_labels, of_sums(ratio)
)
"""The share of labels predicted correctly at 0.5: one minus the Hamming loss."""

EXACT_MATCH = Score(Metric(name="exact_match", title="Exact match"), _exact, of_sums(ratio))
"""The share of samples with all labels correct at 0.5: the subset accuracy."""


def _ranks(outputs: Arrays, batch: Arrays, weights: Arrays) -> tuple[Sums, Sums, Sums]:
    """Return the predicted rank, the rank of the label, and the weight of each sample."""
    found = outputs["logits"].argmax(axis=1)
    arrays = (found, batch["labels"], weights["logits"])
    found, true, weight = (np.asarray(one, dtype=np.float64) for one in arrays)
    return found, true, weight


def _rank_moments(outputs: Arrays, batch: Arrays, weights: Arrays) -> Sums:
    found, true, weight = _ranks(outputs, batch, weights)
    moments = ((found - true) ** 2, found, true, found**2, true**2, np.ones(len(true)))
    return weight[:, None] * np.stack(moments, axis=1)


def _quadratic_kappa(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    # The expected squared distance of independent ranks needs their moments, not the confusions.
    observed, found, true, found_square, true_square = np.moveaxis(means_of(sums), -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(1 - observed / (found_square + true_square - 2 * found * true))


def _rank_distance(outputs: Arrays, batch: Arrays, weights: Arrays) -> Sums:
    found, true, weight = _ranks(outputs, batch, weights)
    return np.stack([weight * np.abs(found - true), weight], axis=1)


def _within_one(outputs: Arrays, batch: Arrays, weights: Arrays) -> Sums:
    found, true, weight = _ranks(outputs, batch, weights)
    return np.stack([weight * (np.abs(found - true) <= 1), weight], axis=1)


QUADRATIC_KAPPA = Score(
    Metric(name="quadratic_kappa", title="Quadratic weighted kappa", unit=""),
    _rank_moments,
    of_sums(_quadratic_kappa),
)
"""Cohen's kappa with weights that are the squared distance in ranks: 1 is perfect, 0 is chance; NaN
if one class is both every label and every prediction (Cohen 1968)."""

RANK_ERROR = Score(
    Metric(name="rank_mae", title="Mean absolute error in ranks", unit="", higher_is_better=False),
    _rank_distance,
    of_sums(ratio),
)
"""The mean distance between the predicted class and the label, in ranks."""

WITHIN_ONE = Score(
    Metric(name="within_one", title="Accuracy within one rank"), _within_one, of_sums(ratio)
)
"""The share of samples whose predicted class is the label or its neighbour."""


class ScoreTable:
    """The parts of several scores over the samples of a split.

    Args:
        scores: The scores; the first is the primary one.

    Example:
        >>> table = ScoreTable([ACCURACY])
        >>> table.update(
        ...     {"logits": np.eye(2)},
        ...     {"labels": np.array([0, 0])},
        ...     {"logits": np.ones(2)},
        ... )
        >>> table.values()
        {'accuracy': 0.5}
    """

    def __init__(self, scores: Sequence[Score]) -> None:
        self.scores = tuple(scores)
        self._parts: dict[str, list[Parts]] = {one.metric.name: [] for one in scores}

    def update(self, outputs: Arrays, batch: Arrays, weights: Arrays) -> None:
        """Add the samples of a batch."""
        for score in self.scores:
            self._parts[score.metric.name].append(score.parts(outputs, batch, weights))

    def parts(self, score: Score) -> Parts:
        """Return the parts of a score over all samples."""
        batches = self._parts[score.metric.name]
        if any(isinstance(one, list) for one in batches):
            return [rows for one in batches for rows in one]
        return np.concatenate(batches)

    def values(self) -> dict[str, float]:
        """Compute every score over all samples, by name, the primary one first."""
        return dict(self._values())

    def _values(self) -> Iterator[tuple[str, float]]:
        for score in self.scores:
            parts = self.parts(score)
            yield score.metric.name, float(score.value(parts, np.ones((1, len(parts))))[0])
