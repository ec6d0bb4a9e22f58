"""Values whose gradient is formed with them: for what is small, recording costs more than maths.

A loss forms both in a few operations that overwrite their own results, and the tape has one step
instead of ten. All of it is for a processor; elsewhere, and in compiled code, the plain form of
the loss is as fast, and a look at the numbers would wait for the device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_SMALL = 2**18  # elements: beyond, what is kept would be felt and the steps of the tape are not


def is_small(student: Tensor, teacher: Tensor) -> bool:
    """Whether both are a few numbers on a processor, of one shape and of one full precision.

    Example:
        >>> is_small(torch.zeros(2, 3), torch.zeros(2, 3)), is_small(torch.zeros(0), torch.zeros(0))
        (True, False)
    """
    return (
        0 < student.numel() <= _SMALL
        and student.shape == teacher.shape
        and student.dtype == teacher.dtype
        and student.dtype in (torch.float32, torch.float64)
        and student.device.type == "cpu"
        and not torch.compiler.is_compiling()
    )


def known(
    student: Tensor,
    teacher: Tensor,
    value: Tensor,
    slope: Tensor | None,
    again: Callable[[Tensor, Tensor], Tensor],
    *,
    factor: float = 1.0,
) -> Tensor:
    """Join a value to the tape by its gradient, `factor * slope`.

    Args:
        student: What the gradient is for, `[units, numbers]`.
        teacher: What else the value is of; no gradient reaches it.
        value: One a unit, without a gradient.
        slope: Of the student's shape. None where no gradient is wanted.
        again: The same value of both by recorded operations, for derivatives of the gradient.
        factor: What all of the slope is multiplied by.

    Example:
        >>> at, to = torch.tensor([[3.0]], requires_grad=True), torch.tensor([[1.0]])
        >>> squares = lambda x, y: (x - y).square().sum(-1)
        >>> rest = at.detach() - to
        >>> value = known(at, to, squares(at.detach(), to), rest, squares, factor=2.0)
        >>> value.backward()
        >>> at.grad
        tensor([[4.]])
    """
    if slope is None:
        return value
    joined: Tensor = _Known.apply(student, teacher, (value, slope), again, factor)
    return joined


def wants_slope(student: Tensor) -> bool:
    """Whether a gradient may be asked for."""
    return student.requires_grad and torch.is_grad_enabled()


class _Known(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        student: Tensor,
        teacher: Tensor,
        found: tuple[Tensor, Tensor],
        again: Callable[[Tensor, Tensor], Tensor],
        factor: float,
    ) -> Tensor:
        value, slope = found
        ctx.save_for_backward(student, teacher, slope)
        ctx.again, ctx.factor = again, factor
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        student, teacher, slope = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradient will itself be differentiated
            value = ctx.again(student, teacher)
            (result,) = torch.autograd.grad(value, student, gradient, create_graph=True)
            return result, None, None, None, None
        if ctx.factor != 1:
            gradient = gradient * ctx.factor
        return slope * gradient.unsqueeze(-1), None, None, None, None
