"""What of student and teacher is certain, as the page shows it."""

from __future__ import annotations

from limbeck.evaluate.finding import Estimate
from limbeck.evaluate.interval import Result


class CertifiedRow(Result):
    """Share of pictures answered rightly whatever is done to them within a size."""

    size: float
    student: Estimate
    teacher: Estimate | None


class Distances(Result):
    """Quantiles of the distance to the decision boundary, L2 in pixels from 0 to 1."""

    levels: tuple[float, ...]
    student: tuple[float, ...]
    teacher: tuple[float, ...] | None
