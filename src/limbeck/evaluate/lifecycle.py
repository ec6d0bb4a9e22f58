"""What a model costs from its first epoch to its last answer, and when a smaller one pays."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path

from limbeck.evaluate.energy import GRAMS_A_KWH, JOULES_A_KWH, WATTS_A_CORE
from limbeck.optional import require

MILLIWATT_HOUR = 3.6
"""In joules."""


def training_joules(seconds: float) -> float:
    """Estimate the energy of a training from its seconds on one core, at 10 W a core.

    Example:
        >>> training_joules(60)
        600.0
    """
    return seconds * WATTS_A_CORE


def grams(joules: float) -> float:
    """Estimate the carbon dioxide of so much energy, at the world's average grid of 2019 (IEA).

    Example:
        >>> grams(3.6e6)
        475.0
    """
    return joules / JOULES_A_KWH * GRAMS_A_KWH


def break_even(spent: float, before: float, after: float) -> float | None:
    r"""Say after how many answers what was spent on a smaller model is saved again.

    $$n = \frac{E_{spent}}{e_{before} - e_{after}}$$

    Args:
        spent: Energy of making the smaller model, in joules.
        before: Energy of an answer of the larger one.
        after: Energy of an answer of the smaller one.

    Returns:
        The number of answers; none if an answer of the smaller model saves nothing.

    Example:
        >>> break_even(600.0, before=0.5, after=0.2)
        2000.0

    Source: Luccioni et al., JMLR 2023 (life cycle of a language model).
    """
    saved = before - after
    return spent / saved if saved > 0 else None


def answers_a_milliwatt_hour(joules: float) -> float:
    """Say how many answers a milliwatt hour of a battery gives.

    Example:
        >>> answers_a_milliwatt_hour(0.0036)
        1000.0
    """
    return MILLIWATT_HOUR / joules


def payloads(
    files: Mapping[str, Path],
    *,
    samples: int,
    classes: int,
    previous: Path | None = None,
    level: int = 9,
) -> dict[str, int]:
    """Say how many bytes an update takes over the air, by what is sent.

    Args:
        files: The files that could be sent whole, by name.
        samples: Public samples whose soft labels could be sent instead, in half precision; the
            device then distils by itself.
        classes: How many classes each soft label has.
        previous: The student that devices hold now; what the new one differs in can then be sent,
            by bsdiff.
        level: How hard zlib tries.

    Raises:
        InputError: There is a previous file, and the extra `evaluate` is not installed.

    Source: Percival, Naive differences of executable code, 2003 (bsdiff).
    """
    sent: dict[str, int] = {}
    for name, path in files.items():
        content = path.read_bytes()
        sent[name] = len(content)
        sent[f"{name}, zlib"] = len(zlib.compress(content, level))
    if previous is not None:
        difference = require("bsdiff4", extra="evaluate").diff
        sent["student, difference to the previous"] = len(
            difference(previous.read_bytes(), files["student"].read_bytes())
        )
    sent[f"soft labels of {samples:,} samples"] = 2 * samples * classes
    return sent
