"""Distillation objective settings: terms over labels, teacher outputs and features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, field_validator

from limbeck.core.imports import are_deferred
from limbeck.core.registry import PYTHON, is_own
from limbeck.errors import InputError, Problem, RefusedError, gathered
from limbeck.losses import LOSSES
from limbeck.models.build import is_fitted
from limbeck.objective import Objective
from limbeck.objective.methods import METHODS
from limbeck.pipeline.dry_run import DryRun
from limbeck.pipeline.teachers import cached_teacher, check_recordable, members_as_one, teacher_of
from limbeck.pipeline.train import offline, training_of, try_training
from limbeck.pipeline.validate import located
from limbeck.taps import Taps
from limbeck.tasks import common_classes
from limbeck.teachers import Form, TargetForm
from limbeck.training import Training

if TYPE_CHECKING:
    from torch import nn

    from limbeck.models.spec import ModelSpec
    from limbeck.pipeline.candidate import State
    from limbeck.pipeline.context import Context
    from limbeck.pipeline.recipe import Recipe
    from limbeck.schemes import Scheme
    from limbeck.tasks import Task
    from limbeck.teachers import Teacher


LARGE_VOCABULARY, FORWARD = 10_000, "forward_kl"
Entries: TypeAlias = list[dict[str, Any] | str] | dict[str, Any]
HINTON: list[dict[str, Any] | str] = [
    {"task": {"weight": 0.1}},
    {"soft_target_kl": {"temperature": 4.0, "weight": 0.9}},
]


class TargetSpec(BaseModel):
    """The form of a teacher's answers over classes, as recipe settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    form: Annotated[
        Form,
        Field(
            description="`dense`: all logits. `top_k`: the k most probable classes, and the "
            "probability of all others. `sampled`: classes drawn from the teacher's distribution, "
            "an unbiased estimate of it. `head`: the last hidden states and the head, which give "
            "all logits a few rows at a time."
        ),
    ]
    k: Annotated[int, Field(ge=1, le=100_000, description="Only for `top_k`.")] = 32
    draws: Annotated[
        int, Field(ge=1, le=65_535, description="Draws per element. Only for `sampled`.")
    ] = 50
    temperature: Annotated[
        float,
        Field(gt=0, le=1000, description="That of the divergence. Only for `sampled`."),
    ] = 1.0
    exact: Annotated[
        bool,
        Field(
            description="Whether samples have the log-probability of each class, or only their "
            "mean, which takes half of the space and is enough for `forward_kl`."
        ),
    ] = True

    def build(self) -> TargetForm:
        """Build the form."""
        return TargetForm(**self.model_dump())


