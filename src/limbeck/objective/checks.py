"""Check of an objective's terms on one batch before training: contract and gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from limbeck.errors import InputError, LimbeckError, Problem
from limbeck.objective.balance import gradient_norms

FEW = 4
"""Below this number of samples, a loss over the batch may be constant: two samples have one
distance, and divided by the mean distance it is always 1."""


@dataclass(frozen=True)
class TermGradient:
    """The gradient of one term for the student's parameters, on one batch.

    Attributes:
        norm: Its Euclidean norm over all parameters.
        reason: The reason why the norm may be 0; empty if the term has a gradient.
    """

    norm: float
    reason: str = ""


def check_tensor(value: object, *, where: str) -> None:
    """Raise an error unless a loss returned a floating-point tensor.

    Raises:
        InputError: The value is not a floating-point tensor.
    """
    if isinstance(value, Tensor) and value.is_floating_point():
        return
    given = f"a tensor of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
    fix = "Return the tensor itself, without .item() or float()."
    allowed = "a loss that returns a floating-point tensor, one value per element"
    raise InputError(Problem(where, given, allowed, fix))


@contextmanager
def unchanged(name: str, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Run a loss, and convert exceptions and in-place changes to an error with the term's name.

    Raises:
        InputError: The loss raised an exception, or changed one of the tensors.
    """
    before = {key: tensor.detach().clone() for key, tensor in tensors.items()}
    allowed = "a loss that runs on the first batch"
    try:
        yield
    except LimbeckError:
        raise
    # A user's own loss may raise any exception.
    except Exception as error:
        text = (str(error).strip().splitlines() or [""])[0]
        raise InputError(Problem(name, f"{type(error).__name__}: {text}", allowed)) from error
    changed = [key for key, tensor in tensors.items() if not _equal(tensor, before[key])]
    if changed:
        allowed = "a loss that leaves its inputs unchanged"
        fix = "Replace in-place operations, such as x += 1 or x.mul_(2), by x = x + 1 or x * 2."
        given = f"in-place changes of {', '.join(changed)}"
        raise InputError(Problem(name, given, allowed, fix))


def check_gradient(
    name: str,
    value: Tensor,
    parameters: Sequence[nn.Parameter],
    *,
    weight: float,
    samples: int,
    over_batch: bool,
) -> TermGradient:
    """Check that a term's mean is finite and that its gradient reaches the student.

    Args:
        name: The term's name.
        value: The term's mean over the batch, unweighted.
        parameters: The student's trainable parameters.
        weight: The term's initial weight.
        samples: The number of samples in the batch.
        over_batch: Whether the loss compares the samples of a batch with each other.

    Raises:
        InputError: The value is not finite, or no parameter has a gradient without an accepted
            reason.
    """
    if not bool(value.isfinite()):
        fix = "Check for a logarithm or a division of 0, and such numbers in the data."
        raise InputError(Problem(name, value.item(), "a finite value on the first batch", fix))
    if not value.requires_grad:
        fix = "Compute it from its first argument, without .detach(), .item(), numpy or no_grad."
        raise InputError(
            Problem(name, "a value without a gradient", "a value that depends on the student", fix)
        )
    norm = float(gradient_norms({name: value}, parameters)[name])
    size = float(value.detach())
    if not norm < float("inf"):
        fix = "Check for a square root or a logarithm at 0."
        raise InputError(Problem(name, f"a gradient norm of {norm}", "a finite gradient", fix))
    if norm > 0 and size != 0:  # at the minimum, a gradient may be rounding only
        return TermGradient(norm)
    if weight == 0:
        return TermGradient(norm, "its weight is 0")
    if over_batch and samples < FEW:
        return TermGradient(norm, f"it compares samples, and the batch has {samples} of them")
    if size == 0:
        return TermGradient(norm, "its value is 0: the student is at the minimum already")
    fix = (
        "Compare a layer that trainable parameters come before, and check that the value "
        "changes with the student."
    )
    raise InputError(
        Problem(name, "a gradient of 0 for every parameter of the student", "another one", fix)
    )


def check_not_a_mean(name: str, value: Tensor, part: Callable[[Tensor], Tensor], rows: int) -> None:
    """Raise an error if a user's scalar equals the mean of its values for single elements.

    Such a scalar ignores the elements' weights, and a mean over micro-batches of different sizes
    is then a mean of means.

    Args:
        name: The term's name.
        value: The scalar of the whole batch.
        part: A function that computes the scalar of the rows in a mask.
        rows: The number of rows in the batch.

    Raises:
        InputError: The scalar is that mean.
    """
    if value.ndim or rows < 2:
        return
    first = torch.arange(rows, device=value.device) < max(1, rows // 3)
    share = float(first.double().mean())
    with torch.no_grad():
        mean = share * part(first) + (1 - share) * part(~first)
    whole = value.detach()
    if float(whole) != 0 and torch.allclose(mean, whole, rtol=1e-4, atol=0):
        fix = "Remove the mean; for functions of torch: reduction='none', then .sum(-1)."
        allowed = f"one value per element, shape ({rows},)"
        raise InputError(Problem(name, "the mean over the batch, shape ()", allowed, fix))


def _equal(tensor: Tensor, before: Tensor) -> bool:
    same = (tensor == before) | ((tensor != tensor) & (before != before))
    return bool(same.all())
