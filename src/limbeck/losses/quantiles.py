"""Losses of quantile forecasts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import torch
from pydantic import Field

from limbeck.errors import InputError, Problem
from limbeck.losses._inputs import logit_pair
from limbeck.losses._kinds import MINIMUM_LOGIT
from limbeck.losses._types import Logits, PerElement

Level = Annotated[float, Field(gt=0, lt=1)]
Levels = Annotated[Sequence[Level], Field(min_length=1)]


def quantile_regression(
    student: Logits, teacher: Logits, *, levels: Levels | None = None
) -> PerElement:
    r"""Compute the pinball loss of the student's quantiles, expected over the teacher's quantiles.

    $$\frac1Q \sum_i \sum_j w_j \, \rho_{\tau_i}(t_j - z_i), \;
      \rho_\tau(u) = \max(\tau u, (\tau - 1) u)$$

    The teacher's quantile of level τ_j stands for the probability w_j between the midpoints of
    neighbouring levels. A student that is less accurate than the teacher learns wider intervals;
    a squared error of the quantiles (`logit_mse`) has the mean of the teacher's intervals as its
    minimum, which are too narrow for it. Both sides are sorted, so that quantiles do not cross.

    Args:
        student: The quantiles z, `[elements, quantiles]`.
        teacher: The quantiles t, `[elements, quantiles]`.
        levels: The levels τ, ascending; default (2i − 1) / 2Q, of equal probability.

    Returns:
        One value per element, in the unit of the quantiles, `[elements]`. It is not 0 at student =
        teacher, where its minimum is.

    Raises:
        InputError: A wrong shape or dtype, or levels that do not ascend from above 0 to below 1.

    Example:
        >>> import torch
        >>> narrow, wide = torch.tensor([[-1.0, 0.0, 1.0]]), torch.tensor([[-2.0, 0.0, 2.0]])
        >>> quantile_regression(narrow, wide, levels=(0.1, 0.5, 0.9))
        tensor([0.4667])
        >>> quantile_regression(wide, wide, levels=(0.1, 0.5, 0.9))
        tensor([0.3333])

    Source: Dabney et al. 2018, "Distributional reinforcement learning with quantile regression".
    """
    student, teacher = logit_pair(student, teacher, where="quantile_regression")
    quantiles, samples = (x.clamp_min(MINIMUM_LOGIT).sort(-1).values for x in (student, teacher))
    count = quantiles.shape[-1]
    default = [(2 * place + 1) / (2 * count) for place in range(count)]
    own = default if levels is None else _checked(levels, count)
    edges = [0.0, *((low + high) / 2 for low, high in pairwise(own)), 1.0]
    weights = quantiles.new_tensor([high - low for low, high in pairwise(edges)])
    level = quantiles.new_tensor(own).unsqueeze(-1)
    error = samples.unsqueeze(-2) - quantiles.unsqueeze(-1)  # [elements, level, sample]
    return (torch.maximum(level * error, (level - 1) * error) * weights).sum(-1).mean(-1)


def _checked(levels: Sequence[float], count: int) -> list[float]:
    ends = [0.0, *levels, 1.0]
    if len(levels) != count or any(low >= high for low, high in pairwise(ends)):
        allowed = f"{count} levels, one for each quantile, ascending between 0 and 1"
        raise InputError(Problem("quantile_regression.levels", levels, allowed))
    return list(levels)
