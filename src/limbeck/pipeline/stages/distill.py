"""Distillation stage: trains the student by a scheme, on the teacher's outputs by default."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, create_model

from limbeck.core.imports import are_deferred
from limbeck.core.registry import is_own
from limbeck.display import format as fmt
from limbeck.errors import InputError, Problem, gathering
from limbeck.models.build import is_fitted
from limbeck.models.initialize import copy_layers
from limbeck.models.spec import SOURCES, LayerInit, Layers
from limbeck.pipeline.artefacts import publish
from limbeck.pipeline.candidate import Artefact, Candidate, Role, State
from limbeck.pipeline.context import Context
from limbeck.pipeline.dry_run import DryRun, example_batch
from limbeck.pipeline.objective_config import ObjectiveConfig
from limbeck.pipeline.stage import Stage
from limbeck.pipeline.teacher_checks import weak_teacher
from limbeck.pipeline.teachers import teacher_models
from limbeck.pipeline.train import train, training_of, training_set
from limbeck.pipeline.validate import located, model_located
from limbeck.report.result import Curve
from limbeck.schemes import SCHEMES, SchemeInputs, SchemeSettings
from limbeck.schemes.offline import OfflineSettings
from limbeck.training import Training, frozen

if TYPE_CHECKING:
    from torch import Tensor, nn

    from limbeck.data.preprocess import Bounds
    from limbeck.models.spec import ModelSpec
    from limbeck.pipeline.recipe import Recipe
    from limbeck.schemes import Scheme
    from limbeck.teachers import Teacher


class BaselineTraining(BaseModel):
    """Training settings of the label-only baseline that differ from the student's.

    A fair baseline has its own tuned learning rate. None of these settings changes the cost of
    the training: the number of steps, batches and augmentation are always the student's.

    Example:
        >>> BaselineTraining(learning_rate=0.01).own
        {'learning_rate': 0.01}
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    learning_rate: Annotated[
        float | None,
        Field(gt=0, le=1000, description="Default: the student's, here and below."),
    ] = None
    weight_decay: Annotated[float | None, Field(ge=0, le=1000)] = None
    warmup_ratio: Annotated[float | None, Field(ge=0, le=1)] = None
    lr_schedule: Literal["cosine", "linear", "constant"] | None = None

    @property
    def own(self) -> dict[str, float | str]:
        """Return the settings that are given."""
        return self.model_dump(exclude_none=True)


