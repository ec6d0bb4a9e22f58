"""Early-exit stage: thresholds at which samples leave the student, chosen on validation."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import Field
from scipy.special import softmax

from limbeck.core.exits import check_exits
from limbeck.core.modules import evaluating
from limbeck.display import format as fmt
from limbeck.errors import InputError, Problem
from limbeck.evaluate.flops import flops_of_exits
from limbeck.evaluate.measure import mean_latencies
from limbeck.pipeline.artefacts import EVALUATION_BATCH, export, publish, save
from limbeck.pipeline.candidate import Candidate
from limbeck.pipeline.context import Context
from limbeck.pipeline.dry_run import DryRun
from limbeck.pipeline.stage import Stage
from limbeck.tasks import TASKS, ScoreTable, is_classifier

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from limbeck.pipeline.recipe import Recipe

    Arrays = dict[str, NDArray[Any]]

WINDOWS = 200
"""The number of thresholds that are tried."""

GAP = 1e-6
"""The least distance of two confidences between which a threshold may lie: torch and ONNX Runtime
have to decide alike."""

TIMED, SECONDS = 200, 2.0
"""Validation samples that are timed in turn, and the time for it."""


class EarlyExit(Stage):
    """Thresholds of the student's early exits, the same for every exit, chosen on validation.

    A sample leaves at the first exit whose largest probability reaches the threshold. The lowest
    threshold is chosen for which, and above which, the primary score stays within `drop` of that of
    the last exit. In the exported file the later layers are branches of an `If`.
    """

    requires: ClassVar[tuple[str, ...]] = ("student", "float student")
    produces: ClassVar[tuple[str, ...]] = ("student", "float student")

    drop: Annotated[
        float,
        Field(
            ge=0,
            le=1e12,
            description="The largest loss of the primary score on the validation samples, against "
            "that of the last exit for all samples.",
        ),
    ] = 0.005

    def validate_in(self, recipe: Recipe) -> list[Problem]:
        """Return a problem for a task without one class per sample."""
        if recipe.task not in TASKS.names() or is_classifier(TASKS.load(recipe.task)):
            return []
        return [Problem("drop", f"task: {recipe.task}", "a task with one class per sample")]

    def dry_run(self, trial: DryRun, *, where: str) -> None:
        """Check that the student has early exits, which later stages then have too."""
        from limbeck.compress.method import apply

        model = check_exits(trial.student, where="student")
        exits = len(model.exit_logits(*(trial.batch[name] for name in trial.context.task.inputs)))
        if exits < 2:
            allowed = "at least two, the last one included"
            raise InputError(Problem("student", f"{exits} exits", allowed))
        changed = copy.deepcopy(trial.student)
        rates = [1 / exits] * exits
        apply(changed, [{"kind": "exits", "thresholds": [0.5] * (exits - 1), "rates": rates}])
        with tempfile.TemporaryDirectory() as folder:
            export(trial.context, changed.eval(), Path(folder) / "model.onnx")
        trial.replace("student", changed)

    def run(self, candidate: Candidate, context: Context) -> Candidate:
        """Choose the thresholds, and publish the student with them."""
        from limbeck.compress.method import apply

        state = candidate.state("student")
        model = context.restore(context.student_spec, state)
        chosen = choose_threshold(
            *_exits(model, context), drop=self.drop, where=f"{context.where}.drop"
        )
        count = len(chosen.rates) - 1
        change = {
            "kind": "exits",
            "thresholds": [chosen.threshold] * count,
            "rates": list(chosen.rates),
        }
        with tempfile.TemporaryDirectory() as folder:
            plain = Path(folder) / "plain.onnx"
            if context.main:
                export(context, model.eval(), plain)
            apply(model, [change])
            save(context, model, "model.safetensors")
            artefact = publish(
                context,
                model,
                role="student",
                label="early-exit student",
                weights=("model.safetensors",),
                changes=(*state.changes, change),
            )
            notes = context.on_main_process(
                lambda: tuple(_notes(model, chosen, context, plain=plain))
            )
        rates = ", ".join(fmt.percent(rate) for rate in chosen.rates)
        what = f"threshold {chosen.threshold:.4g} on the probability; {rates} leave at each exit"
        record = self.record(context, what=what, artefacts=[artefact], notes=notes)
        return candidate.append(context.folder, record)


@dataclass(frozen=True)
class Chosen:
    """A threshold, with the shares of samples that leave at each exit, and the scores.

    Attributes:
        threshold: The least probability of the top class.
        rates: The share of samples that leave at each exit.
        score: The score with early exits.
        full: The score of the last exit for all samples.
    """

    threshold: float
    rates: tuple[float, ...]
    score: float
    full: float


def choose_threshold(
    logits: NDArray[np.float64],
    gain: Callable[[NDArray[np.float64]], float],
    *,
    drop: float,
    where: str = "drop",
) -> Chosen:
    """Choose the lowest threshold on the largest probability that keeps the score within a drop.

    Thresholds are tried in descending order, each in the widest gap of about half a percent of the
    confidences, until one loses more. The scan ends there, also if a lower one were better by luck.

    Args:
        logits: The logits of every exit, `[exits, n, classes]`, the last exit last.
        gain: Computes the score of logits `[n, classes]`; higher is better.
        drop: The largest loss of the score.
        where: The setting, for messages.

    Raises:
        InputError: No threshold lets a sample leave within the drop.

    Example:
        >>> first, last = np.eye(2)[[0, 1, 0, 0]], np.eye(2)[[0, 1, 1, 1]]
        >>> first = first * np.array([9.0, 8.0, 2.0, 1.0])[:, None]
        >>> right = np.array([0, 1, 1, 1])
        >>> found = choose_threshold(
        ...     np.stack([first, last]), lambda one: float((one.argmax(1) == right).mean()), drop=0
        ... )
        >>> found.rates, found.score
        ((0.5, 0.5), 1.0)
    """
    confidence = softmax(logits[:-1], axis=-1).max(-1)
    full = gain(logits[-1])
    found = None
    for threshold in _thresholds(confidence):
        leaves = np.concatenate([confidence >= threshold, np.ones((1, logits.shape[1]), bool)])
        exit_of = leaves.argmax(0)
        score = gain(logits[exit_of, np.arange(logits.shape[1])])
        if score < full - drop - 1e-12:
            break
        counts = np.bincount(exit_of, minlength=len(logits))
        found = Chosen(float(threshold), tuple((counts / counts.sum()).tolist()), score, full)
    if found is None:
        fix = "Allow a larger drop, or train the exits for longer."
        allowed = "a drop within which some samples can leave early"
        raise InputError(Problem(where, drop, allowed, fix))
    return found


def _thresholds(confidence: NDArray[np.float64]) -> Iterator[float]:
    """Yield thresholds in descending order, each in the widest gap of a window of confidences."""
    values = np.unique(confidence)[::-1]
    for part in np.array_split(np.arange(len(values)), min(WINDOWS, len(values))):
        # The gaps below each value of the window.
        below = np.append(values, 0.0)[part + 1]
        widest = int((values[part] - below).argmax())
        high, low = values[part][widest], below[widest]
        if high - low > GAP:
            yield float((high + low) / 2)


def _exits(
    model: nn.Module, context: Context
) -> tuple[NDArray[np.float64], Callable[[NDArray[np.float64]], float]]:
    """Return the logits of every exit on validation, and the primary score of logits."""
    import torch

    task, checked = context.task, check_exits(model, where="student")
    [name, *_] = task.kinds
    found: list[NDArray[np.float64]] = []
    rest: list[tuple[Arrays, Arrays]] = []
    with evaluating(model), torch.no_grad():
        for batch in context.data.validation.batches(EVALUATION_BATCH):
            each = checked.exit_logits(*(batch[one] for one in task.inputs))
            found.append(torch.stack(each).double().numpy())
            others = {key: one.numpy() for key, one in batch.items() if key not in task.inputs}
            rest.append((others, {k: one.numpy() for k, one in task.weights(batch).items()}))
    score = task.scores[0]

    def gain(logits: NDArray[np.float64]) -> float:
        table, start = ScoreTable([score]), 0
        for batch, weights in rest:
            stop = start + len(batch["labels"])
            table.update({name: logits[start:stop]}, batch, weights)
            start = stop
        [value] = table.values().values()
        return score.metric.gain(value, over=0.0)

    return np.concatenate(found, axis=1), gain


def _notes(model: nn.Module, chosen: Chosen, context: Context, *, plain: Path) -> Iterator[str]:
    """Yield the score, expected FLOPs and mean latency, against the student without exits."""
    split, metric = context.data.validation, context.task.scores[0].metric
    sign = 1 if metric.higher_is_better else -1
    with_exits, without = (fmt.score(sign * one, metric) for one in (chosen.score, chosen.full))
    yield (
        f"with exits, the {metric.text} on {len(split):,} validation samples is {with_exits}, and "
        f"{without} without"
    )
    sample = {name: split.__getitems__([0])[name] for name in context.task.inputs}
    costs = flops_of_exits(model, context.task, sample)
    expected = sum(rate * cost for rate, cost in zip(chosen.rates, costs, strict=True))
    listed = ", ".join(fmt.operations(cost) for cost in costs)
    yield f"expected FLOPs per sample {fmt.operations(round(expected))}; to each exit {listed}"
    rows = [split.__getitems__([row]) for row in split.spread(TIMED)]
    arrays = [{name: row[name].numpy() for name in context.task.inputs} for row in rows]
    files = {"with": context.folder / "model.onnx", "without": plain}
    means = mean_latencies(files, arrays, seconds=SECONDS)
    mean, other = means.values()
    yield (
        f"mean latency over {len(rows)} validation samples in turn, at batch 1 on one thread: "
        f"{fmt.milliseconds(mean)} with exits, {fmt.milliseconds(other)} without"
    )
