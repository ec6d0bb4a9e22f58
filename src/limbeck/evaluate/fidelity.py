"""How faithfully does the student follow the teacher, and the exported file the model it came from?"""

from __future__ import annotations

from limbeck.evaluate.interval import Interval, Result


class Fidelity(Result):
    """Student beside teacher: the share of equal top answers, and the mean KL(teacher || student) in nats."""

    agreement: float
    interval: Interval
    kl: float


class Parity(Result):
    """Two runtimes on the same model: how far their answers lie apart, and whether within the tolerance."""

    max_abs_difference: float
    mean_abs_difference: float
    agreement: float
    tolerance: float
    within: bool
    samples: int
