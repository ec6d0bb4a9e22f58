"""Losses over what a model holds inside: one value a sample."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from limbeck.errors import InputError, Problem
from limbeck.losses.inputs import check_floating, check_same_shape, precise


def fitnet_hint(
    student: Float[Tensor, "samples ..."], teacher: Float[Tensor, "samples ..."]
) -> Float[Tensor, " samples"]:
    r"""Measure the mean squared difference of features.

    $$\frac1D \sum_i (f_i - g_i)^2$$

    The mean, not the sum, over the D features: it does not grow with the layer's size, and the
    weight published with the CIFAR-100 benchmark (100) applies as it is.

    Args:
        student: Features f, `[samples, ...]`, already brought to the teacher's shape by a
            connector.
        teacher: Features g, `[samples, ...]`. No gradient reaches them.

    Returns:
        One value a sample, `[samples]`; float32 for half-precision features.

    Raises:
        InputError: Shapes that differ, features without an axis beside the samples', or whole
            numbers.

    Example:
        >>> import torch
        >>> fitnet_hint(torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4))
        tensor([1., 1.])

    Source: Romero et al. 2015 (FitNets); scale of Tian, Krishnan and Isola 2020.
    """
    check_floating(student, where="fitnet_hint.student")
    check_floating(teacher, where="fitnet_hint.teacher")
    check_same_shape(student, teacher, where="fitnet_hint.teacher")
    if student.ndim < 2:
        raise InputError(
            Problem("fitnet_hint.student", tuple(student.shape), "a tensor [samples, ...]")
        )
    difference = precise(student) - precise(teacher.detach())
    return difference.square().flatten(1).mean(1)