class Distill(Training, ObjectiveConfig, OfflineSettings, Stage):
    """Distillation of the student, with an objective over labels, teacher outputs and features.

    The label-only baseline is the scheme's control: the same student trained on labels alone, from
    the same initial weights, on the same samples in the same order for as many epochs, with the
    learning rate of `baseline` if it has one; the difference is the distillation gain. A second
    `distill` continues from the first, and so does its baseline; after a stage that changed the
    student's structure, both start from that stage's result; with `init: fresh` or
    `init: {layers: ...}`, both start from the same new weights.
    """

    produces: ClassVar[tuple[str, ...]] = ("student", "float student")

    scheme: Annotated[
        Literal["offline"],
        Field(description="The scheme of a training step, with its settings as further keys."),
    ] = "offline"
    teacher: Annotated[
        Literal["teacher", "student"],
        Field(description="The frozen teacher: the recipe's, or the newest student."),
    ] = "teacher"
    init: Annotated[
        Literal["same", "fresh"] | LayerInit,
        Field(
            description="The initial weights: those of the newest student, if there is one, or new "
            "ones of another seed, or, by `{layers: ...}`, copies of the teacher's layers."
        ),
    ] = "same"
    baseline: Annotated[
        Literal[False] | BaselineTraining,
        Field(
            description="The label-only baseline: settings of its own in place of the student's, "
            "such as `{learning_rate: 0.01}`; also `weight_decay`, `warmup_ratio` and "
            "`lr_schedule`. `false` trains none."
        ),
    ] = BaselineTraining()

    @classmethod
    def variant(cls, settings: object) -> type[Stage]:
        """Return the stage with the settings of its scheme.

        Raises:
            InputError: The scheme is unknown.
        """
        given = settings.get("scheme") if isinstance(settings, Mapping) else None
        return cls if given is None else with_scheme(str(given))

    @property
    def needs_teacher(self) -> bool:
        """Return whether a term needs a teacher."""
        return self.uses_teacher and super().needs_teacher

    def needed(self, recipe: Recipe) -> tuple[str, ...]:
        """Return the required artefacts: a teacher, unless the objective uses labels only."""
        if not (self.needs_teacher or isinstance(self.init, LayerInit)):
            return ()
        return ("teacher",) if self.teacher == "teacher" else ("student", "float student")

    def teacher_specs(self, recipe: Recipe) -> list[ModelSpec]:
        """Return the specifications of the models that teach: the recipe's, or the student's.

        Their weights are those of the newest stage.
        """
        if self.teacher == "teacher":
            return recipe.teachers
        return [] if recipe.student_spec is None else [recipe.student_spec]

    def own_code(self) -> list[str]:
        """Return the code outside of limbeck: of losses, of the scheme and of further models."""
        models = [spec for spec in self.further_models().values() if spec is not None]
        own = [one.name for one in models if one.source == "python"]
        scheme = [SCHEMES.code_of(self.scheme)]
        return [*self.objective_code(), *filter(None, scheme), *own]

    def validate_in(self, recipe: Recipe) -> list[Problem]:
        """Return problems: features that are not available, and those of further models."""
        problems = self.check_features(recipe)
        if not self.uses_data and self.steps is None:
            allowed = f"`steps`, with `scheme: {self.scheme}`, which reads no training data"
            problems.append(Problem("epochs", self.epochs, allowed))
        fitted = [spec.name for spec in self.teacher_specs(recipe) if is_fitted(spec)]
        if fitted and self.needs_input_gradients:
            allowed = f"a scheme without a gradient to the teacher's input, with {fitted[0]}"
            problems.append(Problem("scheme", self.scheme, allowed))
        if self.cache_teacher and not self.uses_data:
            allowed = f"false, with `scheme: {self.scheme}`, which reads no training data"
            problems.append(Problem("cache_teacher", True, allowed))
        if self.cache_teacher and not self.uses_teacher:
            allowed = f"false, with `scheme: {self.scheme}`, which uses no teacher"
            problems.append(Problem("cache_teacher", True, allowed))
        if self.teacher == "student" and not self.needs_teacher and not self.own_losses():
            allowed = "a term against a teacher, in a scheme that uses one"
            problems.append(Problem("teacher", self.teacher, allowed))
        if isinstance(self.init, LayerInit) and len(self.teacher_specs(recipe)) > 1:
            allowed = "one teacher, whose layers are copied"
            problems.append(Problem("init.layers", f"{len(recipe.teachers)} teachers", allowed))
        for where, spec in self.further_models().items():
            if spec is not None:
                with gathering(problems), model_located(where):
                    SOURCES.load(spec.source).check(spec)
                if is_fitted(spec):
                    allowed = "a model that is trained by gradient descent"
                    problems.append(Problem(f"{where}.name", spec.name, allowed))
        return problems

    def dry_run(self, trial: DryRun, *, where: str) -> None:
        """Build student, teacher and further models, and connect them once as in training."""
        context = trial.context
        with located(where):
            models = self.build_further(context)
        teachers = [_scaled(trial.student)] if self.teacher == "student" else []
        if self.init != "same":  # without the changes of earlier stages
            fresh = context.build(context.student_spec, seed=context.seed_of(generation=1))
            if isinstance(self.init, LayerInit):
                teacher = (teachers or trial.teachers)[0]
                copy_layers(fresh, teacher, self.init.layers, where=f"{where}.init.layers")
            trial.replace("student", fresh.to(context.accelerator.device))
        with frozen(trial.student, self.freeze, where=f"{where}.freeze"):
            self.try_objective(trial, where=where, models=models, teachers=teachers)

    def training_scheme(
        self,
        context: Context,
        student: nn.Module,
        teacher: Teacher | None,
        models: Sequence[nn.Module] = (),
    ) -> Scheme:
        """Build the scheme."""
        return self.build_scheme(student, self._inputs(context, teacher, models))

    def _inputs(
        self, context: Context, teacher: Teacher | None = None, models: Sequence[nn.Module] = ()
    ) -> SchemeInputs:
        return SchemeInputs(
            task=context.task,
            objective=self.terms,
            probe=example_batch(context, of_validation=not self.uses_data),
            teacher=teacher,
            models=models,
            training_set=training_set(context) if self.uses_data else None,
            bounds=_bounds(context.data.preprocess.bounds),
        )

    def build_further(self, context: Context) -> list[nn.Module]:
        """Build the scheme's further models, each with weights of its own seed."""
        models = []
        for number, (where, spec) in enumerate(self.further_models().items(), start=1):
            with model_located(where):
                model = context.build(spec or context.student_spec, seed=context.seed_of(number))
            models.append(model.to(context.accelerator.device))
        return models

    def run(self, candidate: Candidate, context: Context) -> Candidate:
        """Train the student and its label-only baseline."""
        teacher = self.frozen_teacher(context, candidate.state(self.teacher))
        initial = self.initial(candidate, context)
        # The baseline first: a teacher that is no better than it is reported before the
        # distillation.
        baseline = []
        if self.baseline and self.terms().needs_teacher:
            state, begin = candidate.state("baseline"), initial.state
            same = begin.weights and state.weights and state.changes == begin.changes
            begun = replace(initial, state=state) if same else initial
            baseline.append(self._control(context, begun, teacher))
        known = (context.folder, baseline[0][0]) if baseline else candidate.newest("baseline")
        note = (
            weak_teacher(candidate.newest(self.teacher), known, context.task.scores[0].metric)
            if teacher
            else ""
        )
        if note:
            context.progress.log(note)
        models = self.build_further(context)

        def scheme(student: nn.Module) -> Scheme:
            return self.training_scheme(context, student, teacher, models)

        trained = [self._train(context, scheme, initial), *baseline]
        record = self.record(
            context,
            what=" + ".join(self.loss_names()),
            artefacts=[artefact for artefact, _ in trained],
            curves=[curve for _, curve in trained],
            notes=[*([note] if note else []), *self._baseline_notes(baseline), *initial.notes],
        )
        return candidate.append(context.folder, record)

    def _baseline_notes(self, trained: Sequence[object]) -> list[str]:
        """Return a note on the settings in which the baseline differs from the student."""
        if not (trained and self.baseline and self.baseline.own):
            return []
        own = (
            f"{name} {value} (student {getattr(self, name)})"
            for name, value in self.baseline.own.items()
        )
        return [f"The {self.control_label} was trained with {fmt.listing(list(own))}."]

    def initial(self, candidate: Candidate, context: Context) -> InitialStudent:
        """Return the weights to start from."""
        if self.init == "same":
            return InitialStudent(candidate.state("student"))
        generation = sum(link.artefact("student") is not None for link in candidate.lineage)
        if self.init == "fresh":
            return InitialStudent(State(), generation)
        specs = self.teacher_specs(context.recipe)
        [teacher] = teacher_models(context, candidate.state(self.teacher), specs)
        return InitialStudent(State(), generation, self.init.layers, teacher)

    def _control(
        self, context: Context, initial: InitialStudent, teacher: Teacher | None
    ) -> tuple[Artefact, Curve]:
        """Train the scheme's control, in a subfolder of this stage."""
        artefact, curve = self._train(
            context.within("baseline"),
            lambda student: self.build_control(student, self._inputs(context, teacher)),
            initial,
            role="baseline",
            label=self.control_label,
        )
        files = {
            "file": f"baseline/{artefact.file}",
            "weights": tuple(f"baseline/{name}" for name in artefact.weights),
        }
        return artefact.model_copy(update=files), curve

    def _train(
        self,
        context: Context,
        scheme: Callable[[nn.Module], Scheme],
        initial: InitialStudent,
        *,
        role: Role = "student",
        label: str = "distilled student",
    ) -> tuple[Artefact, Curve]:
        model, settings = initial.build(context), training_of(self)
        model.to(context.accelerator.device)
        if role == "baseline" and self.baseline:
            settings = settings.model_copy(update=self.baseline.own)
        with frozen(model, self.freeze):
            curve = train(
                context,
                scheme(model),
                settings=settings,
                label=label,
                role=role,
                ship=self.shipped() if role == "student" else None,
            )
        artefact = publish(
            context,
            model,
            role=role,
            label=label,
            weights=("model.safetensors",),
            changes=initial.state.changes,
        )
        return artefact, curve


