"""Trial of one training step on the hardest batches of an epoch, before training."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from limbeck.core.modules import modes_restored
from limbeck.errors import InputError, LimbeckError, Problem
from limbeck.objective import TrainingSet
from limbeck.pipeline.artefacts import save, validate_model
from limbeck.pipeline.candidate import Role
from limbeck.pipeline.context import Context
from limbeck.pipeline.dry_run import example_batch
from limbeck.pipeline.validate import located
from limbeck.report.result import Curve
from limbeck.schemes import Offline
from limbeck.tasks import is_classifier
from limbeck.training import Training, data, fit
from limbeck.training.groups import learning_rates
from limbeck.training.stream import GeneratesBatches, Stream

if TYPE_CHECKING:
    from torch import nn

    from limbeck.objective import Objective
    from limbeck.schemes import Scheme
    from limbeck.tasks import Batch
    from limbeck.teachers import Teacher


CHECKED = 8
"""Number of samples on which each term is checked: with fewer, a relation may be constant."""


def try_training(context: Context, scheme: Scheme, settings: Training, *, where: str) -> None:
    """Check every term, then run each phase forward and backward in training mode on two batches.

    One batch has the configured size, with the longest texts and a row of each class; the other is
    the smallest of an epoch. Weights, buffers, gradients, modes and random states are restored.

    Raises:
        InputError: A term or a batch fails, with the error and its origin.
    """
    import torch

    _check_stream(context, scheme, settings, where)
    place = f"{where}.objective"
    learning_rates(next(iter(scheme.students.values())), settings, where=f"{where}.learning_rates")
    modules = list(scheme.modules_to_save().values())
    with _undisturbed(modules):
        first, *batches = _trial_batches(context, scheme, settings)
        with located(place):
            scheme.check_terms(first)
        for batch in batches:
            try:
                for module in modules:
                    module.train()
                with _autocast(context, settings), torch.enable_grad(), located(place):
                    for phase in scheme.phases:
                        losses = scheme.step(batch, 0.0, None, phase)
                        losses.check()
                        losses.total.backward()
            except InputError:
                raise
            # Models and losses are third-party code, and raise errors of many types.
            except Exception as error:
                raise InputError(_problem(context, batch, where, error)) from error


def _check_stream(context: Context, scheme: Scheme, settings: Training, where: str) -> None:
    """Check the settings of a training on a stream, before anything is trained."""
    if context.data.stream is None or isinstance(scheme, GeneratesBatches):
        return
    problems = []
    if settings.steps is None:
        fix = "Give the number of optimiser steps: `steps: 10000`."
        allowed = "`steps`, with data.streaming"
        problems.append(Problem(f"{where}.epochs", settings.epochs, allowed, fix))
    if settings.num_workers:
        allowed = "0, with data.streaming: images are decoded in threads"
        problems.append(Problem(f"{where}.num_workers", settings.num_workers, allowed))
    if problems:
        raise InputError(*problems)


def _trial_batches(context: Context, scheme: Scheme, settings: Training) -> list[Batch]:
    """Return a batch for the check of the terms, and those of the trial."""
    if isinstance(scheme, GeneratesBatches):
        device = context.accelerator.device
        [batch, *_] = islice(scheme.batches(epoch=0, size=settings.batch_size), 1)
        return [{name: tensor.to(device) for name, tensor in batch.items()}] * 2
    largest, smallest = _rows(context, settings)
    rows = dict.fromkeys((tuple(largest), tuple(smallest)))
    return [_batch(context, list(one)) for one in (largest[:CHECKED], *rows)]


def _rows(context: Context, settings: Training) -> tuple[list[int], list[int]]:
    train, accelerator = context.data.train, context.accelerator
    processes = accelerator.num_processes
    batches = data.batches(
        len(train), size=settings.batch_size, seed=context.seed, epoch=0, processes=processes
    )
    # All micro-batches but the last have one size.
    ends = [batches[0], batches[-1]]
    shares = [
        data.share(batch, rank=accelerator.process_index, processes=processes)
        for batch in (max(ends, key=len), min(ends, key=len))
    ]
    count = len(shares[0])
    _, firsts = np.unique(train.strata, return_index=True)
    firsts = np.sort(firsts) if is_classifier(context.task) else firsts[:0]
    # A row of each class, the longest and the shortest text, then others to fill the batch.
    chosen = [*firsts[: count // 2].tolist(), *train.spread(max(2, count // 4)), *shares[0]]
    return list(dict.fromkeys(chosen))[:count], shares[1]


def _batch(context: Context, rows: list[int]) -> Batch:
    batch: Batch = context.data.train.__getitems__(rows)
    return {name: tensor.to(context.accelerator.device) for name, tensor in batch.items()}


def _autocast(context: Context, settings: Training) -> AbstractContextManager[object]:
    import torch

    half = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(settings.precision)
    device = context.accelerator.device.type
    return torch.autocast(device, half or torch.bfloat16, enabled=half is not None)


def _problem(context: Context, batch: Batch, where: str, error: Exception) -> Problem:
    shapes = {name: tuple(batch[name].shape) for name in context.task.inputs if name in batch}
    first = str(error).strip().splitlines()[:1] or [""]
    fix = f"It raised {type(error).__name__}: {first[0]}"
    if isinstance(error, LimbeckError):
        fix = str(error)
    elif len(next(iter(batch.values()))) == 1:
        fix += f" An epoch of {len(context.data.train)} samples ends in a batch of one: "
        fix += "change `batch_size`."
    return Problem(where, shapes, "batches on which a step of the training works", fix)


@contextmanager
def _undisturbed(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Restore buffers, gradients, modes and random states after the block."""
    import torch

    whole = torch.nn.ModuleList(modules)
    kept = {module: dict(module._buffers) for module in whole.modules()}
    values = {
        module: {name: None if one is None else one.clone() for name, one in buffers.items()}
        for module, buffers in kept.items()
    }
    gradients = {parameter: parameter.grad for parameter in whole.parameters()}
    states = random.getstate(), np.random.get_state()
    try:
        with modes_restored(whole), torch.random.fork_rng():
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        for parameter, gradient in gradients.items():
            parameter.grad = gradient
        with torch.no_grad():
            for module, buffers in kept.items():
                module._buffers.update(buffers)
                for name, buffer in buffers.items():
                    value = values[module][name]
                    if buffer is not None and value is not None:
                        buffer.copy_(value)


