"""Teacher checks before distillation: chance level, class order and expected accuracy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from limbeck.errors import InputError, Problem
from limbeck.evaluate.chance import ChanceTest, chance_test, lowest_expected
from limbeck.export.predictor import TorchPredictor, predict

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from limbeck.models.spec import Expect, ModelSpec
    from limbeck.pipeline.candidate import Artefact, Candidate, Record
    from limbeck.pipeline.context import Context

SAMPLE = 512
"""Validation rows that a loaded teacher is tested on in the dry run."""

BATCH = 64


def check_teacher(candidate: Candidate, context: Context) -> None:
    """Check the teacher that the newest stage produced.

    Args:
        candidate: The chain so far.
        context: The context of the stage.

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
    chance = any(spec.expect is None or spec.expect.above_chance for spec in specs)
    problems = []
    if artefact.chance is not None and chance:
        problems += list(_of_chance(artefact.chance, "teacher", loaded=loaded))
    if len(specs) > 1 and chance and not problems:
        members = partial(_of_members, candidate, context, loaded=loaded)
        problems += context.on_main_process(lambda: list(members()))
    if link.record.stage in {
        "load",
        "train_teacher",
    }:  # a compressed teacher's accuracy is in its report
        problems += context.on_main_process(
            lambda: list(_of_expectations(candidate, context, artefact))
        )
    if problems:
        raise InputError(*problems)


def check_loaded(models: Sequence[nn.Module], context: Context) -> None:
    """Check loaded teachers on a sample of the validation rows, before anything is trained.

    Args:
        models: The teachers, with their weights, in the order of the recipe.
        context: The context of the dry run.

    Raises:
        InputError: One is no better than chance, or its classes are in another order.
    """
    split, several = context.data.validation, len(models) > 1
    # Spread over the split, which may be sorted by class.
    rows = [number * len(split) // SAMPLE for number in range(min(SAMPLE, len(split)))]
    if len(split) <= SAMPLE:
        rows = list(range(len(split)))
    parts = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    problems: list[Problem] = []
    for number, (spec, model) in enumerate(zip(context.recipe.teachers, models, strict=True)):
        if spec.expect is not None and not spec.expect.above_chance:
            continue
        predictor = TorchPredictor(model, context.task)
        found = chance_test(predict(predictor, map(split.__getitems__, parts)))
        where = f"teacher.{number}" if several else "teacher"
        problems += _of_chance(found, where, loaded=True)
    if problems:
        raise InputError(*problems)


def _of_members(candidate: Candidate, context: Context, *, loaded: bool) -> Iterator[Problem]:
    """Test each member of an ensemble, since the others hide what one of them lacks."""
    state = candidate.state("teacher")
    for number, (spec, weights) in enumerate(
        zip(context.recipe.teachers, state.weights, strict=True)
    ):
        if spec.expect is not None and not spec.expect.above_chance:
            continue
        plain = spec.model_copy(update={"checkpoint": None})
        model = context.build(plain, seed=0, weights=weights, changes=state.changes)
        predictor = TorchPredictor(model.to(context.accelerator.device), context.task)
        found = chance_test(predict(predictor, context.batches(context.data.validation)))
        yield from _of_chance(found, f"teacher.{number}", loaded=loaded)


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
            else "Train it for longer, or check the labels and the learning rate"
        )
        yield Problem(
            where,
            f"no better than chance: {found}",
            "a teacher that is better than a constant prediction",
            f"{causes}; or state {where}.expect: {{above_chance: false}} if this is intended.",
        )


def _of_expectations(
    candidate: Candidate, context: Context, artefact: Artefact
) -> Iterator[Problem]:
    specs, state = context.recipe.teachers, candidate.state("teacher")
    for number, (spec, weights) in enumerate(zip(specs, state.weights, strict=True)):
        if spec.expect is None or spec.expect.accuracy is None:
            continue
        where = "teacher" if len(specs) == 1 else f"teacher.{number}"
        published = len(specs) == 1 and spec.expect.split == "validation"
        measured = (
            artefact.validation_accuracy
            if published
            else _measured(spec, weights, context, spec.expect)
        )
        yield from _unexpected(spec.expect, measured, context, where)


def _measured(spec: ModelSpec, weights: Path, context: Context, expect: Expect) -> float:
    plain = spec.model_copy(update={"checkpoint": None})
    model = context.build(plain, seed=0, weights=weights).to(context.accelerator.device)
    split = context.data.test if expect.split == "test" else context.data.validation
    return next(iter(context.validate(model, split).values()))


def _unexpected(expect: Expect, measured: float, context: Context, where: str) -> Iterator[Problem]:
    wanted = expect.accuracy or 0.0
    total = len(context.data.test if expect.split == "test" else context.data.validation)
    low = lowest_expected(wanted, total)
    high = 1.0
    if expect.tolerance is not None:
        low, high = wanted - expect.tolerance, wanted + expect.tolerance
    # Rounding of a share of that many samples is not a deviation.
    if low - 1e-9 <= measured <= high + 1e-9:
        context.progress.log(
            f"{where}: accuracy {measured:.2%} on {total} {expect.split} samples, as expected "
            f"({wanted:.2%})"
        )
        return
    how = "99 % binomial" if expect.tolerance is None else "tolerance"
    upper = "" if high == 1.0 else f" and at most {high:.2%}"
    yield Problem(
        f"{where}.expect.accuracy",
        f"{measured:.2%} on {total} {expect.split} samples",
        f"at least {low:.2%}{upper} ({how} of {wanted:.2%})",
        "Check its weights, class order, normalisation, size and tokenizer.",
    )


def chance_notes(record: Record) -> Iterator[str]:
    """Yield descriptions of a stage's models that are no better than chance."""
    for artefact in record.artefacts:
        found = artefact.chance
        if found is None or (
            artefact.role == "teacher" and record.stage not in {"load", "train_teacher"}
        ):
            continue
        if found.is_chance:
            yield f"{artefact.label}: no better than chance: {found}."
        elif not found.is_better_than_majority:
            yield f"{artefact.label}: not above the most frequent class: {found}."


def weak_teacher(
    of_teacher: tuple[Path, Artefact] | None, of_baseline: tuple[Path, Artefact] | None
) -> str:
    """Describe a teacher that is no better than the label-only student; empty if it is better.

    Args:
        of_teacher: The newest teacher with its folder, if there is one.
        of_baseline: The newest label-only student with its folder, if there is one.
    """
    if of_teacher is None or of_baseline is None:
        return ""
    teacher, baseline = of_teacher[1], of_baseline[1]
    if teacher.validation_accuracy > baseline.validation_accuracy:
        return ""
    return (
        f"The teacher is no better than the label-only student: {teacher.validation_accuracy:.2%} "
        f"and {baseline.validation_accuracy:.2%} on validation. Distillation may bring nothing: "
        "consider a better teacher, or the label-only student."
    )
