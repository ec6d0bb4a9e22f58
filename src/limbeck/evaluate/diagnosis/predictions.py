"""Statistics of the predictions of teacher, student and baseline over a split."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from limbeck.evaluate.calibration.metrics import equal_width
from limbeck.evaluate.metrics import divergences, entropies, log_probabilities
from limbeck.tasks import SAMPLE, ScoreTable
from limbeck.tasks.details import details_of
from limbeck.tasks.task import element_rows

if TYPE_CHECKING:
    from torch import Tensor

    from limbeck.evaluate.context import Distillation, Role
    from limbeck.tasks import Kind, Task

Values = NDArray[np.float64]
Arrays = Mapping[str, NDArray[Any]]


class _Means:
    """Weighted means by name, summed batch by batch."""

    def __init__(self) -> None:
        self._sums: dict[str, Values] = {}
        self._weights: dict[str, float] = {}

    def add(self, name: str, values: Values, weights: Values) -> None:
        """Add values, `[n]` or `[n, parts]`, with their weights `[n]`."""
        self._sums[name] = self._sums.get(name, np.zeros(())) + weights @ values
        self._weights[name] = self._weights.get(name, 0.0) + float(weights.sum())

    def parts(self, name: str) -> Values | None:
        """Return the mean of each part; None without a value."""
        total = self._weights.get(name, 0.0)
        return self._sums[name] / total if total > 0 else None

    def __getitem__(self, name: str) -> float | None:
        """Return the mean; None without a value, or if it is not finite."""
        found = self.parts(name)
        return None if found is None or not np.isfinite(found) else float(found)


@dataclass
class SplitPredictions:
    """Predictions of the models for the samples of a split, summed up.

    Attributes:
        scores: The parts of the primary score per sample, by role.
        samples: The number of samples.
        agreements: The scores of a model against the teacher's predictions, by role, if the task
            has such scores.
        means: The means of all other figures.
    """

    scores: dict[Role, ScoreTable]
    samples: int = 0
    agreements: dict[Role, ScoreTable] = field(default_factory=dict)
    means: _Means = field(default_factory=_Means)


def predict_split(found: Distillation, split: str, rows: int) -> SplitPredictions:
    """Predict samples of a split with all models, and sum up what a diagnosis needs.

    Args:
        found: The distillation.
        split: The name of the split.
        rows: The largest number of samples.
    """
    task, details = found.task, details_of(found.task)
    agreements = details.agreements[:1] if details and details.relabelled else ()
    others: list[Role] = [role for role in found.models if role != "teacher"]
    whole = SplitPredictions(scores={role: ScoreTable(task.scores[:1]) for role in found.models})
    if "teacher" in found.models and agreements:
        whole.agreements = {role: ScoreTable(agreements) for role in others}
    for tensors in found.samples(split, rows):
        batch = _arrays(tensors)
        weights, labelled = _arrays(task.weights(tensors)), _arrays(task.labelled(tensors))
        known = {name: one * labelled.get(name, 1) for name, one in weights.items()}
        outputs = {role: one.predict(tensors) for role, one in found.models.items()}
        whole.samples += len(batch["labels"])
        for role, table in whole.scores.items():
            table.update(outputs[role], batch, known)
        if whole.agreements and details and details.relabelled:
            taught = details.relabelled(outputs["teacher"], batch)
            for role, table in whole.agreements.items():
                table.update(outputs[role], taught, weights)
        _add_elements(whole.means, task, outputs, batch, (weights, known), found.temperature)
    return whole


def _arrays(tensors: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    return {name: tensor.cpu().numpy() for name, tensor in tensors.items()}


def _add_elements(
    means: _Means,
    task: Task,
    outputs: Mapping[Role, Arrays],
    batch: Arrays,
    weights: tuple[Arrays, Arrays],
    temperature: float,
) -> None:
    """Add the elements of a batch's primary output, with the weights of all and of labelled ones.

    Anchor points, most of which have no object, and vectors have none of these statistics.
    """
    name, kind = next(iter(task.kinds.items()))
    if any(name not in one for one in outputs.values()):
        return
    values = {role: np.asarray(one[name], np.float64) for role, one in outputs.items()}
    every, known = (one[name].reshape(-1).astype(np.float64) for one in weights)
    if kind == "categorical" or (kind == "binary" and task.element == SAMPLE):
        log_p = {role: _log_p(one, kind) for role, one in values.items()}
        each = len(next(iter(log_p.values()))) // len(every)  # the labels of a sample
        every, known = np.repeat(every, each), np.repeat(known, each)
        labels = batch["labels"].reshape(-1).astype(np.int64)
        _add_classes(means, log_p, labels if len(labels) == len(every) else None, every, known)
        if temperature > 1 and "teacher" in values:
            soft = entropies(_log_p(values["teacher"] / temperature, kind))
            means.add("teacher/softened entropy", soft, every)
    elif kind in ("value", "quantiles"):
        _add_values(means, values, batch["labels"], every, known, kind)


def _log_p(logits: Values, kind: Kind) -> Values:
    """Return log-probabilities, a row per element; of a label, those of no and of yes."""
    rows = element_rows(logits, kind)
    if kind == "binary":
        rows = np.stack([np.zeros(rows.size), rows.reshape(-1)], axis=1)
    return log_probabilities(rows)


def _add_classes(
    means: _Means,
    log_p: Mapping[Role, Values],
    labels: NDArray[np.int64] | None,
    every: Values,
    known: Values,
) -> None:
    for role, one in log_p.items():
        confidence, predicted = np.exp(one.max(axis=1)), one.argmax(axis=1)
        means.add(f"{role}/entropy", entropies(one), every)
        means.add(f"{role}/confidence", confidence, every)
        if labels is not None:
            right = (predicted == labels).astype(np.float64)
            means.add(f"{role}/accuracy", right, known)
            means.add(f"{role}/known confidence", confidence, known)
            means.add(f"{role}/gaps", equal_width(confidence).spread(right - confidence), known)
        if role != "teacher" and "teacher" in log_p:
            teacher = log_p["teacher"]
            same = (predicted == teacher.argmax(axis=1)).astype(np.float64)
            means.add(f"{role}/agreement", same, every)
            kept = every > 0
            means.add(f"{role}/kl", divergences(teacher[kept], one[kept]), every[kept])


def _add_values(
    means: _Means,
    values: Mapping[Role, Values],
    labels: NDArray[Any],
    every: Values,
    known: Values,
    kind: Kind,
) -> None:
    """Add squared errors and differences, a column per target; of quantiles, the middle one."""
    columns = {
        role: one[..., one.shape[-1] // 2] if kind == "quantiles" else one
        for role, one in values.items()
    }
    targets = next(iter(columns.values())).shape[-1]
    rows = {role: one.reshape(-1, targets) for role, one in columns.items()}
    true = np.nan_to_num(labels.astype(np.float64)).reshape(-1, targets)
    every, known = (_of_rows(one, len(true)) for one in (every, known))
    means.add("labels", true, known)
    means.add("squared labels", true**2, known)
    for role, one in rows.items():
        means.add(f"{role}/squared errors", (one - true) ** 2, known)
        if role != "teacher" and "teacher" in rows:
            means.add(f"{role}/squared differences", (one - rows["teacher"]) ** 2, every)


def _of_rows(weights: Values, rows: int) -> Values:
    """Average the weights of a row's targets."""
    return weights.reshape(rows, -1).mean(axis=1)


def calibration_error(means: _Means, role: str) -> float | None:
    """Return the expected calibration error over 15 bins of equal width (ECE)."""
    gaps = means.parts(f"{role}/gaps")
    return None if gaps is None else float(np.abs(gaps).sum())


def relative_error(means: _Means, name: str) -> float | None:
    """Return the root mean square of a difference, in standard deviations of the labels.

    Of several targets it is the mean over targets of the squares. None if labels are constant.
    """
    squares, mean, second = map(means.parts, (name, "labels", "squared labels"))
    if squares is None or mean is None or second is None:
        return None
    variance = second - mean**2
    if not (variance > 1e-12 * np.maximum(second, 1e-300)).all():
        return None
    found = math.sqrt(float((squares / variance).mean()))
    return found if math.isfinite(found) else None
