"""Life-cycle cost: training energy, CO2, break-even point, over-the-air update sizes."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path

from limbeck.core.imports import require
from limbeck.evaluate.measure import GRAMS_A_KWH, JOULES_A_KWH, WATTS_A_CORE

JOULES_A_MWH = 3.6


def training_joules(seconds: float) -> float:
    """Estimate the energy of a training from its seconds on one core, at 10 W per core.

    Example:
        >>> training_joules(60)
        600.0
    """
    return seconds * WATTS_A_CORE


def grams(joules: float) -> float:
    """Estimate the grams of CO2 of an energy, at the world's average grid of 2019 (IEA).

    Example:
        >>> grams(3.6e6)
        475.0
    """
    return joules / JOULES_A_KWH * GRAMS_A_KWH


def break_even(spent: float, before: float, after: float) -> float | None:
    r"""Compute the number of predictions after which a smaller model has saved its training energy.

    $$n = \frac{E_{spent}}{e_{before} - e_{after}}$$

    Args:
        spent: Energy of producing the smaller model, in joules.
        before: Energy per prediction of the larger model.
        after: Energy per prediction of the smaller model; None is returned if it saves nothing.

    Example:
        >>> break_even(600.0, before=0.5, after=0.2)
        2000.0

    Source: Luccioni et al., JMLR 2023 (life cycle of a language model).
    """
    saved = before - after
    return spent / saved if saved > 0 else None


def inferences_per_mwh(joules: float) -> float:
    """Compute the number of predictions per milliwatt hour of a battery.

    Example:
        >>> inferences_per_mwh(0.0036)
        1000.0
    """
    return JOULES_A_MWH / joules


def update_sizes(
    files: Mapping[str, Path], *, samples: int, classes: int, previous: Path | None = None
) -> dict[str, int]:
    """Compute the bytes of an over-the-air update, by its content.

    Args:
        files: The files that could be sent whole, by name.
        samples: Number of public samples whose soft labels could be sent instead, in half
            precision, for a distillation on the device.
        classes: Number of classes of each soft label.
        previous: The student now on the devices; its bsdiff to the new one could then be sent.

    Raises:
        InputError: `previous` is given, and the extra `evaluate` is not installed.

    Source: Percival, Naive differences of executable code, 2003 (bsdiff).
    """
    sent: dict[str, int] = {}
    for name, path in files.items():
        content = path.read_bytes()
        sent[name] = len(content)
        sent[f"{name}, zlib"] = len(zlib.compress(content, 9))
    if previous is not None:
        diff = require("bsdiff4", extra="evaluate").diff
        patch = diff(previous.read_bytes(), files["student"].read_bytes())
        sent["student, difference to the previous"] = len(patch)
    sent[f"soft labels of {samples:,} samples"] = 2 * samples * classes
    return sent
