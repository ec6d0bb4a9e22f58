"""Inputs of a diagnosis: the models, samples, curves and gradients of a distillation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from limbeck.display import format as fmt
from limbeck.errors import LimbeckError
from limbeck.evaluate.context import (
    Distillation,
    Role,
    TermGradientNorm,
    TermGradients,
    TrainingCurve,
)
from limbeck.export.predictor import OnnxPredictor, Predictor
from limbeck.pipeline.artefacts import evaluation_batch
from limbeck.pipeline.candidate import Artefact, Candidate, State
from limbeck.pipeline.stages.distill import Distill
from limbeck.pipeline.validate import check_code
from limbeck.training import data
from limbeck.training.stream import GeneratesBatches

if TYPE_CHECKING:
    from torch import nn

    from limbeck.pipeline.context import Context
    from limbeck.report.result import Link, RunResult
    from limbeck.schemes import Scheme
    from limbeck.tasks import Batch

PUBLISHED: tuple[Role, ...] = ("student", "baseline")
BATCHES = 4
"""The number of training batches whose gradients are measured."""


@dataclass(frozen=True)
class _Found:
    """A distillation in a chain: its stage, its number in the chain, and the chain before it."""

    stage: Distill
    number: int
    before: Candidate


def distillation_of(
    candidate: Candidate, context: Context, result: RunResult
) -> Distillation | None:
    """Return the last distillation of a chain that has a baseline, or else the last one.

    Args:
        candidate: The first seed's chain.
        context: Its context.
        result: The result of the run, with the scores of all seeds.

    Returns:
        None if the chain has no `distill` stage.
    """
    found = _find(candidate, context)
    if found is None:
        return None
    link = candidate.lineage[found.number]
    places: dict[Role, tuple[Path, Artefact]] = {}
    for role in PUBLISHED:
        if (artefact := link.artefact(role)) is not None:
            places[role] = (link.folder, artefact)
    if found.stage.needs_teacher and (teacher := found.before.newest(found.stage.teacher)):
        places["teacher"] = teacher
    models: dict[Role, Predictor] = {
        role: OnnxPredictor(folder / artefact.file) for role, (folder, artefact) in places.items()
    }
    splits = {"validation": context.data.validation, "test": context.data.test}
    notes = []
    if found.stage.uses_data:
        splits = {"train": context.data.train, **splits}
    else:
        notes.append(
            f"The scheme {found.stage.scheme} reads no training rows: figures of training rows do "
            "not apply."
        )
    if context.data.stream is not None:
        notes.append("The training rows are streamed: those of the figures are the first ones.")

    def samples(split: str, rows: int) -> Iterator[Batch]:
        plain = splits[split].for_evaluation()
        chosen = plain.spread(rows)
        size = min(evaluation_batch(one, plain) for one in models.values())
        for start in range(0, len(chosen), size):
            yield plain.__getitems__(chosen[start : start + size])

    return Distillation(
        task=context.task,
        models=models,
        samples=samples,
        sizes={name: len(split) for name, split in splits.items()},
        seeds=result.seeds,
        scores=_scores(result, found),
        curves=_curves(result),
        baseline=found.stage.control_label,
        temperature=_temperature(found.stage),
        gradients=partial(_gradients, found, candidate, context),
        notes=notes,
    )


def _find(candidate: Candidate, context: Context) -> _Found | None:
    stages = [stage for _, stage in check_code(context.recipe)]
    first = len(candidate.lineage) - len(stages)  # a stage `load` comes before those of the recipe
    found = [
        _Found(stage, first + number, Candidate(candidate.lineage[: first + number]))
        for number, stage in enumerate(stages)
        if isinstance(stage, Distill)
    ]
    with_baseline = [
        one for one in found if candidate.lineage[one.number].artefact("baseline") is not None
    ]
    return next(reversed(with_baseline or found), None)


def _scores(result: RunResult, found: _Found) -> dict[Role, tuple[float, ...]]:
    """Return the test scores of all seeds by role."""
    links: dict[Role, Link | None] = {"student": None, "baseline": result.baseline}
    if found.stage.needs_teacher and found.stage.teacher == "teacher":
        links["teacher"] = result.teacher
    scores = {role: link.score.values for role, link in links.items() if link is not None}
    if result.comparison is not None:
        scores["student"] = result.comparison.student.values
    return scores


def _curves(result: RunResult) -> list[TrainingCurve]:
    key = f"validation/{result.metric.name}"
    curves = []
    for curve in result.curves:
        rows = [row for row in curve.rows if key in row]
        epochs = tuple(row.get("epoch", float(place)) for place, row in enumerate(rows, start=1))
        curves.append(TrainingCurve(curve.role, epochs, tuple(row[key] for row in rows)))
    return curves


def _temperature(stage: Distill) -> float:
    """Return the highest constant temperature of a term."""
    given = [term.arguments.get("temperature") for term in stage.terms().terms]
    return max((float(one) for one in given if isinstance(one, int | float)), default=1.0)


def _gradients(found: _Found, candidate: Candidate, context: Context) -> TermGradients:
    """Compute the gradient norm of every weighted term, before and after the distillation.

    Connectors, generators and peers are not saved with a student: with any of these, only the
    weights before the distillation are those of the training.
    """
    import torch

    settings = {"grad_norm_every": 1, "cache_teacher": False}
    stage = found.stage.model_copy(update=settings)
    try:
        with torch.random.fork_rng(devices=[]):
            student = stage.initial(found.before, context).build(context)
            scheme = _scheme(stage, student, found, context)
            norms = list(_norms(scheme, context, stage, at="start"))
            trained = scheme.modules_to_save().items()
            missing = [name for name, one in trained if name != "student" and [*one.parameters()]]
            if missing:
                note = (
                    "Gradient shares are those at the initial weights: a run keeps no "
                    f"{fmt.listing(missing)}."
                )
                return TermGradients(norms, (note,))
            link = candidate.lineage[found.number]
            artefact = link.artefact("student")
            if artefact is None:
                return TermGradients(norms)
            weights = tuple(link.folder / name for name in artefact.weights)
            student = context.restore(context.student_spec, State(weights, artefact.changes))
            scheme = _scheme(stage, student, found, context)
            return TermGradients([*norms, *_norms(scheme, context, stage, at="end")])
    except LimbeckError as error:
        return TermGradients(notes=(f"The gradient shares could not be measured: {error}",))


def _scheme(stage: Distill, student: nn.Module, found: _Found, context: Context) -> Scheme:
    teacher = stage.frozen_teacher(context, found.before.state(stage.teacher))
    student.to(context.accelerator.device)
    return stage.training_scheme(context, student, teacher, stage.build_further(context))


def _norms(
    scheme: Scheme, context: Context, stage: Distill, *, at: Literal["start", "end"]
) -> Iterator[TermGradientNorm]:
    """Yield the norms on some training batches, as the training draws and augments them."""
    progress = {"start": 0.0, "end": 1.0}[at]
    phase = "student" if "student" in scheme.phases else next(iter(scheme.phases))
    for module in scheme.students.values():
        module.train()
    for batch in islice(_batches(scheme, context, stage), BATCHES):
        losses = scheme.step(batch, progress, None, phase)
        for name, norm in losses.gradient_norms.items():
            term = losses.terms[name]
            raw, weighted = float(term.raw), float(term.weighted)
            yield TermGradientNorm(
                term=name, at=at, norm=float(norm) * abs(weighted / raw) if raw else 0.0
            )


def _batches(scheme: Scheme, context: Context, stage: Distill) -> Iterator[Batch]:
    device = context.accelerator.device
    if isinstance(scheme, GeneratesBatches):
        drawn: Iterator[Batch] = iter(scheme.batches(epoch=0, size=stage.batch_size))
    else:
        train = context.data.train
        train.set_seed(context.seed)
        train.set_epoch(0)
        rows = data.batches(
            len(train), size=stage.batch_size, seed=context.seed, epoch=0, processes=1
        )
        drawn = (train.__getitems__(list(one)) for one in rows)
    for batch in drawn:
        yield {name: tensor.to(device) for name, tensor in batch.items()}
