"""Evaluation stage: evaluations of the shipped student against its teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeAlias

from pydantic import Field, field_validator

from limbeck.evaluate.evaluation import (
    EVALUATIONS,
    EvaluationSettings,
    check,
    check_fit,
    check_values,
    fits,
)
from limbeck.pipeline.candidate import Candidate
from limbeck.pipeline.stage import Stage
from limbeck.pipeline.validate import located
from limbeck.tasks import is_classifier, shares_inputs

if TYPE_CHECKING:
    from limbeck.pipeline.context import Context
    from limbeck.pipeline.dry_run import DryRun
    from limbeck.tasks import Task


Evaluations: TypeAlias = list[str] | dict[str, dict[str, Any]]


class Evaluate(Stage):
    """Evaluation of the student beyond accuracy; each evaluation is a section of the report.

    The test samples are used only at the end of the run: this stage selects the evaluations of the
    first seed's student, which ships.
    """

    requires: ClassVar[tuple[str, ...]] = ("student",)

    evaluations: Annotated[
        Evaluations | None,
        Field(
            min_length=1,
            max_length=100,
            description="Any of "
            + ", ".join(EVALUATIONS.builtin())
            + "; all if not given. As a mapping, each with settings of its own.",
        ),
    ] = None
    max_samples: Annotated[
        int, Field(ge=10, le=10**7, description="Test samples that the costly evaluations use.")
    ] = 300

    @field_validator("evaluations")
    @classmethod
    def _known(cls, evaluations: Evaluations | None) -> Evaluations | None:
        check(_with_settings(evaluations or []))
        return evaluations

    def selected(self, task: Task) -> EvaluationSettings:
        """Return the evaluations with their settings; by default all that fit the task."""
        if self.evaluations is not None:
            return _with_settings(self.evaluations)
        classifier, shared = is_classifier(task), shares_inputs(task)
        names = EVALUATIONS.names()
        return {name: {} for name in names if fits(name, classifier=classifier, shared=shared)}

    def dry_run(self, trial: DryRun, *, where: str) -> None:
        """Check the settings against the classes of the data."""
        task = trial.context.task
        selected = self.selected(task)
        classifier, shared = is_classifier(task), shares_inputs(task)
        check_fit(selected, classifier=classifier, shared=shared, where=f"{where}.evaluations")
        with located(f"{where}.evaluations"):
            check_values(selected, tuple(trial.context.data.classes))

    def run(self, candidate: Candidate, context: Context) -> Candidate:
        """Record the evaluations to run."""
        selected = self.selected(context.task)
        record = self.record(context, what=f"evaluations: {', '.join(selected)}")
        return candidate.append(context.folder, record)


def _with_settings(evaluations: Evaluations) -> EvaluationSettings:
    return {key: {} for key in evaluations} if isinstance(evaluations, list) else evaluations
