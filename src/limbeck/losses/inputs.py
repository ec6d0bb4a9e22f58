"""What every loss asks of its inputs.

The checks read shapes and types only, so that none of them waits for a device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from limbeck.errors import InputError, Problem
from limbeck.numbers import is_number, is_positive
from limbeck.precision import precise_pair


def not_negative(value: Tensor) -> Tensor:
    """Lift what rounding pushed below zero; a plain clamp would cut the gradient there.

    Example:
        >>> not_negative(torch.tensor([-1e-9, 2.0]))
        tensor([0., 2.])
    """
    return value - value.detach().clamp_max(0)


def logit_pair(student: Tensor, teacher: Tensor, *, where: str) -> tuple[Tensor, Tensor]:
    """Check two answers to the same units, and give both in the precision to compute in.

    The teacher's has lost its gradient.

    Raises:
        InputError: Either is not `[units, classes]` of floating-point numbers, or the shapes
            differ.
    """
    check_logits(student, where=f"{where}.student")
    check_logits(teacher, where=f"{where}.teacher")
    check_same_shape(student, teacher, where=f"{where}.teacher")
    return precise_pair(student, teacher)


def check_floating(tensor: Tensor, *, where: str) -> None:
    """Refuse whole numbers where logits or features are asked for.

    Raises:
        InputError: It is no tensor, or one that does not hold floating-point numbers.
    """
    _check_tensor(tensor, where=where)
    if not tensor.is_floating_point():
        raise InputError(
            Problem(
                where, str(tensor.dtype), "a floating-point tensor", "Convert it with .float()."
            )
        )


def check_logits(logits: Tensor, *, where: str) -> None:
    """Refuse what is not one row of logits a unit.

    Raises:
        InputError: The tensor is not `[units, classes]` or does not hold floating-point numbers.
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
    """Refuse a student and a teacher that do not lie on each other.

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
    """Refuse labels that are not one whole number a unit.

    Raises:
        InputError: The shape or the type is wrong.
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
    """Refuse labels out of range where a look at them waits for nothing.

    Raises:
        InputError: A label is negative, or not below the number of classes.
    """
    if wrong := outside(labels, classes):
        fix = "A unit without a label is left out by a weight of 0, with any label in range."
        raise InputError(Problem(where, wrong[0], f"labels from 0 to {classes - 1}", fix))


def outside(ids: Tensor, count: int) -> list[int]:
    """Return an id that is not from 0 to count − 1, if there is one and it can be seen.

    On a device other than a CPU a look would wait for it; in compiled code it would break the
    graph; and under `torch.func.vmap` there are no values to look at.

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
    """Turn the error of an operation that looks labels up into one that names the label.

    A CPU looks at each label anyway; a look beforehand would be a second one.

    Raises:
        InputError: The operation failed, and a label is out of range.
    """
    try:
        yield
    except (IndexError, RuntimeError):
        check_label_range(labels, logits.shape[1], where=where)
        raise


def check_temperature(temperature: object, *, where: str) -> None:
    """Refuse a temperature that is not a positive finite number.

    Raises:
        InputError: The temperature is zero, negative, infinite or no number.
    """
    if not is_positive(temperature):
        raise InputError(Problem(where, temperature, "a finite number above 0", "Try 4.0."))


def check_fraction(fraction: object, *, where: str, fix: str = "") -> None:
    """Refuse what does not lie strictly between 0 and 1.

    Raises:
        InputError: The number is outside of (0, 1), or no number.
    """
    if not (is_number(fraction) and 0 < fraction < 1):
        raise InputError(Problem(where, fraction, "a number above 0 and below 1", fix))


def check_weight(weight: object, *, where: str) -> None:
    """Refuse a weight inside a loss that is negative, infinite or no number.

    Raises:
        InputError: The weight is not a finite number of at least 0.
    """
    if not (is_number(weight) and weight >= 0):
        raise InputError(Problem(where, weight, "a finite number, at least 0"))


def check_mask(mask: Tensor, shape: tuple[int, ...], *, where: str) -> None:
    """Refuse a mask that does not say of every token whether it is real.

    Raises:
        InputError: The shape differs, or the mask does not hold true and false.
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
