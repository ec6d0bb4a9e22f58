"""Replacement of layers by low-rank pairs, as a structural change.

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

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias

from torch import nn

Form: TypeAlias = Literal["linear", "channel", "spatial", "embedding"]


def apply(model: nn.Module, *, layers: Mapping[str, Mapping[str, Any]]) -> None:
    """Replace layers by pairs of low-rank layers with fresh weights.

    Args:
        model: Modified in place.
        layers: The `rank` and `form` of each layer, by path.

    Example:
        >>> net = nn.Sequential(nn.Linear(8, 6))
        >>> apply(net, layers={"0": {"rank": 2, "form": "linear"}})
        >>> [tuple(weight.shape) for weight in net.parameters()]
        [(2, 8), (6, 2), (6,)]
    """
    for path, given in layers.items():
        model.set_submodule(path, pair(model.get_submodule(path), **given))


def pair(layer: Any, rank: int, form: Form) -> nn.Sequential:
    """Build the two layers that replace a layer, with fresh weights.

    They have the layer's type, device, mode, stride, padding, dilation and `requires_grad`.

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


def _linear(layer: nn.Linear, rank: int) -> tuple[nn.Module, nn.Module]:
    outputs, inputs = layer.weight.shape
    options: Any = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    first = nn.Linear(inputs, rank, bias=False, **options)
    return first, nn.Linear(rank, outputs, bias=layer.bias is not None, **options)


def _channel(layer: nn.Conv1d | nn.Conv2d, rank: int) -> tuple[nn.Module, nn.Module]:
    outputs, inputs = layer.weight.shape[:2]
    kind: Any = nn.Conv1d if isinstance(layer, nn.Conv1d) else nn.Conv2d
    options: Any = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    first = kind(
        inputs,
        rank,
        layer.kernel_size,
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
        padding_mode=layer.padding_mode,
        bias=False,
        **options,
    )
    return first, kind(rank, outputs, 1, bias=layer.bias is not None, **options)


def _spatial(layer: nn.Conv2d, rank: int) -> tuple[nn.Module, nn.Module]:
    outputs, inputs = layer.weight.shape[:2]

    def along(axis: int, channels: tuple[int, int], bias: bool) -> nn.Conv2d:
        def on_axis(sizes: tuple[int, ...], other: int) -> Any:
            return (sizes[0], other) if axis == 0 else (other, sizes[1])

        # "same" and "valid" apply to each axis separately
        padding = layer.padding if isinstance(layer.padding, str) else on_axis(layer.padding, 0)
        return nn.Conv2d(
            *channels,
            on_axis(layer.kernel_size, 1),
            stride=on_axis(layer.stride, 1),
            padding=padding,
            dilation=on_axis(layer.dilation, 1),
            padding_mode=layer.padding_mode,
            bias=bias,
            device=layer.weight.device,
            dtype=layer.weight.dtype,
        )

    return along(0, (inputs, rank), False), along(1, (rank, outputs), layer.bias is not None)


def _embedding(layer: nn.Embedding, rank: int) -> tuple[nn.Module, nn.Module]:
    entries, width = layer.weight.shape
    options: Any = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    first = nn.Embedding(
        entries,
        rank,
        padding_idx=layer.padding_idx,
        scale_grad_by_freq=layer.scale_grad_by_freq,
        sparse=layer.sparse,
        **options,
    )
    return first, nn.Linear(rank, width, bias=False, **options)


_LAYERS: dict[Form, Callable[[Any, int], tuple[nn.Module, nn.Module]]] = {
    "linear": _linear,
    "channel": _channel,
    "spatial": _spatial,
    "embedding": _embedding,
}
