"""Check each term of an objective on one batch, before training: its contract and its gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from limbeck.balance import gradient_norms
from limbeck.errors import InputError, LimbeckError, Problem

FEW = 4
"""Below this number of samples, a loss over the batch may be constant: two samples have one
distance, and divided by the mean distance it is always 1."""


@dataclass(frozen=True)
class TermGradient:
    """The gradient of one term for the student's parameters, on one batch.

    Attributes:
        norm: Its Euclidean norm over all parameters.
        reason: Why the norm is 0, where that is no fault; empty if the term moves the student.
    """

    norm: float
    reason: str = ""


def check_tensor(value: object, *, where: str) -> None:
    """Refuse what a loss must not return: anything but a tensor of floating-point numbers.

    Raises:
        InputError: It is something else.
    """
    if isinstance(value, Tensor) and value.is_floating_point():
        return
    given = f"a tensor of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
    fix = "Return the tensor itself, without .item() or float()."
    allowed = "a loss that returns a floating-point tensor, one value per element"
    raise InputError(Problem(where, given, allowed, fix))


@contextmanager
def unchanged(name: str, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Run a loss, and raise what it raises, or changes in place, as an error that names the term.

    Raises:
        InputError: The loss raised an exception, or changed one of the tensors.
    """
    before = {key: tensor.detach().clone() for key, tensor in tensors.items()}
    allowed = "a loss that runs on the first batch"
    try:
        yield
    except LimbeckError:
        raise
    # A loss may be the user's own code, which raises exceptions of any kind.
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
        name: The term's.
        value: Its mean over the batch, before its weight.
        parameters: The student's that train.
        weight: The term's weight at the beginning.
        samples: How many the batch has.
        over_batch: Whether the loss compares the samples of a batch with each other.

    Raises:
        InputError: The value is not finite, or no parameter gets a gradient and nothing of what
            may excuse it is the case.
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
    if norm > 0 and size != 0:  # at the minimum, rounding alone gives a gradient
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
    """Refuse a user's scalar that is the mean of what its elements give one by one.

    Such a scalar ignores the elements' weights, and a mean over micro-batches of different sizes
    is then a mean of means.

    Args:
        name: The term's.
        value: The scalar of the whole batch.
        part: Computes the scalar of some rows, given true for each of them.
        rows: How many the batch has.

    Raises:
        InputError: It is that mean.
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
