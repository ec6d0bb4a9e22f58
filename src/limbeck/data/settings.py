"""Base class and shared types of the settings in the `data` section of a recipe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(gt=0, lt=1)]
# Upper bounds reject values that can only be a slip, and would exhaust the memory or never end.
Rows = Annotated[int, Field(gt=0, le=10**12)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
SplitName = Literal["train", "validation", "test"]


class Settings(BaseModel):
    """Immutable settings that reject unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Section(Settings):
    """The section of a modality, under its name in `data`.

    Its properties state what other parts of a run ask of any modality's settings.
    """

    @property
    def states_normalization(self) -> bool:
        """Return whether mean and deviation are stated, not computed."""
        return False

    @property
    def states_size(self) -> bool:
        """Return whether the size of the inputs is stated, not that of the stored data."""
        return False

    @property
    def tokenizer_folder(self) -> Path | None:
        """Return the local folder of the tokenizer, if there is one."""
        return None


def duplicates(names: Sequence[str]) -> str:
    """Return the names that occur more than once, as one text.

    Example:
        >>> duplicates(["a", "b", "a"])
        'a'
    """
    return ", ".join(sorted(name for name, count in Counter(names).items() if count > 1))
