"""What layers see, summed over training samples: the products of inputs, or of outputs."""

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
"""How many inputs at a time are taken to float64."""


def moments(model: nn.Module, layers: Mapping[str, Form], work: Work) -> dict[str, Moment]:
    """Send the samples through a model and sum up what its layers see.

    Of a layer with more inputs than outputs (weights in a patch count) the outputs are enough,
    which are fewer; of a convolution in the spatial form, the patches of the first of the two
    layers.

    Args:
        model: Is left as it was.
        layers: The form of each layer, by path. All of them are called.
        work: Gives the samples, and runs the model.

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
    """The products of one layer's inputs or outputs, and how many there were."""

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
    """Give what takes a layer's input to the columns that its matrix is multiplied with.

    A convolution with the identity as its weight copies each patch into its channels, with all
    that the layer does about padding, stride and dilation.
    """
    if form == "linear":
        return nn.Identity()
    weight: Any = layer.weight
    first: Any = pair(layer, matrix(weight, form).shape[1], form)[0]
    with torch.no_grad():
        first.weight.copy_(torch.eye(first.out_channels).view_as(first.weight))
    return first.eval()