@dataclass(frozen=True)
class InitialStudent:
    """The weights that a student starts from.

    Attributes:
        state: The saved weights; none for fresh ones.
        generation: The number of the seed of fresh weights.
        layers: The layers that are copied into fresh weights.
        teacher: The model whose layers are copied.
        notes: The list of the copied and the untouched tensors, after a student was built.
    """

    state: State
    generation: int = 0
    layers: Layers | None = None
    teacher: nn.Module | None = None
    notes: list[str] = field(default_factory=list)

    def build(self, context: Context) -> nn.Module:
        """Build the student."""
        model = context.restore(context.student_spec, self.state, generation=self.generation)
        if self.layers is not None and self.teacher is not None:
            self.notes[:] = copy_layers(model, self.teacher, self.layers, where="init.layers")
        return model


def _bounds(bounds: Bounds | None) -> tuple[Tensor, Tensor] | None:
    """Return the least and the greatest model inputs per channel; None without."""
    import torch

    return None if bounds is None else (torch.from_numpy(bounds[0]), torch.from_numpy(bounds[1]))


def _scaled(model: nn.Module) -> nn.Module:
    """Copy a model, with larger weights: against equal ones, terms have no gradient."""
    larger = copy.deepcopy(model)
    for parameter in larger.parameters():
        parameter.data.mul_(1.1)
    return larger


