"""Movement pruning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from limbeck.compress.method import CalibrationContext, Method
from limbeck.compress.pruning import Begin, End, Layers, Scope, Skip, grown, prunable, refuse, start

if TYPE_CHECKING:
    from torch import nn

    from limbeck.compress.method import TransformResult


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

    Source: Sanh, Wolf and Rush 2020 (arXiv:2005.07683) for `gradient`; `distance` is how texts on
    distillation retell it.
    """

    score: Annotated[
        Literal["gradient", "distance"],
        Field(description="The published score, or the distance from where the training began."),
    ] = "gradient"
    threshold: Annotated[
        Literal["hard", "soft"],
        Field(description="A number of weights, or a value of the score."),
    ] = "hard"
    sparsity: Annotated[
        float | None,
        Field(ge=0, lt=1, description="The share of weights that become zero; for hard alone."),
    ] = None
    scope: Scope = "global"
    tau: Annotated[
        float, Field(gt=0, lt=0.5, description="For soft: the final threshold on the sigmoid.")
    ] = 0.1
    penalty: Annotated[
        float,
        Field(gt=0, le=1e6, description="For soft: the penalty's final weight λ."),
    ] = 10.0
    gain: Annotated[
        float,
        Field(
            gt=0,
            le=1e6,
            description="For soft: how many times as fast as weights the scores learn.",
        ),
    ] = 10.0
    begin: Begin = 0.1
    end: End = 0.75
    layers: Layers = None
    skip: Skip = Field(default_factory=list)

    @model_validator(mode="after")
    def _settings_that_go_together(self) -> Movement:
        if self.begin >= self.end:
            raise ValueError(f"begin is {self.begin}; allowed: less than end, {self.end}")
        if self.threshold == "hard" and self.sparsity is None:
            raise ValueError("sparsity is missing: the hard threshold needs it")
        if self.threshold == "soft" and self.sparsity is not None:
            raise ValueError("sparsity has no meaning for a soft threshold: tau and penalty decide")
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
            refuse(model, names, sparsity=self.sparsity, scope=self.scope)

    def transform(self, model: nn.Module, work: CalibrationContext) -> TransformResult:
        """Register masks that grow."""
        names = start(model, self.layers, self.skip)
        plan: dict[str, Any] = {"score": self.score, "begin": self.begin, "end": self.end}
        if self.sparsity is None:
            plan |= {"tau": self.tau, "penalty": self.penalty, "gain": self.gain}
            what = f"masks grow by movement below a threshold of {self.tau:g}"
            return grown(model, names, plan, what=what)
        refuse(model, names, sparsity=self.sparsity, scope=self.scope)
        plan |= {"sparsity": self.sparsity, "scope": self.scope}
        what = f"masks grow by movement ({self.score}) to {self.sparsity:.2%}"
        return grown(model, names, plan, what=what)
