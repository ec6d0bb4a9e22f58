"""Training of one model within a stage: saves its weights, and returns its curve."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limbeck.objective import TrainingSet
from limbeck.pipeline.candidate import Role
from limbeck.pipeline.context import Context
from limbeck.pipeline.rehearsal import probe
from limbeck.report.result import Curve
from limbeck.schemes import Offline
from limbeck.training import Training, fit

if TYPE_CHECKING:
    from torch import nn

    from limbeck.objective import Objective
    from limbeck.teachers import Teacher


def train(
    context: Context,
    model: nn.Module,
    *,
    objective: Objective,
    settings: Training,
    label: str,
    role: Role,
    teacher: Teacher | None = None,
    weights: str = "model.safetensors",
) -> Curve:
    """Train a model on the run's data, and save it as `weights` in the context's folder.

    Returns:
        The curve of the training, one row per epoch.
    """
    model = model.to(context.accelerator.device)
    scheme = Offline(
        model,
        context.task,
        objective,
        teacher=teacher,
        probe=probe(context),
        training_set=training_set(context),
    )
    context.data.train.set_seed(context.seed)
    history = fit(
        scheme,
        train=context.data.train,
        validate=context.validate,
        settings=settings,
        folder=(context.folder / weights).parent,
        seed=context.seed,
        accelerator=context.accelerator,
        resume=context.resume,
        ticker=context.ticker(label),
    )
    context.save(model, weights)
    return Curve(label=label, role=role, seed=context.seed, rows=history.rows)


def training_set(context: Context) -> TrainingSet:
    """Return the training set's description, for terms that need it."""
    labels, classes = context.data.train.labels, len(context.task.classes)
    counts = labels.bincount(minlength=classes)
    return TrainingSet(samples=len(labels), class_counts=tuple(counts.tolist()))


def training_of(settings: Training) -> Training:
    """Return the training part of a stage's settings."""
    return Training(**{name: getattr(settings, name) for name in Training.model_fields})
