"""Distillation stage: trains the student on the teacher's outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from limbeck.errors import Problem
from limbeck.objective import Objective, methods
from limbeck.pipeline.artefacts import publish
from limbeck.pipeline.candidate import Artefact, Candidate, Role, State
from limbeck.pipeline.context import Context
from limbeck.pipeline.dry_run import DryRun
from limbeck.pipeline.objective_config import ObjectiveConfig
from limbeck.pipeline.stage import Stage
from limbeck.pipeline.teacher_checks import weak_teacher
from limbeck.pipeline.train import train, training_of
from limbeck.report.result import Curve
from limbeck.training import Training

if TYPE_CHECKING:
    from limbeck.pipeline.recipe import Recipe
    from limbeck.teachers import Teacher


class Distill(Training, ObjectiveConfig, Stage):
    """Distillation of the student, with an objective over labels, teacher outputs and features.

    The label-only baseline is the same student trained on labels alone, from the same initial
    weights, on the same samples in the same order for as many epochs; the difference is the
    distillation gain. A second `distill` continues from the first, and so does its baseline; after
    a stage that changed the student's structure, both start from that stage's result.
    """

    produces: ClassVar[tuple[str, ...]] = ("student", "float student")

    train_baseline: Annotated[
        bool, Field(description="Train the same student on labels alone beside it.")
    ] = True

    def needed(self, recipe: Recipe) -> tuple[str, ...]:
        """Return the required artefacts: a teacher, unless the objective uses labels only."""
        return ("teacher",) if self.needs_teacher else ()

    def own_code(self) -> list[str]:
        """Return the recipe's own losses."""
        return self.own_losses()

    def validate_in(self, recipe: Recipe) -> list[Problem]:
        """Return problems: features that are not available."""
        return self.check_features(recipe)

    def dry_run(self, trial: DryRun, *, where: str) -> None:
        """Build student and teacher, and connect them once as in training."""
        self.try_objective(trial, where=where)

    def run(self, candidate: Candidate, context: Context) -> Candidate:
        """Train the student and its label-only baseline."""
        objective = self.terms()
        teacher = self.teacher(context, candidate.state("teacher"))
        begin = candidate.state("student")
        # The baseline first: a teacher that is no better than it is reported before the
        # distillation.
        baseline = []
        if self.train_baseline and objective.needs_teacher:
            baseline_state = candidate.state("baseline")
            same = baseline_state.weights and baseline_state.changes == begin.changes
            baseline.append(self._label_only(context, baseline_state if same else begin))
        known = (context.folder, baseline[0][0]) if baseline else candidate.newest("baseline")
        note = (
            weak_teacher(candidate.newest("teacher"), known, context.task.scores[0].metric)
            if teacher
            else ""
        )
        if note:
            context.progress.log(note)
        trained = [self._train(context, objective, begin=begin, teacher=teacher), *baseline]
        record = self.record(
            context,
            what=" + ".join(self.loss_names()),
            artefacts=[artefact for artefact, _ in trained],
            curves=[curve for _, curve in trained],
            notes=[note] if note else [],
        )
        return candidate.append(context.folder, record)

    def _label_only(self, context: Context, begin: State) -> tuple[Artefact, Curve]:
        """Train the student on labels alone, in a subfolder of this stage."""
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
        begin: State,
        teacher: Teacher | None = None,
        role: Role = "student",
        label: str = "distilled student",
    ) -> tuple[Artefact, Curve]:
        model = context.restore(context.student_spec, begin)
        curve = train(
            context,
            model,
            objective=objective,
            settings=training_of(self),
            label=label,
            role=role,
            teacher=teacher,
        )
        artefact = publish(
            context,
            model,
            role=role,
            label=label,
            weights=("model.safetensors",),
            changes=begin.changes,
        )
        return artefact, curve
