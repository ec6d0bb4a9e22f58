"""Per-sample metrics from logits: log-likelihood, Brier score, KL divergence, entropy."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy
from numpy.typing import NDArray

from limbeck.core.measurement import Interval, Result, ScoreValue
from limbeck.errors import LimbeckError
from limbeck.evaluate.bootstrap import Counts, Resamples, proportion
from limbeck.evaluate.intervals import wilson

if TYPE_CHECKING:
    from limbeck.export.predictor import Predictions
    from limbeck.tasks import Score, ScoreTable


Values = NDArray[np.float64]


def log_probabilities(logits: NDArray[Any]) -> Values:
    r"""Compute log-softmax in float64; a logit of plus infinity takes all probability.

    $$\log p_{ic} = z_{ic} - \log \textstyle\sum_k e^{z_{ik}}$$

    Returns:
        `[n, classes]` in nats, minus infinity where a class has no probability.

    Example:
        >>> np.exp(log_probabilities(np.array([[0.0, 0.0], [np.inf, 1.0]]))).tolist()
        [[0.5, 0.5], [1.0, 0.0]]
    """
    finite = logits.astype(np.float64)
    certain = np.isposinf(finite)
    rows = certain.any(axis=1)
    finite[rows] = np.where(certain[rows], 0.0, -np.inf)
    return np.asarray(scipy.special.log_softmax(finite, axis=1))


def right(predictions: Predictions) -> Values:
    """Return whether each prediction is correct: 1 or 0, `[n]`."""
    return (predictions.logits.argmax(axis=1) == predictions.labels).astype(np.float64)


def agrees(student: Predictions, teacher: Predictions) -> Values:
    """Return whether both models predict the same class: 1 or 0, `[n]`."""
    return (student.logits.argmax(axis=1) == teacher.logits.argmax(axis=1)).astype(np.float64)


def losses(log_p: Values, labels: NDArray[np.int64]) -> Values:
    """Compute the negative log-likelihood per sample, `[n]` in nats; infinite at probability 0.

    Args:
        log_p: Log-probabilities, `[n, classes]`.
        labels: `[n]`.
    """
    return np.asarray(-log_p[np.arange(len(labels)), labels])


def brier(log_p: Values, labels: NDArray[np.int64]) -> Values:
    r"""Compute the Brier score per sample, `[n]` in [0, 2], of log-probabilities `[n, classes]`.

    $$\sum_c (p_{ic} - [c = y_i])^2$$

    Example:
        >>> float(brier(np.log([[0.5, 0.5]]), np.array([0]))[0])
        0.5

    Source: Brier, Monthly Weather Review 1950.
    """
    p = np.exp(log_p)
    hit = p[np.arange(len(labels)), labels]
    return np.asarray(np.square(p).sum(axis=1) - 2 * hit + 1)


def divergences(log_p: Values, log_q: Values) -> Values:
    r"""Compute KL(p || q) per sample, `[n]` in nats; infinite where q is 0 and p is not.

    $$\sum_c p_{ic} (\log p_{ic} - \log q_{ic})$$ for log-probabilities `[n, classes]` of both

    Example:
        >>> round(float(divergences(np.log([[0.5, 0.5]]), np.log([[0.25, 0.75]]))[0]), 4)
        0.1438

    Source: Kullback and Leibler, Annals of Mathematical Statistics 1951.
    """
    # Where p is 0 the term is 0, whatever q is: 0 log 0 = 0.
    gap = np.subtract(log_p, log_q, out=np.zeros_like(log_p), where=np.isfinite(log_p))
    return np.maximum(0.0, (np.exp(log_p) * gap).sum(axis=1))


def entropies(log_p: Values) -> Values:
    r"""Compute the entropy per sample, `[n]` in nats: from 0 to log(classes).

    $$-\sum_c p_{ic} \log p_{ic}$$

    Example:
        >>> round(float(entropies(np.log([[0.5, 0.5]]))[0]), 4)
        0.6931
    """
    return np.asarray(scipy.special.entr(np.exp(log_p)).sum(axis=1))


def score_value(table: ScoreTable, score: Score, *, seed: int = 0) -> ScoreValue:
    """Compute a score over the samples of a split, with its 95 % confidence interval.

    The interval is Wilson's for a share of equally weighted samples that are right or wrong, else
    the percentile bootstrap over samples.

    Example:
        >>> from limbeck.tasks.scores import ACCURACY, ScoreTable
        >>> table = ScoreTable([ACCURACY])
        >>> logits, labels = np.array([[2.0, 1.0], [0.0, 3.0]]), np.array([0, 0])
        >>> table.update({"logits": logits}, {"labels": labels}, {"logits": np.ones(2)})
        >>> found = score_value(table, ACCURACY)
        >>> found.value, found.interval.method
        (0.5, 'Wilson score')
    """
    parts = table.parts(score)
    samples, rows = len(parts), parts if isinstance(parts, np.ndarray) else np.empty((0, 0))
    # Pairs of a hit and its weight: Wilson's interval needs hits of 0 and 1, and weights of 1.
    hits = rows[:, 0] if rows.shape[1:] == (2,) and (rows[:, 1] == 1).all() else np.full(1, np.nan)
    if score.metric.unit == "share" and np.isin(hits, (0.0, 1.0)).all():
        found = proportion(int(hits.sum()), samples)
    else:
        found = Resamples(samples, seed=seed).estimate(lambda counts: score.value(parts, counts))
    return ScoreValue(
        metric=score.metric, value=found.value, interval=found.interval, samples=samples
    )


def confusion_matrix(predictions: Predictions) -> tuple[tuple[int, ...], ...]:
    """Compute the confusion matrix: counts of samples per label (row) and predicted class (column).

    Example:
        >>> from limbeck.export.predictor import Predictions
        >>> logits = np.array([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0]], dtype=np.float32)
        >>> confusion_matrix(Predictions(logits, np.array([0, 1, 1])))
        ((1, 0), (1, 1))
    """
    classes = predictions.logits.shape[1]
    cells = predictions.labels * classes + predictions.logits.argmax(axis=1)
    counts = np.bincount(cells, minlength=classes * classes).reshape(classes, classes)
    return tuple(tuple(map(int, row)) for row in counts)


def pack_right(predictions: Predictions) -> str:
    """Pack whether each prediction is correct into one bit per sample, in base64.

    Example:
        >>> from limbeck.export.predictor import Predictions
        >>> logits = np.array([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0]], dtype=np.float32)
        >>> unpack_right(pack_right(Predictions(logits, np.array([0, 1, 1]))), 3)
        array([ True,  True, False])
    """
    packed = np.packbits(right(predictions).astype(bool))
    return base64.b64encode(packed.tobytes()).decode()


def unpack_right(packed: str, total: int) -> NDArray[np.bool_] | None:
    """Unpack the result of `pack_right` into `[total]`; None if the number of samples differs."""
    try:
        raw = np.frombuffer(base64.b64decode(packed, validate=True), dtype=np.uint8)
    except binascii.Error:
        return None
    if len(raw) != (total + 7) // 8 or not total:
        return None
    return np.unpackbits(raw, count=total).astype(bool)


class Fidelity(Result):
    """Student-teacher fidelity: top-1 agreement, and mean KL(teacher || student) in nats."""

    agreement: float
    interval: Interval
    kl: float


class Parity(Result):
    """A comparison of two runtimes on one model: differences of outputs, whether within tolerance.

    Of several real-valued targets, the differences and the tolerance are those of the target that
    is closest to its tolerance.
    """

    max_abs_difference: float
    mean_abs_difference: float
    agreement: float
    tolerance: float
    within: bool
    samples: int


def fidelity(student: Predictions, teacher: Predictions) -> Fidelity:
    r"""Compute the fidelity of the student's predictions to the teacher's.

    $$\mathrm{KL} = \frac1n \sum_i \sum_c p_{ic} (\log p_{ic} - \log q_{ic})$$

    with p the teacher's probabilities and q the student's, both at temperature 1, computed in
    float64.

    Raises:
        LimbeckError: The two did not predict the same samples over the same classes.

    Example:
        >>> from limbeck.export.predictor import Predictions
        >>> teacher = Predictions(np.array([[2.0, 1.0]], dtype=np.float32), np.array([0]))
        >>> student = Predictions(np.array([[3.0, 1.0]], dtype=np.float32), np.array([0]))
        >>> round(fidelity(student, teacher).kl, 4)
        0.0826
    """
    _same_samples(student, teacher)
    divergence = divergences(*(log_probabilities(one.logits) for one in (teacher, student)))
    same, total = int(agrees(student, teacher).sum()), len(student)
    return Fidelity(
        agreement=same / total, interval=wilson(same, total), kl=float(divergence.mean())
    )


def parity(
    reference: NDArray[Any],
    exported: NDArray[Any],
    *,
    samples: int,
    tolerance: float | Values,
) -> Parity:
    """Compare torch's outputs of one model with the exported file's: absolute differences.

    Args:
        reference: The model's output, `[elements, width]` or `[elements, targets, levels]`.
        exported: The file's output of the same elements.
        samples: The number of samples of the elements.
        tolerance: The largest difference allowed; of several targets, one for each, broadcast over
            the output. The record then has the differences and the tolerance of the target that is
            closest to its tolerance.
    """
    with np.errstate(invalid="ignore"):
        difference = np.abs(reference.astype(np.float64) - exported)
    # Minus infinity on both sides (a class that both exclude) is no difference.
    difference[reference == exported] = 0.0
    largest = difference.max(axis=0)
    limits = np.broadcast_to(tolerance, largest.shape)
    worst = int(np.argmax(largest / np.maximum(limits, 1e-30)))
    if np.size(tolerance) > 1:
        difference = difference.reshape(len(difference), -1)[:, worst]
    return Parity(
        max_abs_difference=float(largest.flat[worst]),
        mean_abs_difference=float(difference.mean()),
        agreement=float((exported.argmax(axis=1) == reference.argmax(axis=1)).mean()),
        tolerance=float(limits.flat[worst]),
        within=bool((largest <= limits).all()),
        samples=samples,
    )


def _same_samples(one: Predictions, other: Predictions) -> None:
    if one.logits.shape != other.logits.shape or not np.array_equal(one.labels, other.labels):
        raise LimbeckError(
            f"predictions cannot be compared: shapes {one.logits.shape} and {other.logits.shape} "
            "[samples, classes], or different labels. Predict the same split in the same order."
        )


@dataclass(frozen=True)
class Ranking:
    """Samples from the highest score to the lowest; equal scores form one step.

    Its metrics take all bootstrap draws at once; scikit-learn's take one weighting per call.

    Attributes:
        order: The samples' rows, highest score first, `[samples]`.
        last: The end of each step in the order, `[steps]`.
    """

    order: NDArray[np.int64]
    last: NDArray[np.int64]

    @classmethod
    def of(cls, scores: Values) -> Ranking:
        """Build a ranking of samples by their scores, `[samples]`."""
        order = np.argsort(-scores, kind="stable")
        ranked = scores[order]
        last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
        return cls(order, last)

    def cumulated(self, counts: Counts, *weights: Values) -> list[Counts]:
        """Compute the cumulative sum of counts times each weight, from the highest score down.

        Args:
            counts: How often each sample was drawn, `[draws, samples]`.
            weights: The weight of each sample, `[samples]`.

        Returns:
            `[draws, steps]` for each of the weights.
        """
        ranked = counts[:, self.order]
        return [np.cumsum(ranked * weight[self.order], axis=1)[:, self.last] for weight in weights]


def auroc(ranking: Ranking, counts: Counts, positive: Values) -> Values:
    r"""Compute the AUROC: how often a positive scores above a negative, ties counted half.

    $$P(s^+ > s^-) + \tfrac12 P(s^+ = s^-)$$

    Args:
        ranking: The samples' order by score.
        counts: How often each sample was drawn, `[draws, samples]`.
        positive: 1 for a positive sample, 0 for a negative one, `[samples]`.

    Returns:
        `[draws]`; NaN for a draw without positives or without negatives.

    Example:
        >>> order = Ranking.of(np.array([0.9, 0.8, 0.7]))
        >>> auroc(order, np.ones((1, 3)), np.array([1.0, 0.0, 1.0])).tolist()
        [0.5]

    Source: Hanley and McNeil, Radiology 1982.
    """
    above, below = ranking.cumulated(counts, positive, 1.0 - positive)
    steps = np.diff(below, axis=1, prepend=0)
    pairs = (np.diff(above, axis=1, prepend=0) * (below[:, -1:] - below + steps / 2)).sum(axis=1)
    with np.errstate(invalid="ignore"):
        return np.asarray(pairs / (above[:, -1] * below[:, -1]))


def fpr_at_95_tpr(
    ranking: Ranking, counts: Counts, positive: Values, *, reached: float = 0.95
) -> Values:
    """Compute the false positive rate at a true positive rate of `reached`: FPR@95TPR.

    Arguments and result are those of `auroc`.

    Example:
        >>> order = Ranking.of(np.array([0.9, 0.8, 0.7]))
        >>> fpr_at_95_tpr(order, np.ones((1, 3)), np.array([1.0, 0.0, 1.0])).tolist()
        [1.0]

    Source: Hendrycks and Gimpel, ICLR 2017 (arXiv:1610.02136); Liang et al., ICLR 2018.
    """
    above, below = ranking.cumulated(counts, positive, 1.0 - positive)
    # Counts are integers: a bound slightly lower keeps rounding from moving the step.
    step = (above >= reached * above[:, -1:] - 1e-9).argmax(axis=1)
    with np.errstate(invalid="ignore"):
        share = below[np.arange(len(below)), step] / below[:, -1]
    share[above[:, -1] == 0] = np.nan
    return np.asarray(share)


def aurc(ranking: Ranking, counts: Counts, wrong: Values) -> Values:
    r"""Compute the area under the risk-coverage curve (AURC): the mean risk over all coverages.

    $$\mathrm{AURC} = \frac1n \sum_k \frac{1}{k} \sum_{i \le k} e_{(i)}$$

    with the errors e in the order of confidence; samples of equal confidence are covered together.
    Arguments are those of `auroc`, with `wrong` 1 for an error and 0 for a correct prediction.

    Example:
        >>> order = Ranking.of(np.array([0.9, 0.8]))
        >>> aurc(order, np.ones((1, 2)), np.array([0.0, 1.0])).tolist()
        [0.25]

    Source: Geifman et al., ICLR 2019 (arXiv:1805.08206).
    """
    covered, errors = ranking.cumulated(counts, np.ones_like(wrong), wrong)
    risk = errors / np.maximum(covered, 1)
    return np.asarray((np.diff(covered, axis=1, prepend=0) * risk).sum(axis=1) / covered[:, -1])
