"""Shared base of stages that compress a model, with fine-tuning afterwards."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, ValidationError, model_validator

from limbeck.compress.masked_weights import fixed
from limbeck.compress.method import CalibrationContext, CompressError, Method, NothingGainedError
from limbeck.core.parametrized import Progressive
from limbeck.errors import InputError, Problem, RefusedError
from limbeck.pipeline.artefacts import publish, save, training_batches, validate_model
from limbeck.pipeline.candidate import Candidate
from limbeck.pipeline.objective_config import ObjectiveConfig
from limbeck.pipeline.stage import Stage
from limbeck.pipeline.teacher_checks import weak_teacher
from limbeck.pipeline.train import train, training_of
from limbeck.pipeline.validate import located, of_validation
from limbeck.tasks import mean_loss, primary_output
from limbeck.training import Training, frozen

if TYPE_CHECKING:
    from torch import Tensor, nn

    from limbeck.core.registry import Registry
    from limbeck.pipeline.context import Context
    from limbeck.pipeline.dry_run import DryRun
    from limbeck.pipeline.recipe import Recipe
    from limbeck.report.result import Curve

DRY_RUN_PARAMETERS = 20_000_000
"""Parameters from which a model is checked by the dry run, but not compressed."""


def make_method(
    registry: Registry, name: str, settings: Mapping[str, Any], *, where: str = ""
) -> Method:
    """Return a method of a registry with its settings, whose keys are below `where`.

    Raises:
        InputError: The name or a setting is unknown or invalid.
    """
    kind: type[Method] = registry.load(name, where="method")
    try:
        return kind.model_validate(dict(settings))
    except ValidationError as error:
        raise InputError(*of_validation(error, kind, where)) from error


class FineTune(Training, ObjectiveConfig):
    """Settings of fine-tuning after compression; by default under the first teacher."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Compression(Stage):
    """A stage that compresses a model by a method of a registry, with the method's settings.

    Without a `student` in the recipe, the student starts from the teacher.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    registry: ClassVar[Registry]
    verb: ClassVar[str]
    starts_from_teacher: ClassVar[bool] = True

    method: str
    role: Annotated[
        Literal["student", "teacher"],
        Field(description="The model to change; a compressed teacher is used in later stages."),
    ] = "student"
    calibration: Annotated[
        int,
        Field(
            ge=1,
            le=10**7,
            description="Training samples that the method may use, if there are so many.",
        ),
    ] = 512
    finetune: Annotated[
        FineTune | None, Field(description="Train afterwards, by default under the first teacher.")
    ] = None

    @model_validator(mode="after")
    def _settings_fit(self) -> Compression:
        try:
            make_method(self.registry, self.method, self.model_extra or {})
        except InputError as error:
            raise RefusedError(*error.problems) from error
        return self

    @property
    def compressor(self) -> Method:
        """Return the method with its settings."""
        return make_method(self.registry, self.method, self.model_extra or {})

    def needed(self, recipe: Recipe) -> tuple[str, ...]:
        """Return the required artefacts: the model, and a teacher for fine-tuning under one."""
        distilled = self.finetune is not None and self.finetune.needs_teacher
        begins = self.role == "student" and recipe.student is not None
        return ("student", "float student") if begins else ("teacher",) * (distilled or not begins)

    def made(self) -> tuple[str, ...]:
        """Return the produced artefacts: the changed model."""
        return ("student", "float student") if self.role == "student" else ("teacher",)

    def own_code(self) -> list[str]:
        """Return the code outside of limbeck: of the method, and of the fine-tuning's losses."""
        code = self.registry.code_of(self.method)
        losses = [] if self.finetune is None else self.finetune.objective_code()
        return [*losses, *([code] if code else [])]

    def validate_in(self, recipe: Recipe) -> list[Problem]:
        """Return problems: an ensemble, a method without its training, or invalid fine-tuning."""
        problems = []
        if self.role == "teacher" and len(recipe.teachers) > 1:
            allowed = "student, where the teacher is an ensemble"
            problems.append(Problem("role", "teacher", allowed))
        if self.compressor.needs_training and self.finetune is None:
            fix = "Add `finetune: {epochs: 3}`."
            given = f"nothing, with {self.method}"
            problems.append(Problem("finetune", given, "a training in which it is done", fix))
        if self.finetune is not None:
            found = self.finetune.check_features(recipe)
            problems += [replace(one, where=f"finetune.{one.where}") for one in found]
        return problems

    def check_calibration(self, trial: DryRun, *, where: str) -> None:
        """Raise if more calibration samples are requested than exist.

        Raises:
            InputError: There are fewer training samples.
        """
        count = len(trial.context.data.train)
        if "calibration" in self.model_fields_set and self.calibration > count:
            allowed = f"1 to {count}, the number of training samples"
            raise InputError(Problem(f"{where}.calibration", self.calibration, allowed))

    def dry_run(self, trial: DryRun, *, where: str) -> None:
        """Try the method on the untrained model, so that later stages use its structure."""
        self.check_calibration(trial, where=where)
        model = trial.student if self.role == "student" else trial.teachers[0]
        if self.finetune is not None and self.role == "student":
            place = f"{where}.finetune"
            with frozen(trial.student, self.finetune.freeze, where=f"{place}.freeze"):
                self.finetune.try_objective(trial, where=place)
        inputs = _calibration(trial.context, samples=2, batch=trial.batch)
        try:
            with located(where):
                self.compressor.check(model, inputs)
                if sum(parameter.numel() for parameter in model.parameters()) < DRY_RUN_PARAMETERS:
                    changed = copy.deepcopy(model)
                    try:
                        self.compressor.transform(changed, inputs)
                    except NothingGainedError as error:
                        # Trained weights may have something to compress where these do not.
                        note = f"{where}: the stage stops if trained weights are as these: {error}"
                        trial.context.progress.log(note)
                    trial.replace(self.role, changed)
        except CompressError as error:
            problem = Problem(where, self.method, "a method that fits the model", str(error))
            raise InputError(problem) from error

    def run(self, candidate: Candidate, context: Context) -> Candidate:
        """Compress the model, fine-tune it if requested, and publish it."""
        state = candidate.state(self.role)
        if self.role == "student" and context.recipe.student is None and not state.weights:
            state = candidate.state("teacher")
        spec = context.student_spec if self.role == "student" else context.recipe.teachers[0]
        spec = spec.model_copy(update={"checkpoint": None}) if self.role == "teacher" else spec
        model = context.restore(spec, state).to(context.accelerator.device)
        changed = self.compressor.transform(model, _calibration(context, samples=self.calibration))
        curves, notes = self._finetune(model, candidate, context)
        changes = [
            *state.changes,
            *(dict(one) for one in (changed.change, fixed(model)) if one is not None),
        ]
        save(context, model, "model.safetensors")
        artefact = publish(
            context,
            model,
            role=self.role,
            label=f"{self.verb} {self.role}",
            weights=("model.safetensors",),
            changes=tuple(changes),
        )
        record = self.record(
            context,
            what=changed.what + (", fine-tuned" if curves else ""),
            artefacts=[artefact],
            curves=curves,
            notes=(*changed.notes, *notes),
        )
        return candidate.append(context.folder, record)

    def _finetune(
        self, model: nn.Module, candidate: Candidate, context: Context
    ) -> tuple[list[Curve], list[str]]:
        """Fine-tune the model if requested; return the curve, and a note on a weak teacher."""
        if self.finetune is None:
            return [], []
        teacher = self.finetune.frozen_teacher(context, candidate.state("teacher", original=True))
        with frozen(model, self.finetune.freeze, where="finetune.freeze"):
            curve = train(
                context,
                self.finetune.training_scheme(context, model, teacher),
                settings=self._training(self.finetune, model),
                label=f"{self.verb} {self.role}",
                role=self.role,
            )
        if not self.finetune.needs_teacher:
            return [curve], []
        note = weak_teacher(
            candidate.newest("teacher"), candidate.newest("baseline"), context.task.scores[0].metric
        )
        return [curve], [note] if note else []

    def _training(self, finetune: FineTune, model: nn.Module) -> Training:
        settings = training_of(finetune)
        if any(isinstance(part, Progressive) for part in model.modules()):
            # An earlier epoch, better on validation, has fewer zeros.
            return settings.model_copy(update={"keep": "last", "patience": None})
        return settings


def _calibration(
    context: Context, *, samples: int, batch: Mapping[str, Tensor] | None = None
) -> CalibrationContext:
    """Build the inputs of a method; with a batch, from that batch alone."""
    task = context.task

    def batches() -> Iterator[Mapping[str, Tensor]]:
        if batch is not None:
            yield batch
            return
        device = context.accelerator.device
        for found in training_batches(context, samples):
            yield {name: tensor.to(device) for name, tensor in found.items()}

    def validate(model: nn.Module) -> float:
        return 0.0 if batch is not None else next(iter(validate_model(context, model).values()))

    return CalibrationContext(
        batches=batches,
        forward=lambda model, one: primary_output(task, model, one),
        loss=lambda model, one: mean_loss(task, task.respond(model, one)),
        validate=validate,
        seed=context.seed,
        axes=task.inputs,
    )
