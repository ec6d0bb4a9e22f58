"""The contract of a stage: settings that a recipe holds, and what is done with a candidate."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from limbeck.errors import Problem
    from limbeck.pipeline.candidate import Candidate
    from limbeck.pipeline.context import Context
    from limbeck.pipeline.recipe import Recipe
    from limbeck.pipeline.rehearsal import Rehearsal


class Stage(BaseModel):
    """One stage of a recipe: its fields are its settings, and `run` does it.

    A stage is a file in `pipeline/stages/` with one class, named after the file.

    Attributes:
        needs: What must have been made before: `teacher`, `student`, `float student`.
        makes: What this stage makes.
        spends: What is no longer there after it.
        adopts: Whether it can take the teacher for the student that it changes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    needs: ClassVar[tuple[str, ...]] = ()
    makes: ClassVar[tuple[str, ...]] = ()
    spends: ClassVar[tuple[str, ...]] = ()
    adopts: ClassVar[bool] = False

    def needed(self, recipe: Recipe) -> tuple[str, ...]:
        """Say what must have been made before, given the settings and the recipe."""
        return self.needs

    def made(self) -> tuple[str, ...]:
        """Say what it makes, given the settings."""
        return self.makes

    def spent(self) -> tuple[str, ...]:
        """Say what is no longer there after it, given the settings."""
        return self.spends

    def own_code(self) -> list[str]:
        """List the callables of a user's own code that its outcome depends on."""
        return []

    def misfits(self, recipe: Recipe) -> list[Problem]:
        """Say what of the settings does not fit the rest of the recipe; places are within them."""
        return []

    def rehearse(self, rehearsal: Rehearsal, *, where: str) -> None:
        """Find out in a second what would otherwise be found after hours, without training.

        Args:
            rehearsal: The recipe's models, built for the data.
            where: The stage's place in the recipe, for messages.

        Raises:
            InputError: The models cannot do what the stage will ask of them.
        """

    @abstractmethod
    def run(self, candidate: Candidate, context: Context) -> Candidate:
        """Take a candidate, and give the next one."""
