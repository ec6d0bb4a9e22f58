"""Distil: train the student on what the teacher says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeAlias

from pydantic import Field, field_validator

from limbeck import methods
from limbeck.callables import file_of
from limbeck.errors import InputError, Problem
from limbeck.objective import Objective
from limbeck.pipeline.candidate import Artefact, Candidate, Record, Role, hashes
from limbeck.pipeline.context import Context
from limbeck.pipeline.problems import RefusedError, inside
from limbeck.pipeline.rehearsal import Rehearsal, gathered
from limbeck.pipeline.stage import Stage
from limbeck.pipeline.teachers import check_recordable, members_as_one, recorded_of, teacher_of
from limbeck.pipeline.train import train, training_of, training_set
from limbeck.report.result import Curve
from limbeck.schemes import Offline
from limbeck.taps import Taps
from limbeck.terms import Term
from limbeck.terms.term import PYTHON
from limbeck.training import Training

if TYPE_CHECKING:
    from torch import nn

    from limbeck.models.spec import ModelSpec
    from limbeck.pipeline.recipe import Recipe
    from limbeck.teachers import Teacher

Entries: TypeAlias = list[dict[str, Any] | str] | dict[str, Any]
HINTON: list[dict[str, Any] | str] = [
    {"task": {"weight": 0.1}},
    {"soft_target_kl": {"temperature": 4.0, "weight": 0.9}},
]


class Distill(Training, Stage):
    """Train the student with an objective over labels, the teacher's answers and its features.

    Beside it the same student is trained on labels alone, from the same initial weights, over the
    same samples in the same order for as many epochs: what distillation brought is the difference.
    A second `distill` goes on from what the first one made, and so does its label-only twin.
    """

    makes: ClassVar[tuple[str, ...]] = ("student", "float student")

    objective: Annotated[
        list[dict[str, Any] | str] | dict[str, Any],
        Field(
            min_length=1,
            description="Terms, `- name: {weight: 0.9, ...}`; or a method, `name: {...}`.",
        ),
    ] = HINTON
    measure_gradients: Annotated[
        int,
        Field(
            ge=0,
            description="Log each term's gradient norm every so many optimiser steps; 0 does not.",
        ),
    ] = 0
    recorded: Annotated[
        bool,
        Field(description="Save the teacher's answers once; look them up for every student after."),
    ] = False
    baseline: Annotated[
        bool, Field(description="Train the same student on labels alone beside it.")
    ] = True

    @field_validator("objective")
    @classmethod
    def _terms_fit(cls, objective: Entries) -> Entries:
        try:
            Objective.from_recipe(objective)
        except InputError as error:
            raise RefusedError(*error.problems) from error
        return objective

    def needed(self) -> tuple[str, ...]:
        """Need a teacher, unless the labels are all that is asked for."""
        return ("teacher",) if self._objective().needs_teacher else ()

    def own_code(self) -> list[Path]:
        """Name the files of the recipe's own losses."""
        named = (str(term.loss) for term in self._objective().terms)
        files = (file_of(name.removeprefix(PYTHON)) for name in named if name.startswith(PYTHON))
        return [file for file in files if file is not None]

    def misfits(self, recipe: Recipe) -> list[Problem]:
        """Refuse features of an ensemble, and recorded features: there are none."""
        taps = self._objective().teacher_taps
        problems = []
        if taps and len(recipe.teachers) > 1:
            fix = "The features of an ensemble's members share no axes."
            allowed = "terms on answers only, with several teachers"
            problems.append(Problem("objective", taps, allowed, fix))
        if taps and self.recorded:
            fix = "Features are not recorded: set `recorded: false`."
            problems.append(Problem("recorded", taps, "terms on answers only", fix))
        return problems

    def rehearse(self, rehearsal: Rehearsal, *, where: str) -> None:
        """Build student and teacher, and join them once as the training will."""
        objective = self._objective()
        needs = objective.needs_teacher
        student, teachers = gathered(
            [lambda: [rehearsal.student], lambda: rehearsal.teachers if needs else []]
        )
        context = rehearsal.context
        if self.recorded and needs:
            check_recordable(context)
        place = f"{where}.objective"
        gathered(
            [
                lambda: _check_taps(student, objective.student_taps, f"{place} (student)"),
                lambda: _check_taps(teachers, objective.teacher_taps, f"{place} (teacher)"),
            ]
        )
        taps = objective.teacher_taps
        teacher = members_as_one(context, teachers, taps=taps) if needs else None
        try:
            Offline(
                student[0],
                context.task,
                objective,
                teacher=teacher,
                probe=rehearsal.batch,
                training_set=training_set(context),
            )
        except InputError as error:
            raise InputError(*inside(error, place)) from error

    def run(self, candidate: Candidate, context: Context) -> Candidate:
        """Train the student and its label-only twin."""
        objective = self._objective()
        teacher = self._teacher(objective, candidate, context)
        student = candidate.weights("student")
        trained = [self._train(context, objective, begin=student, teacher=teacher)]
        if self.baseline and objective.needs_teacher:
            begin = candidate.weights("baseline") or student
            trained.append(self._twin(context, begin))
        artefacts = tuple(artefact for artefact, _ in trained)
        record = Record(
            stage="distill",
            key=context.key,
            seed=context.seed,
            settings=self.model_dump(mode="json"),
            what=" + ".join(_term_name(term) for term in objective.terms),
            artefacts=artefacts,
            files=hashes(
                context.folder, [name for one in artefacts for name in (one.file, *one.weights)]
            ),
            curves=tuple(curve for _, curve in trained),
        )
        return candidate.then(context.folder, record)

    def _objective(self) -> Objective:
        return Objective.from_recipe(self.objective, measure_every=self.measure_gradients)

    def _teacher(
        self, objective: Objective, candidate: Candidate, context: Context
    ) -> Teacher | None:
        if not objective.needs_teacher:
            return None
        teacher = teacher_of(context, candidate.weights("teacher"), taps=objective.teacher_taps)
        return recorded_of(context, teacher) if self.recorded else teacher

    def _twin(self, context: Context, begin: Sequence[Path]) -> tuple[Artefact, Curve]:
        """Train the student on labels alone, in a folder inside this stage's."""
        artefact, curve = self._train(
            context.within("baseline"),
            Objective(methods.label_only()),
            begin=begin,
            role="baseline",
            label="label-only student",
        )
        files = {
            "file": f"baseline/{artefact.file}",
            "weights": tuple(f"baseline/{name}" for name in artefact.weights),
        }
        return artefact.model_copy(update=files), curve

    def _train(
        self,
        context: Context,
        objective: Objective,
        *,
        begin: Sequence[Path],
        teacher: Teacher | None = None,
        role: Role = "student",
        label: str = "distilled student",
    ) -> tuple[Artefact, Curve]:
        weights = begin[0] if begin else None
        model = context.build(_student(context), seed=context.seed, weights=weights)
        settings = training_of(self)
        curve = train(
            context,
            model,
            objective=objective,
            settings=settings,
            label=label,
            role=role,
            teacher=teacher,
        )
        artefact = context.publish(model, role=role, label=label, weights=("model.safetensors",))
        return artefact, curve


def _student(context: Context) -> ModelSpec:
    if context.recipe.student is None:  # the recipe's own check has seen to it
        raise ValueError("a distill stage without a student")
    return context.recipe.student


def _term_name(term: Term) -> str:
    return str(term.loss)  # a recipe names losses; only a program gives functions


def _check_taps(models: Sequence[nn.Module], paths: Sequence[str], where: str) -> None:
    """Look the tapped layers up; those that are not there are named with the nearest that are."""
    try:
        for model in models:
            Taps(model, paths)
    except InputError as error:
        found = (Problem(where, one.given, one.allowed, one.fix) for one in error.problems)
        raise InputError(*found) from error
