"""Evaluation stage: evaluations of the shipped student against its teacher."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeAlias

from pydantic import Field, field_validator

from limbeck.errors import InputError, Problem
from limbeck.evaluate.evaluation import EVALUATIONS, EvaluationSettings, check, check_values
from limbeck.pipeline.candidate import Candidate
from limbeck.pipeline.stage import Stage
from limbeck.pipeline.validate import located

if TYPE_CHECKING:
    from limbeck.pipeline.context import Context
    from limbeck.pipeline.dry_run import DryRun


WITHOUT_CLASSES = frozenset({"cost"})
"""Evaluations of any task; the others compare predicted classes."""

Evaluations: TypeAlias = list[str] | dict[str, dict[str, Any]]


def check_fit(evaluations: Iterable[str], classes: Sequence[str], *, where: str) -> None:
    """Check that evaluations fit a task: without classes only some do.

    Raises:
        InputError: Some compare predicted classes, of which there are none.
    """
    unfit = [] if classes else sorted(set(evaluations) - WITHOUT_CLASSES)
    if unfit:
        allowed = f"{', '.join(sorted(WITHOUT_CLASSES))}: the others compare predicted classes"
        raise InputError(Problem(where, ", ".join(unfit), allowed))


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

    def selected(self, classes: Sequence[str]) -> EvaluationSettings:
        """Return the evaluations with their settings; without classes those that need none."""
        known = [name for name in EVALUATIONS.names() if classes or name in WITHOUT_CLASSES]
        return _with_settings(known if self.evaluations is None else self.evaluations)

    def dry_run(self, trial: DryRun, *, where: str) -> None:
        """Check the settings against the classes of the data."""
        classes = tuple(trial.context.data.classes)
        selected = self.selected(classes)
        check_fit(selected, classes, where=f"{where}.evaluations")
        with located(f"{where}.evaluations"):
            check_values(selected, classes)

    def run(self, candidate: Candidate, context: Context) -> Candidate:
        """Record the evaluations to run."""
        record = self.record(
            context, what=f"evaluations: {', '.join(self.selected(context.data.classes))}"
        )
        return candidate.append(context.folder, record)


def _with_settings(evaluations: Evaluations) -> EvaluationSettings:
    return {key: {} for key in evaluations} if isinstance(evaluations, list) else evaluations
