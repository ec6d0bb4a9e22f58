"""Evaluation stage: evaluations of the shipped student against its teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field, field_validator

from limbeck.errors import InputError
from limbeck.evaluate.evaluation import EVALUATIONS, EvaluationSettings, check, check_values
from limbeck.pipeline.candidate import Candidate, Record
from limbeck.pipeline.stage import Stage
from limbeck.pipeline.validate import inside

if TYPE_CHECKING:
    from limbeck.pipeline.context import Context
    from limbeck.pipeline.dry_run import DryRun


class Evaluate(Stage):
    """Evaluation of the student beyond accuracy; each evaluation is a section of the report.

    The test samples are used only at the end of the run: this stage selects the evaluations of the
    first seed's student, which ships.
    """

    requires: ClassVar[tuple[str, ...]] = ("student",)

    evaluations: Annotated[
        list[str] | dict[str, dict[str, Any]] | None,
        Field(
            min_length=1,
            max_length=100,
            description="Which: any of "
            + ", ".join(EVALUATIONS.names())
            + "; all if not given. As a mapping, each with settings of its own.",
        ),
    ] = None
    max_samples: Annotated[
        int,
        Field(ge=10, le=10**7, description="Test samples that the costly evaluations look at."),
    ] = 300

    @field_validator("evaluations")
    @classmethod
    def _known(
        cls, evaluations: list[str] | dict[str, dict[str, Any]] | None
    ) -> list[str] | dict[str, dict[str, Any]] | None:
        check(_with_settings(evaluations or []))
        return evaluations

    @property
    def asked(self) -> EvaluationSettings:
        """Return the evaluations with their settings."""
        return _with_settings(EVALUATIONS.names() if self.evaluations is None else self.evaluations)

    def dry_run(self, trial: DryRun, *, where: str) -> None:
        """Check the settings against the classes of the data."""
        try:
            check_values(self.asked, tuple(trial.context.data.classes))
        except InputError as error:
            raise InputError(*inside(error, f"{where}.evaluations")) from error

    def run(self, candidate: Candidate, context: Context) -> Candidate:
        """Record the evaluations to run."""
        record = Record(
            stage="evaluate",
            key=context.key,
            seed=context.seed,
            settings=self.model_dump(mode="json"),
            what=f"asked about {', '.join(self.asked)}",
            artefacts=(),
            files={},
        )
        return candidate.append(context.folder, record)


def _with_settings(evaluations: list[str] | dict[str, dict[str, Any]]) -> EvaluationSettings:
    return {key: {} for key in evaluations} if isinstance(evaluations, list) else evaluations
