"""Random pruning, the control for other criteria."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from limbeck.compress.method import CalibrationContext, Method, TransformResult
from limbeck.compress.pruning import Layers, Scope, Skip, Sparsity, check_sparsity, prunable, prune


class Random(Method):
    """Random pruning: masks exactly round(sparsity · n) of n weights, drawn with the seed."""

    sparsity: Sparsity
    scope: Scope = "global"
    layers: Layers = None
    skip: Skip = Field(default_factory=list)

    def check(self, model: nn.Module, work: CalibrationContext) -> None:
        """Check the layers, and raise if nothing more would be masked."""
        names = prunable(model, self.layers, self.skip)
        check_sparsity(model, names, sparsity=self.sparsity, scope=self.scope)

    def transform(self, model: nn.Module, work: CalibrationContext) -> TransformResult:
        """Draw a random score per weight, and mask the lowest."""
        generator = torch.Generator().manual_seed(work.seed)

        def random_scores(weight: Tensor) -> Tensor:
            return torch.rand(weight.shape, generator=generator).to(weight.device)

        names = prunable(model, self.layers, self.skip)
        return prune(
            model, names, random_scores, sparsity=self.sparsity, scope=self.scope, by="by chance"
        )
