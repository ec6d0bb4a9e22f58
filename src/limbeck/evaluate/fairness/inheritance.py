"""Bias inheritance: whether the student's gap between two groups is the teacher's, or larger."""

from __future__ import annotations

from typing import Literal

import numpy as np

from limbeck.evaluate.fairness.drawn import Array, estimate
from limbeck.evaluate.finding import Estimate
from limbeck.evaluate.interval import Result

Fate = Literal["none", "inherited", "amplified", "lessened", "reversed", "open"]
SAID: dict[Fate, str] = {
    "none": "the teacher makes no clear difference between the two, so there is none to inherit",
    "inherited": "the student has inherited the gap",
    "amplified": "the student has inherited the gap and made it larger",
    "lessened": "the student has made the gap smaller",
    "reversed": "the student has turned the gap round",
    "open": "there are too few samples to tell what became of the gap",
}


class Inheritance(Result):
    """The outcome, in the student, of the teacher's gap between its best and its worst group.

    Attributes:
        rate: The rate of the gap: "accuracy", or the share predicted as a class.
        most: The group with the teacher's largest rate.
        least: The group with the smallest.
        teacher: The teacher's gap, never below zero.
        student: The student's between the same two groups; negative if reversed.
        amplification: Student's less teacher's, on the same samples.
        share: The student's gap as a share of the teacher's, where the teacher has one.
        fate: The outcome; see `fate_of`.
        words: The same as a sentence.
    """

    rate: str
    most: str
    least: str
    teacher: Estimate
    student: Estimate
    amplification: Estimate
    share: float | None
    fate: Fate
    words: str


def inheritance(
    rate: str, names: tuple[str, ...], *, student: Array, teacher: Array
) -> Inheritance:
    """Measure the inheritance of the teacher's largest gap by the student.

    Args:
        rate: The rate, for the sentence.
        names: The groups' names.
        student: The student's rates, `[1 + draws, groups]`: of the samples first, then of the
            bootstrap resamples.
        teacher: The teacher's, of the same draws.

    Example:
        >>> draws = np.random.default_rng(0).normal(scale=0.01, size=(201, 2))
        >>> found = inheritance(
        ...     "accuracy", ("a", "b"), student=draws + [0.9, 0.6], teacher=draws + [0.9, 0.8]
        ... )
        >>> found.fate, found.most, found.least
        ('amplified', 'a', 'b')
    """
    most, least = int(np.nanargmax(teacher[0])), int(np.nanargmin(teacher[0]))
    gap = student[:, most] - student[:, least]
    model = teacher[:, most] - teacher[:, least]
    before, after, grown = (estimate(values) for values in (model, gap, gap - model))
    fate = fate_of(teacher=before, student=after, amplification=grown)
    return Inheritance(
        rate=rate,
        most=names[most],
        least=names[least],
        teacher=before,
        student=after,
        amplification=grown,
        share=None if fate == "none" else after.value / before.value,
        fate=fate,
        words=f"{rate[0].upper()}{rate[1:]}, {names[most]} before {names[least]}: {SAID[fate]} "
        f"({100 * after.value:.1f} points; the teacher's is {100 * before.value:.1f}).",
    )


def fate_of(*, teacher: Estimate, student: Estimate, amplification: Estimate) -> Fate:
    """Classify the outcome of a gap, by the intervals of both and of their difference.

    `none`: the teacher's contains zero. Then by the student's: `reversed` where all of it lies
    below zero; `amplified` and `lessened` where all of the difference lies on one side of zero;
    `inherited` where the student's excludes zero and the difference does not; else `open`.
    """
    if _low(teacher) <= 0:
        return "none"
    if _high(student) < 0:
        return "reversed"
    if _low(amplification) > 0:
        return "amplified"
    if _high(amplification) < 0:
        return "lessened"
    return "inherited" if _low(student) > 0 else "open"


def _low(found: Estimate) -> float:
    return found.value if found.interval is None else found.interval.low


def _high(found: Estimate) -> float:
    return found.value if found.interval is None else found.interval.high
