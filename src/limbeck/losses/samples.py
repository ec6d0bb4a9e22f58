"""Features of a batch as one vector per sample, for relation losses."""

from __future__ import annotations

from torch import Tensor

from limbeck.errors import InputError, Problem
from limbeck.losses.inputs import check_floating
from limbeck.precision import precise_pair


def vector_pair(student: Tensor, teacher: Tensor, *, where: str) -> tuple[Tensor, Tensor]:
    """Check two sides' features of the same samples, and return one row per sample of each.

    The rows may differ in length. The teacher's are detached.

    Raises:
        InputError: A tensor is not `[samples, ...]` of floating-point numbers, or the numbers of
            samples differ.

    Example:
        >>> import torch
        >>> ours, theirs = vector_pair(torch.zeros(2, 3, 4, 4), torch.zeros(2, 5), where="loss")
        >>> ours.shape, theirs.shape
        (torch.Size([2, 48]), torch.Size([2, 5]))
    """
    for side, features in (("student", student), ("teacher", teacher)):
        check_floating(features, where=f"{where}.{side}")
        if features.ndim < 2 or 0 in features.shape[1:]:
            allowed = "a tensor [samples, ...] with at least one number a sample"
            raise InputError(Problem(f"{where}.{side}", tuple(features.shape), allowed))
    check_same_samples(student, teacher, where=f"{where}.teacher")
    ours, theirs = precise_pair(student, teacher)
    return ours.flatten(1), theirs.flatten(1)


def check_same_samples(student: Tensor, teacher: Tensor, *, where: str) -> None:
    """Raise an error if the numbers of samples differ.

    Raises:
        InputError: The numbers of samples differ.
    """
    if len(student) != len(teacher):
        raise InputError(
            Problem(
                where,
                f"{len(teacher)} samples, and {len(student)} of the student",
                "as many samples as the student has",
                "Give both sides the same batch.",
            )
        )
