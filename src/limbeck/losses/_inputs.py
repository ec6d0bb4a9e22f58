"""Validation of the inputs of losses.

The checks only read shapes and dtypes, so that none of them synchronises a device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from limbeck.core.numbers import is_number, is_positive
from limbeck.core.tensors import precise_pair
from limbeck.errors import InputError, Problem


def not_negative(value: Tensor) -> Tensor:
    """Clamp negative rounding errors to zero, with the gradient of the identity.

    Example:
        >>> not_negative(torch.tensor([-1e-9, 2.0]))
        tensor([0., 2.])
    """
    return value - value.detach().clamp_max(0)


def logit_pair(student: Tensor, teacher: Tensor, *, where: str) -> tuple[Tensor, Tensor]:
    """Check two logits of the same elements, and return both in the computation's precision.

    The teacher's tensor is detached.

    Raises:
        InputError: A tensor is not `[units, classes]` of floating-point numbers, or the shapes
            differ.
    """
    check_logits(student, where=f"{where}.student")
    check_logits(teacher, where=f"{where}.teacher")
    check_same_shape(student, teacher, where=f"{where}.teacher")
    return precise_pair(student, teacher)


def check_floating(tensor: Tensor, *, where: str) -> None:
    """Raise an error unless logits or features are floating-point tensors.

    Raises:
        InputError: The value is not a floating-point tensor.
    """
    _check_tensor(tensor, where=where)
    if not tensor.is_floating_point():
        raise InputError(
            Problem(
                where, str(tensor.dtype), "a floating-point tensor", "Convert it with .float()."
            )
        )


def check_logits(logits: Tensor, *, where: str) -> None:
    """Raise an error unless a tensor has one row of logits per element.

    Raises:
        InputError: The tensor is not `[units, classes]` or not floating-point.
    """
    check_floating(logits, where=where)
    if logits.ndim != 2 or logits.shape[1] == 0:
        raise InputError(
            Problem(
                where,
                tuple(logits.shape),
                "a tensor [units, classes] with at least one class",
                "Flatten to one row a unit: logits.flatten(0, -2).",
            )
        )


def check_same_shape(student: Tensor, teacher: Tensor, *, where: str) -> None:
    """Raise an error if the shapes of student and teacher differ.

    Raises:
        InputError: The shapes differ.
    """
    if student.shape != teacher.shape:
        raise InputError(
            Problem(
                where,
                f"student {tuple(student.shape)}, teacher {tuple(teacher.shape)}",
                "two tensors of one shape",
                "A connector joins features; logits must be over the same units and classes.",
            )
        )


def check_labels(labels: Tensor, logits: Tensor, *, where: str) -> None:
    """Raise an error unless labels have one integer per element.

    Raises:
        InputError: The shape or the dtype is wrong.
    """
    _check_tensor(labels, where=where)
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise InputError(
            Problem(where, str(labels.dtype), "whole numbers", "Convert them with .long().")
        )
    if labels.shape != logits.shape[:1]:
        allowed = f"one label a unit, shape {tuple(logits.shape[:1])}"
        raise InputError(Problem(where, tuple(labels.shape), allowed))


def check_label_range(labels: Tensor, classes: int, *, where: str) -> None:
    """Raise an error for labels out of range, if no device synchronisation is required.

    Raises:
        InputError: A label is negative, or not below the number of classes.
    """
    if wrong := outside(labels, classes):
        fix = "A unit without a label is left out by a weight of 0, with any label in range."
        raise InputError(Problem(where, wrong[0], f"labels from 0 to {classes - 1}", fix))


def outside(ids: Tensor, count: int) -> list[int]:
    """Return an id that is not from 0 to count − 1, if there is one and values can be read.

    Reading values would synchronise a device other than a CPU, and break the graph in compiled
    code; under `torch.func.vmap` values cannot be read.

    Example:
        >>> outside(torch.tensor([0, 5]), 3), outside(torch.tensor([0, 2]), 3)
        ([5], [])
    """
    if ids.device.type != "cpu" or torch.compiler.is_compiling() or not ids.numel():
        return []
    try:
        low, high = (int(end) for end in ids.aminmax())
    except RuntimeError:
        return []
    return [end for end in (low, high) if not 0 <= end < count]


@contextmanager
def looked_up(labels: Tensor, logits: Tensor, *, where: str) -> Iterator[None]:
    """Convert an indexing error of the block to an error with the label.

    A CPU checks each label anyway, so that no check beforehand is required.

    Raises:
        InputError: The operation failed, and a label is out of range.
    """
    try:
        yield
    except (IndexError, RuntimeError):
        check_label_range(labels, logits.shape[1], where=where)
        raise


def check_temperature(temperature: object, *, where: str) -> None:
    """Raise an error unless a temperature is a positive finite number.

    Raises:
        InputError: The temperature is zero, negative, infinite or not a number.
    """
    if not is_positive(temperature):
        raise InputError(Problem(where, temperature, "a finite number above 0", "Try 4.0."))


def check_fraction(fraction: object, *, where: str, fix: str = "") -> None:
    """Raise an error unless a number is strictly between 0 and 1.

    Raises:
        InputError: The value is outside of (0, 1), or not a number.
    """
    if not (is_number(fraction) and 0 < fraction < 1):
        raise InputError(Problem(where, fraction, "a number above 0 and below 1", fix))


def check_weight(weight: object, *, where: str) -> None:
    """Raise an error if a weight inside a loss is negative, infinite or not a number.

    Raises:
        InputError: The weight is not a finite number of at least 0.
    """
    if not (is_number(weight) and weight >= 0):
        raise InputError(Problem(where, weight, "a finite number, at least 0"))


def check_mask(mask: Tensor, shape: tuple[int, ...], *, where: str) -> None:
    """Raise an error unless a mask has one boolean per token.

    Raises:
        InputError: The shape differs, or the mask is not boolean.
    """
    if mask.dtype != torch.bool:
        raise InputError(
            Problem(where, str(mask.dtype), "true where a token is real", "Convert it with .bool()")
        )
    if mask.shape != shape:
        raise InputError(
            Problem(where, tuple(mask.shape), f"a mask [samples, tokens], here {shape}")
        )


def _check_tensor(value: object, *, where: str) -> None:
    if not isinstance(value, Tensor):
        fix = "Convert it with torch.as_tensor." if value is not None else ""
        raise InputError(Problem(where, type(value).__name__, "a tensor", fix))


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
