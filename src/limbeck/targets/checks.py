"""Validation of the tensors of soft targets."""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.errors import InputError, Problem


def of_ids(where: str, ids: Tensor) -> tuple[Problem, ...]:
    """Return the problems of class ids that are not integers `[units, k]`."""
    if ids.dtype not in (torch.int64, torch.int32):
        fix = "Convert them with .long()."
        return (Problem(f"{where}.ids", str(ids.dtype), "whole numbers, int64 or int32", fix),)
    if ids.ndim != 2 or ids.shape[1] == 0:
        allowed = "a tensor [units, k] with at least one class a unit"
        return (Problem(f"{where}.ids", tuple(ids.shape), allowed),)
    return ()


def of_shape(
    where: str, name: str, given: Tensor, ids: Tensor, *, floating: bool = True
) -> tuple[Problem, ...]:
    """Return the problems of a tensor that does not have one number per kept class."""
    if given.shape != ids.shape:
        allowed = f"{tuple(ids.shape)}, as the ids have"
        return (Problem(f"{where}.{name}", tuple(given.shape), allowed),)
    if floating and not given.is_floating_point():
        fix = "Convert it with .float()."
        return (Problem(f"{where}.{name}", str(given.dtype), "a floating-point tensor", fix),)
    return ()


def check_logits(where: str, logits: Tensor) -> None:
    """Raise an error unless a tensor has one row of logits per element.

    Raises:
        InputError: The tensor is not `[units, classes]`, or has an integer dtype.
    """
    if logits.ndim != 2 or logits.shape[1] == 0 or not logits.is_floating_point():
        given = f"{logits.dtype} {tuple(logits.shape)}"
        raise InputError(Problem(f"{where}.logits", given, "floating-point [units, classes]"))
