"""Base class of a stage: recipe settings, and a function of a candidate."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, ConfigDict

from limbeck.pipeline.candidate import Record, hashes

if TYPE_CHECKING:
    from limbeck.errors import Problem
    from limbeck.models.spec import ModelSpec
    from limbeck.pipeline.candidate import Artefact, Candidate
    from limbeck.pipeline.context import Context
    from limbeck.pipeline.dry_run import DryRun
    from limbeck.pipeline.recipe import Recipe
    from limbeck.report.result import Curve


class Stage(BaseModel):
    """A stage of a recipe: its fields are the settings, and `run` executes it.

    A stage is a file in `pipeline/stages/` with one class, named after the file.

    Attributes:
        requires: Required artefacts: `teacher`, `student`, `float student`.
        produces: Produced artefacts.
        consumes: Consumed artefacts.
        starts_from_teacher: Whether the student it changes may start from the teacher.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    requires: ClassVar[tuple[str, ...]] = ()
    produces: ClassVar[tuple[str, ...]] = ()
    consumes: ClassVar[tuple[str, ...]] = ()
    starts_from_teacher: ClassVar[bool] = False

    @classmethod
    def variant(cls, settings: object) -> type[Stage]:
        """Return the class that validates these settings, if one of them adds keys.

        Raises:
            InputError: There is none.
        """
        return cls

    def further_models(self) -> dict[str, ModelSpec | None]:
        """Return the models beside student and teacher, by path; None is one like the student."""
        return {}

    def needed(self, recipe: Recipe) -> tuple[str, ...]:
        """Return the required artefacts, given the settings and the recipe."""
        return self.requires

    def made(self) -> tuple[str, ...]:
        """Return the produced artefacts, given the settings."""
        return self.produces

    def spent(self) -> tuple[str, ...]:
        """Return the consumed artefacts, given the settings."""
        return self.consumes

    def shared_seed(self) -> int | None:
        """Return the seed by which the stage runs once for all seeds; None: once for each."""
        return None

    def own_code(self) -> list[str]:
        """Return the user callables on which the result depends."""
        return []

    def validate_in(self, recipe: Recipe) -> list[Problem]:
        """Return problems of the settings with the rest of the recipe; paths are relative."""
        return []

    def dry_run(self, trial: DryRun, *, where: str) -> None:
        """Check in about a second, without training, whether the stage would fail.

        Args:
            trial: The recipe's models, built for the data.
            where: The stage's place in the recipe, for messages.

        Raises:
            InputError: The models do not support the stage.
        """

    @abstractmethod
    def run(self, candidate: Candidate, context: Context) -> Candidate:
        """Run the stage on a candidate, and return the next candidate."""

    def record(
        self,
        context: Context,
        *,
        what: str,
        artefacts: Sequence[Artefact] = (),
        files: Sequence[str] | None = None,
        curves: Sequence[Curve] = (),
        notes: Sequence[str] = (),
    ) -> Record:
        """Build the record of this stage.

        Args:
            context: The context of the stage, whose folder contains the files.
            what: What the stage did, in the report.
            artefacts: The produced artefacts.
            files: The written files, which are hashed; by default those of the artefacts.
            curves: The curves of its trainings.
            notes: Its notes.
        """
        if files is None:
            files = [name for one in artefacts for name in (one.file, *one.weights)]
        return Record(
            stage=re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower(),
            key=context.key,
            seed=context.seed,
            settings=self.model_dump(mode="json"),
            what=what,
            artefacts=tuple(artefacts),
            files=hashes(context.folder, list(files)),
            curves=tuple(curves),
            notes=tuple(notes),
        )
