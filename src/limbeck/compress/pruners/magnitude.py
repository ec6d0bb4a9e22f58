"""Magnitude pruning."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from limbeck.compress.method import CalibrationContext, Method, TransformResult
from limbeck.compress.pruning import (
    Begin,
    End,
    Layers,
    Scope,
    Skip,
    Sparsity,
    check_sparsity,
    grow_masks,
    prunable,
    prune,
)


class Magnitude(Method):
    r"""Magnitude pruning: masks weights with the smallest |w|, at once or gradually in a training.

    Exactly round(sparsity · n) of n weights become zero; ties are broken by order, earlier first.
    Masks persist in later trainings. The cubic schedule sets the sparsity

    $$s_t = s_f + (s_i - s_f) \left(1 - \frac{p - b}{e - b}\right)^3$$

    at progress p of the training between `begin` b and `end` e, with `initial` s_i.

    Source: Han et al. 2015 (arXiv:1506.02626); Zhu and Gupta 2017 (arXiv:1710.01878).
    """

    sparsity: Sparsity
    scope: Scope = "global"
    schedule: Literal["one_shot", "cubic"] = Field(
        "one_shot", description="Mask at once, or gradually in the training that follows."
    )
    initial: float = Field(0.0, ge=0, lt=1, description="Initial sparsity of the cubic schedule.")
    begin: Begin = 0.0
    end: End = 0.75
    layers: Layers = None
    skip: Skip = Field(default_factory=list)

    @model_validator(mode="after")
    def _a_schedule_that_rises(self) -> Magnitude:
        if self.begin >= self.end:
            raise ValueError(f"begin is {self.begin}; allowed: less than end, {self.end}")
        if self.initial > self.sparsity:
            raise ValueError(f"initial is {self.initial}; allowed: at most {self.sparsity}")
        return self

    @property
    def needs_training(self) -> bool:
        """Return whether the masks grow in a training."""
        return self.schedule == "cubic"

    def check(self, model: nn.Module, work: CalibrationContext) -> None:
        """Check the layers, and raise if nothing more would be masked."""
        names = prunable(model, self.layers, self.skip)
        check_sparsity(model, names, sparsity=self.sparsity, scope=self.scope)

    def transform(self, model: nn.Module, work: CalibrationContext) -> TransformResult:
        """Mask the smallest weights, or register masks that grow."""
        names = prunable(model, self.layers, self.skip)
        if self.schedule == "one_shot":
            options = {"scope": self.scope, "by": "by magnitude"}
            return prune(model, names, torch.abs, sparsity=self.sparsity, **options)
        check_sparsity(model, names, sparsity=self.sparsity, scope=self.scope)
        growth = {
            "score": "magnitude",
            "scope": self.scope,
            "sparsity": self.sparsity,
            "initial": self.initial,
            "begin": self.begin,
            "end": self.end,
        }
        what = f"masks grow by magnitude to {self.sparsity:.2%}"
        return grow_masks(model, names, growth, what=what)
