"""N:M semi-structured sparsity, such as 2:4."""

from __future__ import annotations

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from limbeck.compress.method import (
    CalibrationContext,
    CompressError,
    Method,
    NothingGainedError,
    TransformResult,
)
from limbeck.compress.pruning import (
    Layers,
    Names,
    Skip,
    masking_result,
    prunable,
    restrict,
    score_of,
    with_masks,
)


class SemiStructured(Method):
    """N:M pruning: keeps the `n` weights with the largest |w| of every `m` along the input axis.

    The input axis is the second: inputs of a linear layer, channels of a convolution (at each
    kernel position), width of an embedding. Layers whose input axis is not a multiple of `m` are
    skipped and listed. Of equal weights, the later ones are kept.

    Source: Zhou et al. 2021 (arXiv:2102.04010); 2:4 of Mishra et al. 2021 (arXiv:2104.08378).
    """

    n: int = Field(2, ge=1, le=4096, description="Number of weights to keep of every m.")
    m: int = Field(4, ge=2, le=4096, description="The size of a group.")
    layers: Layers = None
    skip: Skip = Field(default_factory=list)

    @model_validator(mode="after")
    def _fewer_than_all(self) -> SemiStructured:
        if self.n >= self.m:
            raise ValueError(f"n is {self.n}; allowed: less than m, {self.m}")
        return self

    def check(self, model: nn.Module, work: CalibrationContext) -> None:
        """Check the layers, and raise if no input axis is a multiple of `m`."""
        self._select(model, prunable(model, self.layers, self.skip))

    def transform(self, model: nn.Module, work: CalibrationContext) -> TransformResult:
        """Mask all but the largest weights of each group."""
        names, notes = self._select(model, prunable(model, self.layers, self.skip))
        increases = False
        for found in with_masks(model, names).values():
            for weight in found.values():
                scores = score_of(weight, torch.abs)
                keep = largest(scores, self.n, self.m)
                increases |= bool((scores[~keep] > -torch.inf).any())
                restrict(weight, keep)
        if not increases:
            raise NothingGainedError(
                f"nothing would be pruned: every group of {self.m} in {', '.join(names)} has at "
                f"most {self.n} weights already."
            )
        changed = masking_result(model, names, by=f"as {self.n} of {self.m}")
        return TransformResult(changed.change, changed.what, (*notes, *changed.notes))

    def _select(self, model: nn.Module, names: Names) -> tuple[Names, list[str]]:
        """Return the weights whose input axis is a multiple of `m`, and the skipped layers."""
        fitting: dict[str, list[str]] = {}
        notes = []
        for path, found in names.items():
            layer = model.get_submodule(path)
            inputs = {name: getattr(layer, name).shape[1] for name in found}
            fits = [name for name, size in inputs.items() if size % self.m == 0]
            fitting |= {path: fits} if fits else {}
            notes += [
                f"{path}.{name} is skipped: its {size} inputs are not a multiple of {self.m}"
                for name, size in inputs.items()
                if size % self.m
            ]
        if not fitting:
            raise CompressError("nothing can be pruned: " + "; ".join(notes) + ".")
        return fitting, notes


def largest(scores: Tensor, n: int, m: int) -> Tensor:
    """Select the n largest of every m scores along the second axis; of equal ones, the later."""
    last = scores.movedim(1, -1)
    groups = last.unflatten(-1, (-1, m))
    order = groups.argsort(dim=-1, stable=True)
    keep = torch.ones_like(groups, dtype=torch.bool).scatter(-1, order[..., : m - n], False)
    return keep.flatten(-2).movedim(-1, 1)
