"""Teacher checks before distillation: chance level, class order and expected accuracy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from limbeck.display import format as fmt
from limbeck.errors import InputError, Problem
from limbeck.evaluate.chance import ChanceTest, accuracy_lower_bound, chance_test
from limbeck.export.predictor import TorchPredictor, predict
from limbeck.pipeline.artefacts import EVALUATION_BATCH, validate_model
from limbeck.tasks import is_classifier

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from limbeck.compress.method import Change
    from limbeck.core.measurement import Metric
    from limbeck.models.spec import ModelSpec
    from limbeck.pipeline.candidate import Artefact, Candidate, Record
    from limbeck.pipeline.context import Context

SAMPLE = 512
"""Validation rows that a loaded teacher is tested on in the dry run."""

BATCH = 64


def check_teacher(candidate: Candidate, context: Context) -> None:
    """Check the teacher that the newest stage produced.

    Raises:
        InputError: The teacher is no better than chance, its classes are in another order than the
            data's, or it is worse than the recipe expects.
    """
    link = candidate.lineage[-1]
    artefact = link.artefact("teacher")
    if artefact is None:
        return
    specs = context.recipe.teachers
    loaded = link.record.stage == "load"
    checked = any(_must_beat_chance(spec, context) for spec in specs)
    problems: list[Problem] = []
    if artefact.chance is not None and checked:
        problems += _of_chance(artefact.chance, "teacher", loaded=loaded)
    if len(specs) > 1 and checked and not problems:
        members = partial(_of_members, candidate, context, loaded=loaded)
        problems += context.on_main_process(lambda: list(members()))
    # A compressed teacher's accuracy is in its report.
    if link.record.stage in {"load", "train_teacher"}:
        expected = partial(_of_expectations, candidate, context, artefact)
        problems += context.on_main_process(lambda: list(expected()))
    if problems:
        raise InputError(*problems)


def check_loaded(models: Sequence[nn.Module], context: Context) -> None:
    """Check loaded teachers on a sample of the validation rows, before anything is trained.

    Raises:
        InputError: One is no better than chance, or its classes are in another order.
    """
    split = context.data.validation
    # Spread over the split, which may be sorted by class.
    size = min(SAMPLE, len(split))
    rows = [number * len(split) // size for number in range(size)]
    parts = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    recipe, problems = context.recipe, list[Problem]()
    for where, spec, model in zip(recipe.teacher_paths, recipe.teachers, models, strict=True):
        if _must_beat_chance(spec, context):
            predictor = TorchPredictor(model, context.task)
            found = chance_test(predict(predictor, map(split.__getitems__, parts)))
            problems += _of_chance(found, where, loaded=True)
    if problems:
        raise InputError(*problems)


def _must_beat_chance(spec: ModelSpec, context: Context) -> bool:
    above_chance = spec.expect is None or spec.expect.above_chance
    return above_chance and is_classifier(context.task)


def _member(
    spec: ModelSpec, weights: Path, context: Context, changes: Sequence[Change] = ()
) -> nn.Module:
    plain = spec.model_copy(update={"checkpoint": None})
    model = context.build(plain, seed=0, weights=weights, changes=changes)
    return model.to(context.accelerator.device)


def _of_members(candidate: Candidate, context: Context, *, loaded: bool) -> Iterator[Problem]:
    """Test each member of an ensemble, since the others hide what one of them lacks."""
    recipe, state = context.recipe, candidate.state("teacher")
    members = zip(recipe.teacher_paths, recipe.teachers, state.weights, strict=True)
    for where, spec, weights in members:
        if _must_beat_chance(spec, context):
            model = _member(spec, weights, context, state.changes)
            batches = context.data.validation.batches(EVALUATION_BATCH)
            found = chance_test(predict(TorchPredictor(model, context.task), batches))
            yield from _of_chance(found, where, loaded=loaded)


def _of_chance(found: ChanceTest, where: str, *, loaded: bool) -> Iterator[Problem]:
    if found.class_order is not None and found.reordered_accuracy is not None:
        order = ", ".join(map(str, found.class_order[:20]))
        more = ", ..." if len(found.class_order) > 20 else ""
        yield Problem(
            where,
            f"classes in another order than the data's: {found}",
            f"logits in the order of data.classes: {found.reordered_accuracy:.2%} with the outputs "
            f"[{order}{more}]",
            f"State {where}.class_names: the data's classes in the order of the model's outputs; "
            f"or {where}.expect: {{above_chance: false}} if this is intended.",
        )
    elif found.is_chance:
        causes = (
            "Check its weights, data.classes, the normalisation and the tokenizer"
            if loaded
            else "Train it for longer, use more validation rows, or check labels and learning rate"
        )
        yield Problem(
            where,
            f"not significantly better than chance: {found}",
            "a teacher that is better than a constant prediction",
            f"{causes}; or state {where}.expect: {{above_chance: false}} if this is intended.",
        )


def _of_expectations(
    candidate: Candidate, context: Context, artefact: Artefact
) -> Iterator[Problem]:
    recipe, weights = context.recipe, candidate.state("teacher").weights
    for where, spec, file in zip(recipe.teacher_paths, recipe.teachers, weights, strict=True):
        expect = spec.expect
        if expect is None or expect.accuracy is None:
            continue
        split = context.data.test if expect.split == "test" else context.data.validation
        if len(weights) == 1 and expect.split == "validation":
            measured = artefact.validation_score
        else:
            model = _member(spec, file, context)
            measured = next(iter(validate_model(context, model, split).values()))
        low, high = accuracy_lower_bound(expect.accuracy, len(split)), 1.0
        if expect.tolerance is not None:
            low, high = expect.accuracy - expect.tolerance, expect.accuracy + expect.tolerance
        found = f"{measured:.2%} on {len(split)} {expect.split} samples"
        # Rounding of a share of that many samples is not a deviation.
        if low - 1e-9 <= measured <= high + 1e-9:
            text = f"{where}: accuracy {found}, as expected ({expect.accuracy:.2%})"
            context.progress.log(text)
            continue
        kind = "99 % binomial" if expect.tolerance is None else "tolerance"
        upper = "" if high == 1.0 else f" and at most {high:.2%}"
        yield Problem(
            f"{where}.expect.accuracy",
            found,
            f"at least {low:.2%}{upper} ({kind} of {expect.accuracy:.2%})",
            "Check its weights, class order, normalisation, size and tokenizer.",
        )


def chance_notes(record: Record) -> Iterator[str]:
    """Yield descriptions of a stage's models that are no better than chance."""
    for artefact in record.artefacts:
        found = artefact.chance
        compressed = artefact.role == "teacher" and record.stage not in {"load", "train_teacher"}
        if found is None or compressed:
            continue
        if found.is_chance:
            yield f"{artefact.label}: not significantly better than chance: {found}."
        elif not found.is_better_than_majority:
            yield f"{artefact.label}: not significantly above the most frequent class: {found}."


def weak_teacher(
    of_teacher: tuple[Path, Artefact] | None,
    of_baseline: tuple[Path, Artefact] | None,
    metric: Metric,
) -> str:
    """Describe a teacher that is no better than the label-only student; empty if it is better."""
    if of_teacher is None or of_baseline is None:
        return ""
    teacher, baseline = of_teacher[1], of_baseline[1]
    if metric.gain(teacher.validation_score, over=baseline.validation_score) > 0:
        return ""
    scores = (fmt.score(one.validation_score, metric) for one in (teacher, baseline))
    return (
        f"The teacher is no better than the label-only student: {' and '.join(scores)} "
        f"({metric.text} on validation). Distillation may bring nothing: "
        "consider a better teacher, or the label-only student."
    )