def with_scheme(name: str) -> type[Distill]:
    """Return the stage with the settings of a scheme.

    While the import of the user's code is deferred, the stage accepts any settings of the user's
    own scheme.

    Raises:
        InputError: There is no scheme of this name, or it is no class of settings.
    """
    if not is_own(name):
        return _with_settings(name, SCHEMES.load(name))
    settings = SCHEMES.load(name)
    if are_deferred():
        return _Unresolved
    if not (isinstance(settings, type) and issubclass(settings, SchemeSettings)):
        allowed = "a class of settings, which inherits from limbeck.schemes.SchemeSettings"
        raise InputError(Problem("scheme", name, allowed))
    return _with_settings.__wrapped__(name, settings)


class _Unresolved(Distill):
    """The stage with the user's own scheme, whose import is deferred."""

    model_config = ConfigDict(extra="allow")

    scheme: str = ""  # type: ignore[assignment]


@cache
def _with_settings(name: str, settings: type[SchemeSettings]) -> type[Distill]:
    if issubclass(Distill, settings):
        return Distill
    scheme, objective = (copy.copy(Distill.model_fields[key]) for key in ("scheme", "objective"))
    scheme.default = name
    if settings.default_objective is not None:
        objective.default = list(settings.default_objective)
    fields: dict[str, Any] = {
        "scheme": (Literal[name], scheme),
        "objective": (objective.annotation, objective),
    }
    stage = create_model("Distill", __base__=(settings, Distill), __doc__=Distill.__doc__, **fields)
    return cast("type[Distill]", stage)
