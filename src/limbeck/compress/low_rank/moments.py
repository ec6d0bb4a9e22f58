"""Second moments of layer inputs or outputs over training samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from limbeck.compress.calls import first_batch
from limbeck.compress.low_rank.factors import Moment
from limbeck.compress.low_rank.forms import Form, matrix, pair
from limbeck.compress.method import Work
from limbeck.evaluate.flops import evaluating

ROWS = 1 << 15
"""Number of inputs converted to float64 at a time."""


def moments(model: nn.Module, layers: Mapping[str, Form], work: Work) -> dict[str, Moment]:
    """Run the samples through a model, and accumulate the second moments of its layers.

    For a layer with more inputs (weights per patch) than outputs, the outputs are used, which are
    fewer; for a convolution in the spatial form, the patches of the first of the two layers.

    Args:
        model: Not modified.
        layers: The form of each layer, by path. The model must call all of them.
        work: The samples and the forward function.

    Raises:
        InputError: There is no sample.
    """
    first_batch(work)
    sums = {path: _Sum(model.get_submodule(path), form) for path, form in layers.items()}
    handles = [
        model.get_submodule(path).register_forward_hook(found, with_kwargs=True)
        for path, found in sums.items()
    ]
    try:
        with evaluating(model), torch.no_grad():
            for batch in work.batches():
                work.forward(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return {path: found.moment for path, found in sums.items()}


class _Sum:
    """Accumulated second moments of one layer, with the number of rows."""

    def __init__(self, layer: Any, form: Form) -> None:
        outputs, inputs = matrix(layer.weight, form).shape
        wide = outputs > inputs and form != "embedding"
        self._side: Literal["inputs", "outputs"]
        self._side = "inputs" if wide or form == "spatial" else "outputs"
        size = inputs if self._side == "inputs" else outputs
        self._total = torch.zeros(size, size, dtype=torch.float64, device=layer.weight.device)
        self._count = 0
        self._axis = 1 if form in ("channel", "spatial") else -1
        self._patches = _patches(layer, form) if self._side == "inputs" else None
        self._bias = None if form == "embedding" else layer.bias

    @property
    def moment(self) -> Moment:
        return Moment(self._side, self._total / max(1, self._count))

    def __call__(
        self, layer: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], output: Tensor
    ) -> None:
        if self._patches is not None:
            seen = self._patches((*args, *kwargs.values())[0]).movedim(self._axis, -1)
        else:
            seen = output.movedim(self._axis, -1)
            seen = seen if self._bias is None else seen - self._bias
        for rows in seen.flatten(0, -2).split(ROWS):
            exact = rows.double()
            self._total += exact.T @ exact
            self._count += len(exact)


def _patches(layer: nn.Module, form: Form) -> Callable[[Tensor], Tensor]:
    """Return a function from a layer's input to the columns that its matrix multiplies.

    A convolution with the identity as its weight copies each patch into its channels, with the
    layer's padding, stride and dilation.
    """
    if form == "linear":
        return nn.Identity()
    weight: Any = layer.weight
    first: Any = pair(layer, matrix(weight, form).shape[1], form)[0]
    with torch.no_grad():
        first.weight.copy_(torch.eye(first.out_channels).view_as(first.weight))
    return first.eval()