def offline(
    context: Context, model: nn.Module, objective: Objective, teacher: Teacher | None = None
) -> Offline:
    """Build the scheme that trains a model of this run under a teacher, or on labels alone."""
    return Offline(
        model.to(context.accelerator.device),
        context.task,
        objective,
        teacher=teacher,
        probe=example_batch(context),
        training_set=training_set(context),
    )


def train(
    context: Context,
    scheme: Scheme,
    *,
    settings: Training,
    label: str,
    role: Role,
    weights: str = "model.safetensors",
    ship: str | None = None,
) -> Curve:
    """Train a scheme, and save the student that ships as `weights` in the folder.

    The first student gets the weights of the one that `ship` chooses.

    Returns:
        The curve of the training, one row per validation.
    """
    rows = None if isinstance(scheme, GeneratesBatches) else context.data.train
    if rows is not None and isinstance(scheme, Offline) and scheme.needs_labels_only:
        # In as many steps as distillation on all rows: batches of few labels are noisier.
        rows = rows.labelled()
    if rows is not None:
        rows.set_seed(context.seed)
    stream = None if rows is None else context.data.stream
    if stream is not None:
        stream.set_seed(context.seed)
    history = fit(
        scheme,
        train=rows if stream is None else Stream(stream, batched=False),
        validate=partial(validate_model, context),
        settings=settings,
        folder=(context.folder / weights).parent,
        seed=context.seed,
        accelerator=context.accelerator,
        resume=context.resume,
        progress_bar=context.progress.progress_bar(label),
        greater_is_better=context.task.scores[0].metric.higher_is_better,
        ship=ship,
    )
    chosen, first = scheme.students[history.student], next(iter(scheme.students.values()))
    if chosen is not first:
        first.load_state_dict(chosen.state_dict())
    save(context, first, weights)
    return Curve(label=label, role=role, seed=context.seed, rows=history.rows)


def training_set(context: Context) -> TrainingSet:
    """Return the training set's description, for terms that need it."""
    train, classes = context.data.train, len(context.task.classes)
    counts = train.class_counts(classes) if classes else []
    return TrainingSet(samples=len(train), class_counts=tuple(counts))


def training_of(settings: Training) -> Training:
    """Return the training part of a stage's settings."""
    return Training(**{name: getattr(settings, name) for name in Training.model_fields})
