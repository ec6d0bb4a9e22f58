"""Artefacts of a stage: models validated, saved, exported, compared and recorded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from limbeck.core.measurement import ScoreValue
from limbeck.core.samples import select_samples
from limbeck.errors import LimbeckError
from limbeck.evaluate.chance import chance_test
from limbeck.evaluate.metrics import score_value
from limbeck.export.compact.onnx import pack
from limbeck.export.decoder import GeneratesTokens, cache_shapes
from limbeck.export.onnx import to_onnx
from limbeck.export.predictor import (
    OnnxPredictor,
    Predictions,
    Predictor,
    TorchPredictor,
    bytes_per_sample,
    predict,
)
from limbeck.pipeline.candidate import Artefact, Role
from limbeck.pipeline.parity import check_export
from limbeck.tasks import SAMPLE, ScoreTable, is_classifier

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from limbeck.compress.method import Change
    from limbeck.data.split import Split
    from limbeck.pipeline.context import Context
    from limbeck.tasks import Batch, Task

EVALUATION_BATCH, EVALUATION_BYTES = 256, 64 * 2**20
"""The largest evaluation batch: in samples, and in bytes of inputs and outputs."""


def training_batches(context: Context, samples: int) -> Iterator[Batch]:
    """Iterate over the first training samples, without augmentation."""
    for batch in context.data.train.batches(EVALUATION_BATCH):
        yield select_samples(batch, context.task.inputs, slice(samples))
        samples -= len(batch["labels"])
        if samples <= 0:
            return


def validate_model(
    context: Context, model: nn.Module, split: Split | None = None
) -> dict[str, float]:
    """Compute the task's scores of a model, in evaluation mode.

    Args:
        context: The context of the stage.
        model: The model.
        split: The samples; validation by default.
    """
    predictor = TorchPredictor(model, context.task)
    return predict_split(context, predictor, split or context.data.validation).scores.values()


@dataclass(frozen=True)
class Predicted:
    """A model's predictions of a split.

    Attributes:
        scores: The parts of the task's scores, per sample.
        predictions: The primary output and the labels, of a task with one element per sample; the
            outputs of other tasks, such as a class per pixel, are not kept in memory.
    """

    scores: ScoreTable
    predictions: Predictions | None

    @cached_property
    def values(self) -> tuple[ScoreValue, ...]:
        """Compute the scores with their intervals, the primary one first."""
        return tuple(score_value(self.scores, score) for score in self.scores.scores)


def predict_split(context: Context, predictor: Predictor, split: Split) -> Predicted:
    """Predict the samples of a split, and compute the parts of the task's scores.

    Raises:
        InputError: The split has no samples.
        LimbeckError: A prediction is NaN.
    """
    scored = Scored(predictor, context.task)
    batches = split.batches(evaluation_batch(predictor, split))
    if context.task.element == SAMPLE:
        return Predicted(scored.table, predict(scored, batches))
    for batch in batches:
        for name, values in scored.predict(batch).items():
            if values.dtype.kind == "f" and np.isnan(values).any():
                raise LimbeckError(f'NaN in the output "{name}": weights or inputs not finite')
    return Predicted(scored.table, None)


def evaluation_batch(predictor: Predictor, split: Split) -> int:
    """Return the number of samples per batch, at most 256, whose inputs and outputs fit 64 MB."""
    size = bytes_per_sample(predictor, split.__getitems__([0]))
    return max(1, min(EVALUATION_BATCH, EVALUATION_BYTES // max(1, size)))


class Scored:
    """A predictor that adds every batch that it predicts to a table of scores."""

    def __init__(self, predictor: Predictor, task: Task) -> None:
        self._predictor, self._task = predictor, task
        self.table = ScoreTable(task.scores)

    def predict(self, batch: Batch) -> dict[str, NDArray[Any]]:
        """Predict a batch, and add its samples to the table."""
        outputs = self._predictor.predict(batch)
        self.table.update(outputs, arrays(batch), arrays(self._task.weights(batch)))
        return outputs


def arrays(tensors: Batch) -> dict[str, NDArray[Any]]:
    """Convert the tensors of a batch to arrays on the CPU."""
    return {name: tensor.cpu().numpy() for name, tensor in tensors.items()}


def save(context: Context, model: nn.Module, name: str) -> None:
    """Write a model's weights into the stage's folder, in the first process only."""
    from limbeck.export.weights import save_weights

    if context.main:
        save_weights(model.cpu(), context.folder / name)
    context.accelerator.wait_for_everyone()


def export(context: Context, model: nn.Module, path: Path) -> None:
    """Export a model to an ONNX file, with masks and quantisers materialised."""
    example = context.data.validation.__getitems__([0, 1])
    if isinstance(context.task, GeneratesTokens) and context.task.generates:
        found = cache_shapes(model, example)
        if isinstance(found, str):
            context.progress.log(f"{context.where}: the file has no key-value cache: {found}")
    to_onnx(model, context.task, example, path)


def predict_validation(context: Context, path: Path) -> Predicted:
    """Predict the validation samples with an exported file."""
    return predict_split(context, OnnxPredictor(path), context.data.validation)


def artefact_of(context: Context, exported: Predicted, **fields: Any) -> Artefact:
    """Build the artefact of a stage's `model.onnx` from its validation predictions."""
    return Artefact(
        file="model.onnx",
        validation_score=exported.scores.values()[context.task.scores[0].metric.name],
        chance=chance_test(exported.predictions)
        if exported.predictions and is_classifier(context.task)
        else None,
        **fields,
    )


def publish(
    context: Context,
    model: nn.Module,
    *,
    role: Role,
    label: str,
    weights: tuple[str, ...],
    changes: tuple[Change, ...] = (),
) -> Artefact:
    """Export a model to `model.onnx` in the stage's folder, and evaluate it on validation.

    Args:
        context: The context of the stage.
        model: The model.
        role: The role of the artefact.
        label: The name in the report.
        weights: The files of its weights in the stage's folder.
        changes: The structural changes of the model.

    Raises:
        InputError: The file differs from the model, or a prediction from file or model depends on
            more than its sample.
    """

    def published() -> Artefact:
        path = context.folder / "model.onnx"
        export(context, model.cpu().eval(), path)
        pack(path)
        exported = predict_validation(context, path)
        parity = check_export(
            TorchPredictor(model, context.task),
            OnnxPredictor(path),
            context.task,
            split=context.data.validation,
            where=context.where,
            model=model,
            rounded=any(change["kind"] == "quantizers" for change in changes),
        )
        return artefact_of(
            context,
            exported,
            role=role,
            label=label,
            weights=weights,
            changes=changes,
            parity=parity,
        )

    return context.on_main_process(published)
