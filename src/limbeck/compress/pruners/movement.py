"""Movement pruning."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator
from torch import nn

from limbeck.compress.method import CalibrationContext, Method, TransformResult
from limbeck.compress.pruning import (
    Begin,
    End,
    Layers,
    Scope,
    Skip,
    check_sparsity,
    grow_masks,
    prunable,
)
from limbeck.errors import Problem, RefusedError


class Movement(Method):
    r"""Movement pruning: masks weights during training by how they move.

    | `score` | score of a weight | masked weights |
    |-|-|-|
    | `gradient` | $-\sum w \, \partial L / \partial w'$: moves away from zero | may return |
    | `distance` | $\lvert w - w_0 \rvert$: moves at all | stay masked |

    With the `hard` threshold exactly round(sparsity · n) of n weights, those with the lowest
    scores, are masked at the end; their number follows a cubic schedule. With the `soft` one
    (`gradient` only), weights with sigmoid(gain · s) below τ are masked, the penalty λ · mean
    sigmoid(gain · s) lowers the scores, and the sparsity is a result. The scores s are parameters,
    updated by the optimiser.

    Keep the last epoch's weights of such a training, not the best: the masks may have been
    incomplete at the best epoch.

    Source: Sanh, Wolf and Rush 2020 (arXiv:2005.07683) for `gradient`; `distance` is a
    variant in texts on distillation.
    """

    score: Literal["gradient", "distance"] = Field(
        "gradient", description="The published score, or the distance from the initial weights."
    )
    threshold: Literal["hard", "soft"] = Field(
        "hard", description="Mask a fixed number of weights, or those below a score."
    )
    sparsity: float | None = Field(
        None, ge=0, lt=1, description="Share of weights that are set to zero; only for hard."
    )
    scope: Scope = "global"
    tau: float = Field(
        0.1, gt=0, lt=0.5, description="For soft: the final threshold on the sigmoid."
    )
    penalty: float = Field(
        10.0, gt=0, le=1e6, description="For soft: the penalty's final weight λ."
    )
    gain: float = Field(
        10.0, gt=0, le=1e6, description="For soft: the factor of the scores' learning rate."
    )
    begin: Begin = 0.1
    end: End = 0.75
    layers: Layers = None
    skip: Skip = Field(default_factory=list)

    @model_validator(mode="after")
    def _settings_that_go_together(self) -> Movement:
        if self.begin >= self.end:
            raise ValueError(f"begin is {self.begin}; allowed: less than end, {self.end}")
        if self.threshold == "hard" and self.sparsity is None:
            raise RefusedError(Problem.missing("sparsity", "The hard threshold needs it."))
        if self.threshold == "soft" and self.sparsity is not None:
            raise ValueError("sparsity: not allowed for the soft threshold; set tau, penalty")
        if self.threshold == "soft" and self.score == "distance":
            raise ValueError("score is distance; allowed: gradient, for a soft threshold")
        return self

    @property
    def needs_training(self) -> bool:
        """Return whether training is required: always."""
        return True

    def check(self, model: nn.Module, work: CalibrationContext) -> None:
        """Check the layers, and raise if nothing more would be masked."""
        names = prunable(model, self.layers, self.skip)
        if self.sparsity is not None:
            check_sparsity(model, names, sparsity=self.sparsity, scope=self.scope)

    def transform(self, model: nn.Module, work: CalibrationContext) -> TransformResult:
        """Register masks that grow."""
        names = prunable(model, self.layers, self.skip)
        plan: dict[str, Any] = {"score": self.score, "begin": self.begin, "end": self.end}
        if self.sparsity is None:
            plan |= {"tau": self.tau, "penalty": self.penalty, "gain": self.gain}
            what = f"masks grow by movement below a threshold of {self.tau:g}"
            return grow_masks(model, names, plan, what=what)
        check_sparsity(model, names, sparsity=self.sparsity, scope=self.scope)
        plan |= {"sparsity": self.sparsity, "scope": self.scope}
        what = f"masks grow by movement ({self.score}) to {self.sparsity:.2%}"
        return grow_masks(model, names, plan, what=what)
