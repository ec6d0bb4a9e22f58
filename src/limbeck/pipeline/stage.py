"""The contract of a stage: settings that a recipe holds, and what is done with a candidate."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from limbeck.pipeline.candidate import Candidate
    from limbeck.pipeline.context import Context


class Stage(BaseModel):
    """One stage of a recipe: its fields are its settings, and `run` does it.

    A stage is a file in `pipeline/stages/` with one class, named after the file.

    Attributes:
        needs: What must have been made before: `teacher`, `student`.
        makes: What this stage makes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    needs: ClassVar[tuple[str, ...]] = ()
    makes: ClassVar[tuple[str, ...]] = ()

    def needed(self) -> tuple[str, ...]:
        """Say what must have been made before, given the settings."""
        return self.needs

    @abstractmethod
    def run(self, candidate: Candidate, context: Context) -> Candidate:
        """Take a candidate, and give the next one."""
