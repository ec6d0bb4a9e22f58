"""The names of options, in a module without heavy imports, for the command line's help."""

from __future__ import annotations

from enum import StrEnum


class Sampler(StrEnum):
    """A sampler of the settings of the next trial."""

    tpe = "tpe"
    nsga2 = "nsga2"
    grid = "grid"


class Selected(StrEnum):
    """The model whose validation score a sweep optimises."""

    student = "student"
    baseline = "baseline"
