"""Evaluation stage: evaluations of the shipped student against its teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field, field_validator

from limbeck.errors import InputError
from limbeck.evaluate.evaluation import Questions, check, check_values
from limbeck.evaluate.questions import QUESTIONS
from limbeck.pipeline.candidate import Candidate, Record
from limbeck.pipeline.problems import inside
from limbeck.pipeline.stage import Stage

if TYPE_CHECKING:
    from limbeck.pipeline.context import Context
    from limbeck.pipeline.rehearsal import Rehearsal


class Evaluate(Stage):
    """Evaluation of the student beyond accuracy; each evaluation is a section of the report.

    The test samples are used only at the end of the run: this stage selects the evaluations of the
    first seed's student, which ships.
    """

    needs: ClassVar[tuple[str, ...]] = ("student",)

    questions: Annotated[
        list[str] | dict[str, dict[str, Any]] | None,
        Field(
            min_length=1,
            max_length=100,
            description="Which: any of "
            + ", ".join(QUESTIONS.names())
            + "; all if not given. As a mapping, each with settings of its own.",
        ),
    ] = None
    limit: Annotated[
        int,
        Field(ge=10, le=10**7, description="Test samples that the costly questions look at."),
    ] = 300

    @field_validator("questions")
    @classmethod
    def _known(
        cls, questions: list[str] | dict[str, dict[str, Any]] | None
    ) -> list[str] | dict[str, dict[str, Any]] | None:
        check(_with_settings(questions or []))
        return questions

    @property
    def asked(self) -> Questions:
        """Return the evaluations with their settings."""
        return _with_settings(QUESTIONS.names() if self.questions is None else self.questions)

    def rehearse(self, rehearsal: Rehearsal, *, where: str) -> None:
        """Check the settings against the classes of the data."""
        try:
            check_values(self.asked, tuple(rehearsal.context.data.classes))
        except InputError as error:
            raise InputError(*inside(error, f"{where}.questions")) from error

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
        return candidate.then(context.folder, record)


def _with_settings(questions: list[str] | dict[str, dict[str, Any]]) -> Questions:
    return {key: {} for key in questions} if isinstance(questions, list) else questions
