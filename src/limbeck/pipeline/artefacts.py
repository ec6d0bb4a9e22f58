"""Artefacts of a stage: models validated, saved, exported, compared and recorded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.core.measurement import ScoreValue
from limbeck.evaluate.chance import chance_test
from limbeck.evaluate.metrics import score_value
from limbeck.export.compact.onnx import pack
from limbeck.export.onnx import to_onnx
from limbeck.export.predictor import (
    OnnxPredictor,
    Predictions,
    Predictor,
    TorchPredictor,
    predict,
)
from limbeck.pipeline.candidate import Artefact, Role
from limbeck.pipeline.parity import check_export
from limbeck.tasks import ScoreTable

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from limbeck.compress.method import Change
    from limbeck.data.split import Split
    from limbeck.pipeline.context import Context
    from limbeck.tasks import Batch, Task

EVALUATION_BATCH = 256


def training_batches(context: Context, samples: int) -> Iterator[Batch]:
    """Iterate over the first training samples, without augmentation."""
    for batch in context.data.train.batches(EVALUATION_BATCH):
        yield {name: tensor[:samples] for name, tensor in batch.items()}
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
        predictions: The logits and labels.
    """

    scores: ScoreTable
    predictions: Predictions

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
    predictions = predict(scored, split.batches(EVALUATION_BATCH))
    return Predicted(scored.table, predictions)


class Scored:
    """A predictor that adds every batch that it predicts to a table of scores."""

    def __init__(self, predictor: Predictor, task: Task) -> None:
        self._predictor, self._task = predictor, task
        self.table = ScoreTable(task.scores)

    def predict(self, batch: Batch) -> dict[str, NDArray[Any]]:
        """Predict a batch, and add its samples to the table."""
        outputs = self._predictor.predict(batch)
        self.table.update(outputs, _arrays(batch), _arrays(self._task.weights(batch)))
        return outputs


def _arrays(tensors: Batch) -> dict[str, NDArray[Any]]:
    return {name: tensor.cpu().numpy() for name, tensor in tensors.items()}


def save(context: Context, model: nn.Module, name: str) -> None:
    """Write a model's weights into the stage's folder, in the first process only."""
    from limbeck.export.weights import save_weights

    if context.main:
        save_weights(model.cpu(), context.folder / name)
    context.accelerator.wait_for_everyone()


def export(context: Context, model: nn.Module, path: Path) -> None:
    """Export a model to an ONNX file, with masks and quantisers materialised."""
    to_onnx(model, context.task, context.data.validation.__getitems__([0, 1]), path)


def predict_validation(context: Context, path: Path) -> Predicted:
    """Predict the validation samples with an exported file."""
    return predict_split(context, OnnxPredictor(path), context.data.validation)


def artefact_of(context: Context, exported: Predicted, **fields: Any) -> Artefact:
    """Build the artefact of a stage's `model.onnx` from its validation predictions."""
    return Artefact(
        file="model.onnx",
        validation_score=exported.scores.values()[context.task.scores[0].metric.name],
        chance=chance_test(exported.predictions) if context.task.classes else None,
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
            exported.predictions,
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
