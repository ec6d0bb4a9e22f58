"""Accuracy and fidelity of student and teacher per class and per group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from limbeck.core.measurement import Result
from limbeck.errors import InputError, Problem
from limbeck.evaluate.bootstrap import Resamples, mean, share, shares
from limbeck.evaluate.comparison import Estimate

Values = NDArray[np.float64]
Part = tuple[str, str, NDArray[np.int64]]
"""An attribute, one of its values, and the rows of the samples that have it."""


class Slice(Result):
    """The metrics of student and teacher on the samples of one class or group.

    Attributes:
        attribute: "class", or the attribute of the group.
        name: The class or the group.
        samples: Number of samples.
        student: The student's accuracy.
        teacher: The teacher's, if there is one.
        difference: Student less teacher.
        agreement: Top-1 agreement.
        kl: KL(teacher || student), in nats.
    """

    attribute: str
    name: str
    samples: int
    student: Estimate
    teacher: Estimate | None
    difference: Estimate | None
    agreement: Estimate | None
    kl: Estimate | None


def parts(
    labels: NDArray[np.int64], classes: Sequence[str], groups: Mapping[str, NDArray[np.str_]]
) -> Iterator[Part]:
    """Yield the rows of every class and of every group that has samples.

    Args:
        labels: `[samples]`.
        classes: The classes' names.
        groups: The group of each sample, by attribute: `[samples]` of names.

    Raises:
        InputError: An attribute does not name a group for every sample.

    Example:
        >>> [name for _, name, _ in parts(np.array([1, 1]), ("cat", "dog"), {})]
        ['dog']
    """
    for number, name in enumerate(classes):
        rows = np.flatnonzero(labels == number)
        if len(rows):
            yield "class", name, rows
    for attribute, members in groups.items():
        if len(members) != len(labels):
            allowed = f"{len(labels)}, one per sample"
            raise InputError(Problem(f"groups.{attribute}", f"{len(members)} names", allowed))
        for name in np.unique(members):
            yield attribute, str(name), np.flatnonzero(members == name)


def accuracy_slices(
    found: Sequence[Part],
    student: Values,
    teacher: Values | None = None,
    *,
    same: Values | None = None,
    kl: Values | None = None,
    resamples: Resamples,
) -> tuple[Slice, ...]:
    """Compare both models within each slice.

    Args:
        found: The result of `parts`.
        student: 1 where the student is correct, 0 where not, `[samples]`.
        teacher: The same of the teacher.
        same: 1 where the two predict the same class, `[samples]`.
        kl: KL(teacher || student) per sample, `[samples]`.
        resamples: The bootstrap resamples of all samples; each slice uses its part of them.
    """
    divergences: Sequence[Estimate | None] = [None] * len(found)
    if kl is not None:
        divergences = resamples.estimates(
            lambda counts: np.stack(
                [mean(counts[:, rows], kl[rows]) for _, _, rows in found], axis=1
            )
        )
    return tuple(
        Slice(
            attribute=attribute,
            name=name,
            samples=len(rows),
            **dict(shares(student[rows], None if teacher is None else teacher[rows])),
            agreement=None if same is None else share(same[rows]),
            kl=divergence,
        )
        for (attribute, name, rows), divergence in zip(found, divergences, strict=True)
    )
