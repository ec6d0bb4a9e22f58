"""Certified accuracy and boundary distances of student and teacher, for the report."""

from __future__ import annotations

from limbeck.evaluate.finding import Estimate
from limbeck.evaluate.interval import Result


class CertifiedRow(Result):
    """The certified accuracy at one perturbation size."""

    size: float
    student: Estimate
    teacher: Estimate | None


class Distances(Result):
    """Quantiles of the distance to the decision boundary, L2 in pixels from 0 to 1."""

    levels: tuple[float, ...]
    student: tuple[float, ...]
    teacher: tuple[float, ...] | None
