"""Forms of low-rank factorisation: a layer as a matrix, and its two replacement layers.

A layer with the matrix A, `[m, n]`, becomes a first layer that computes B x and a second one that
computes C (B x), with B `[r, n]` and C `[m, r]`:

| form | layer | matrix | first layer | second layer |
|-|-|-|-|-|
| `linear` | Linear | `[out, in]` | Linear, in to r | Linear, r to out |
| `channel` | Conv1d, Conv2d | `[out, in·kh·kw]` | kh × kw convolution, in to r | 1 × 1, r to out |
| `spatial` | Conv2d | `[out·kw, in·kh]` | kh × 1 convolution, in to r | 1 × kw, r to out |
| `embedding` | Embedding | `[d, entries]` | Embedding, r wide | Linear, r to d |

The second layer has the bias. The first has none, so that padding zeros stay zero after it.

Source: channel: Zhang et al. 2016 (arXiv:1505.06798); spatial: Jaderberg et al. 2014
(arXiv:1405.3866).
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

Form: TypeAlias = Literal["linear", "channel", "spatial", "embedding"]


def matrix(weight: Tensor, form: Form) -> Tensor:
    """Return a layer's weight as the matrix of its form, `[m, n]`.

    Example:
        >>> matrix(torch.zeros(8, 3, 5, 2), "channel").shape
        torch.Size([8, 30])
        >>> matrix(torch.zeros(8, 3, 5, 2), "spatial").shape
        torch.Size([16, 15])
    """
    if form == "embedding":
        return weight.T
    if form == "spatial":
        return weight.permute(0, 3, 1, 2).flatten(2).flatten(0, 1)
    return weight.flatten(1)


def pair(layer: Any, rank: int, form: Form) -> nn.Sequential:
    """Build the two layers that replace a layer, with fresh weights.

    They have the layer's type, device, mode, stride, padding, dilation and `requires_grad`.

    Args:
        layer: A layer that the form fits.
        rank: Number of features between the two layers.
        form: The form of factorisation.

    Example:
        >>> pair(nn.Linear(6, 4), 2, "linear")
        Sequential(
          (0): Linear(in_features=6, out_features=2, bias=False)
          (1): Linear(in_features=2, out_features=4, bias=True)
        )
    """
    made = nn.Sequential(*_LAYERS[form](layer, rank))
    trained = any(parameter.requires_grad for parameter in layer.parameters())
    return made.train(layer.training).requires_grad_(trained)


def fill(
    made: nn.Sequential, first: Tensor, second: Tensor, bias: Tensor | None, form: Form
) -> None:
    """Set the weights of the two layers.

    Args:
        made: The output of `pair`.
        first: The matrix of the first layer, `[r, n]`.
        second: The matrix of the second layer, `[m, r]`.
        bias: The bias of the replaced layer.
        form: The form of factorisation.
    """
    layers: Any = made
    before, after = layers
    if form == "embedding":
        first = first.T
    if form == "spatial":
        outputs, rank, _, width = after.weight.shape
        second = second.view(outputs, width, rank).transpose(1, 2)
    with torch.no_grad():
        before.weight.copy_(first.reshape(before.weight.shape))
        after.weight.copy_(second.reshape(after.weight.shape))
        if bias is not None:
            after.bias.copy_(bias)


def _linear(layer: nn.Linear, rank: int) -> tuple[nn.Module, nn.Module]:
    outputs, inputs = layer.weight.shape
    place = _place(layer.weight)
    second = nn.Linear(rank, outputs, bias=layer.bias is not None, **place)
    return nn.Linear(inputs, rank, bias=False, **place), second


def _channel(layer: nn.Conv1d | nn.Conv2d, rank: int) -> tuple[nn.Module, nn.Module]:
    outputs, inputs = layer.weight.shape[:2]
    kind: Any = nn.Conv1d if isinstance(layer, nn.Conv1d) else nn.Conv2d
    place = _place(layer.weight)
    first = kind(
        inputs,
        rank,
        layer.kernel_size,
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
        padding_mode=layer.padding_mode,
        bias=False,
        **place,
    )
    return first, kind(rank, outputs, 1, bias=layer.bias is not None, **place)


def _spatial(layer: nn.Conv2d, rank: int) -> tuple[nn.Module, nn.Module]:
    outputs, inputs = layer.weight.shape[:2]
    place = _place(layer.weight)

    def along(axis: int, channels: tuple[int, int], bias: bool) -> nn.Conv2d:
        def here(sizes: tuple[int, ...], elsewhere: int) -> Any:
            return (sizes[0], elsewhere) if axis == 0 else (elsewhere, sizes[1])

        named = isinstance(layer.padding, str)  # "same" and "valid" apply to each axis separately
        return nn.Conv2d(
            *channels,
            here(layer.kernel_size, 1),
            stride=here(layer.stride, 1),
            padding=layer.padding if named else here(layer.padding, 0),  # type: ignore[arg-type]
            dilation=here(layer.dilation, 1),
            padding_mode=layer.padding_mode,
            bias=bias,
            **place,
        )

    return along(0, (inputs, rank), False), along(1, (rank, outputs), layer.bias is not None)


def _embedding(layer: nn.Embedding, rank: int) -> tuple[nn.Module, nn.Module]:
    entries, width = layer.weight.shape
    place = _place(layer.weight)
    first = nn.Embedding(
        entries,
        rank,
        padding_idx=layer.padding_idx,
        scale_grad_by_freq=layer.scale_grad_by_freq,
        sparse=layer.sparse,
        **place,
    )
    return first, nn.Linear(rank, width, bias=False, **place)


def _place(weight: Tensor) -> dict[str, Any]:
    return {"device": weight.device, "dtype": weight.dtype}


_LAYERS: dict[Form, Any] = {
    "linear": _linear,
    "channel": _channel,
    "spatial": _spatial,
    "embedding": _embedding,
}
