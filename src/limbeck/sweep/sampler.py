"""Who chooses the settings of a trial: by itself here, since the command line's help needs it."""

from __future__ import annotations

from enum import StrEnum


class Sampler(StrEnum):
    """Who chooses the settings of the next trial."""

    tpe = "tpe"
    nsga2 = "nsga2"
    grid = "grid"
