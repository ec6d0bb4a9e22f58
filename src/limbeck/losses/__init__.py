"""Pure functions that compare a student's answer with a teacher's or with labels.

`__all__` names the losses and nothing else: it is what a recipe may name and what the contract
suite walks. Every loss takes the student first and the teacher, targets or labels second; all else
is keyword-only. None reduces, weights or masks: it answers with one value a unit, and the
`Objective` alone averages.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from limbeck.errors import InputError, Problem, did_you_mean
from limbeck.losses.divergence import divergence
from limbeck.losses.feature import fitnet_hint
from limbeck.losses.response import cross_entropy, label_smoothing, logit_mse, soft_target_kl

__all__ = [
    "cross_entropy",
    "divergence",
    "fitnet_hint",
    "label_smoothing",
    "logit_mse",
    "soft_target_kl",
]


def find(name: str, *, where: str = "loss") -> Callable[..., Tensor]:
    """Give the loss of that name; an unknown name is an error with the nearest ones.

    Example:
        >>> find("soft_target_kl") is soft_target_kl
        True
        >>> find("soft_taget_kl")
        Traceback (most recent call last):
        ...
        limbeck.errors.InputError: loss: got 'soft_taget_kl'; ... did you mean "soft_target_kl"?
    """
    if name not in __all__:
        raise InputError(Problem(where, name, ", ".join(__all__), did_you_mean(name, __all__)))
    loss: Callable[..., Tensor] = globals()[name]
    return loss