class ObjectiveConfig(BaseModel):
    """The objective of a training under a teacher, as recipe settings."""

    objective: Annotated[
        Entries,
        Field(
            min_length=1,
            max_length=100,
            description="Terms, `- name: {weight: 0.9, ...}`; or a method, `name` or "
            "`name: {...}`.",
        ),
    ] = HINTON
    grad_norm_every: Annotated[
        int,
        Field(
            ge=0,
            le=10**9,
            description="Log each term's gradient norm every so many optimiser steps; 0 does not.",
        ),
    ] = 0
    cache_teacher: Annotated[
        bool, Field(description="Save the teacher's outputs once; every student after reads them.")
    ] = False

    targets: Annotated[
        TargetSpec | Form | None,
        Field(
            description="The form of the teacher's answers over classes: `dense`, `top_k`, "
            "`sampled` or `head`; or one with settings, `{form: top_k, k: 64}`. Default: `dense`; "
            "of a language model with 10,000 tokens or more `sampled` if the answers are cached, "
            "and `head` if not."
        ),
    ] = None

    @field_validator("targets", mode="before")
    @classmethod
    def _of_form(cls, targets: object) -> object:
        """Read the name of a form as that form with its defaults."""
        return {"form": targets} if isinstance(targets, str) else targets

    @field_validator("objective", mode="before")
    @classmethod
    def _of_name(cls, objective: object) -> object:
        """Read the name of a method as that method with its defaults."""
        return {objective: {}} if isinstance(objective, str) else objective

    @field_validator("objective")
    @classmethod
    def _terms_fit(cls, objective: Entries) -> Entries:
        try:
            Objective.from_recipe(objective)
        except InputError as error:
            raise RefusedError(*error.problems) from error
        return objective

    def terms(self) -> Objective:
        """Build the objective."""
        return Objective.from_recipe(self.objective, measure_every=self.grad_norm_every)

    def loss_names(self) -> list[str]:
        """Return the losses of the terms; recipes have names, only programs pass functions."""
        return [str(term.loss) for term in self.terms().terms]

    @property
    def needs_teacher(self) -> bool:
        """Return whether a term needs a teacher; unknown for losses whose import is deferred."""
        entries = self.objective
        if are_deferred() and isinstance(entries, list):
            entries = [one for one in entries if not _is_own(one)]
            return bool(entries) and Objective.from_recipe(entries).needs_teacher
        return self.terms().needs_teacher

    def target_form(self, task: Task) -> TargetForm:
        """Return the form of the teacher's answers: that of the recipe, or the task's default."""
        if isinstance(self.targets, TargetSpec):
            return self.targets.build()
        if not self.cache_teacher or task.classes or common_classes(task) < LARGE_VOCABULARY:
            return TargetForm("dense")
        kinds = {term.arguments.get("kind", FORWARD) for term in self.terms().terms}
        return TargetForm("sampled", draws=50, exact=kinds != {FORWARD})

    def own_losses(self) -> list[str]:
        """Return the recipe's own losses."""
        names = self.loss_names()
        return [name.removeprefix(PYTHON) for name in names if is_own(name)]

    def objective_code(self) -> list[str]:
        """Return the callables outside of limbeck that the objective depends on."""
        names = [LOSSES.code_of(name) for name in self.loss_names()]
        if not isinstance(self.objective, list):
            names += map(METHODS.code_of, self.objective)
        return list(filter(None, names))

    def check_features(self, recipe: Recipe) -> list[Problem]:
        """Return problems: features of an ensemble, or cached features, neither of which exists."""
        taps = self.terms().teacher_taps
        problems = []
        if taps and len(self.teacher_specs(recipe)) > 1:
            fix = "The features of an ensemble's members share no axes."
            allowed = "terms on logits only, with several teachers"
            problems.append(Problem("objective", taps, allowed, fix))
        form = self.targets.form if isinstance(self.targets, TargetSpec) else "dense"
        if form != "dense" and len(self.teacher_specs(recipe)) > 1:
            allowed = "dense, with several teachers, whose probabilities are averaged"
            problems.append(Problem("targets", form, allowed))
        fitted = [spec.name for spec in self.teacher_specs(recipe) if is_fitted(spec)]
        if taps and fitted:
            fix = "Trees have no intermediate features: compare logits, as by soft_target_kl."
            problems.append(Problem("objective", taps, f"terms on logits, with {fitted[0]}", fix))
        if taps and self.cache_teacher:
            fix = "Features are not cached: set `cache_teacher: false`."
            problems.append(Problem("cache_teacher", taps, "terms on logits only", fix))
        return problems

    def training_scheme(
        self,
        context: Context,
        student: nn.Module,
        teacher: Teacher | None,
        models: Sequence[nn.Module] = (),
    ) -> Scheme:
        """Build the training of a student; further models are those of the scheme."""
        return offline(context, student, self.terms(), teacher)

    def try_objective(
        self,
        trial: DryRun,
        *,
        where: str,
        models: Sequence[nn.Module] = (),
        teachers: Sequence[nn.Module] = (),
    ) -> None:
        """Build student and teacher, connect them as in training, and try one step.

        Args:
            trial: The recipe's models, built for the data.
            where: The stage's place in the recipe, for messages.
            models: Further models of the scheme.
            teachers: The models that teach; by default those of the recipe.

        Raises:
            InputError: They cannot be built, tapped, connected or trained.
        """
        objective, needs = self.terms(), self.needs_teacher
        taps = objective.teacher_taps
        student, teaching = gathered(
            [lambda: [trial.student], lambda: [*(teachers or trial.teachers)] if needs else []]
        )
        context = trial.context
        if self.cache_teacher and needs:
            check_recordable(context)
        place = f"{where}.objective"
        gathered(
            [
                lambda: _check_taps(student, objective.student_taps, f"{place} (student)"),
                lambda: _check_taps(teaching, taps, f"{place} (teacher)"),
            ]
        )
        with located(place):
            form = self.target_form(context.task)
            teacher = members_as_one(context, teaching, taps=taps, targets=form) if needs else None
            scheme = self.training_scheme(context, student[0], teacher, models)
        if isinstance(self, Training):
            try_training(context, scheme, training_of(self), where=where)

    def teacher_specs(self, recipe: Recipe) -> list[ModelSpec]:
        """Return the specifications of the models that teach."""
        return recipe.teachers

    def frozen_teacher(self, context: Context, state: State) -> Teacher | None:
        """Load the teacher from a saved state, if a term needs one."""
        if not self.needs_teacher:
            return None
        specs = self.teacher_specs(context.recipe)
        taps, form = self.terms().teacher_taps, self.target_form(context.task)
        teacher = teacher_of(context, state, specs, taps=taps, targets=form)
        return cached_teacher(context, teacher, specs) if self.cache_teacher else teacher


def _is_own(entry: dict[str, Any] | str) -> bool:
    names = [entry] if isinstance(entry, str) else list(entry)
    return any(is_own(str(name)) for name in names)


def _check_taps(models: Sequence[nn.Module], paths: Sequence[str], where: str) -> None:
    """Raise if tapped layers do not exist, with the closest existing names."""
    try:
        for model in models:
            Taps(model, paths)
    except InputError as error:
        raise InputError(*(replace(one, where=where) for one in error.problems)) from error
