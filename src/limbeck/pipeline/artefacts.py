"""Artefacts of a stage: models validated, saved, exported, compared and recorded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.evaluate.chance import chance_test
from limbeck.evaluate.metrics import accuracy
from limbeck.export.compact.onnx import pack
from limbeck.export.onnx import to_onnx
from limbeck.export.predictor import OnnxPredictor, Predictions, TorchPredictor, predict
from limbeck.pipeline.candidate import Artefact, Role
from limbeck.pipeline.parity import check_export

if TYPE_CHECKING:
    from torch import nn

    from limbeck.compress.method import Change
    from limbeck.data.split import Split
    from limbeck.pipeline.context import Context
    from limbeck.tasks import Batch

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
    """Compute the task's metrics of a model, in evaluation mode.

    Args:
        context: The context of the stage.
        model: The model.
        split: The samples; validation by default.
    """
    import torch

    device = context.accelerator.device
    metrics = context.task.metrics().to(device)
    model.eval()
    with torch.no_grad():
        for batch in (split or context.data.validation).batches(EVALUATION_BATCH):
            on_device = {name: tensor.to(device) for name, tensor in batch.items()}
            output = context.task.respond(model, on_device).primary
            assert output.values is not None
            assert output.labels is not None
            # Positions of weight zero, such as padding, are excluded.
            counts = output.weights != 0
            metrics.update(output.values[counts], output.labels[counts])
    return {name: float(value) for name, value in metrics.compute().items()}


def save(context: Context, model: nn.Module, name: str) -> None:
    """Write a model's weights into the stage's folder, in the first process only."""
    from limbeck.export.weights import save_weights

    if context.main:
        save_weights(model.cpu(), context.folder / name)
    context.accelerator.wait_for_everyone()


def export(context: Context, model: nn.Module, path: Path) -> None:
    """Export a model to an ONNX file, with masks and quantisers materialised."""
    to_onnx(model, context.task, context.data.validation.__getitems__([0, 1]), path)


def predict_validation(context: Context, path: Path) -> Predictions:
    """Predict the validation samples with an exported file."""
    return predict(OnnxPredictor(path), context.data.validation.batches(EVALUATION_BATCH))


def artefact_of(exported: Predictions, **fields: Any) -> Artefact:
    """Build the artefact of a stage's `model.onnx` from its validation predictions."""
    return Artefact(
        file="model.onnx",
        validation_accuracy=accuracy(exported).value,
        chance=chance_test(exported),
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
            exported,
            split=context.data.validation,
            where=context.where,
            model=model,
            rounded=any(change["kind"] == "quantizers" for change in changes),
        )
        return artefact_of(
            exported, role=role, label=label, weights=weights, changes=changes, parity=parity
        )

    return context.on_main_process(published)
