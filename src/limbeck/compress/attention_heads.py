"""Prunable attention heads: the projections and the size attributes of known implementations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from limbeck.compress.structure import Contribution


@dataclass(frozen=True)
class Kind:
    """An attention implementation.

    Attributes:
        name: The library or model it belongs to.
        inputs: Paths, within the attention, of the query, key and value projections.
        output: The path of the output projection.
        holder: The path of the module with the size attributes.
        heads: The attribute of the number of heads.
        size: The attribute of the head size.
        width: The attribute of their product.
        absent: Submodules that also read all heads; an attention with one is skipped.
    """

    name: str
    inputs: tuple[str, ...]
    output: str
    holder: str
    heads: str
    size: str
    width: str
    absent: tuple[str, ...] = ()


_BERT = ("num_attention_heads", "attention_head_size", "all_head_size")
KINDS = (
    Kind("BERT", ("self.query", "self.key", "self.value"), "output.dense", "self", *_BERT),
    Kind("timm", ("qkv",), "proj", "", "num_heads", "head_dim", "attn_dim", ("norm", "gate")),
)
"""BERT also covers its relatives in transformers, and timm its vision transformers."""


class Attention:
    """An attention module with prunable heads, of a known implementation."""

    def __init__(self, module: nn.Module, kind: Kind) -> None:
        self.module, self._kind = module, kind
        self._sizes = vars(module.get_submodule(kind.holder))
        self._inputs = [cast("nn.Linear", module.get_submodule(path)) for path in kind.inputs]
        self._output = cast("nn.Linear", module.get_submodule(kind.output))
        self._blocks = 3 // len(kind.inputs)  # blocks of rows of each input projection

    @property
    def heads(self) -> int:
        """Return the number of heads."""
        return cast("int", self._sizes[self._kind.heads])

    def total(self, contribution: Contribution) -> Tensor:
        """Sum the contributions of the weights of each head, `[heads]`."""
        total = torch.zeros(self.heads, dtype=torch.float64)
        for layer in self._inputs:
            rows = contribution[layer.weight].sum(1)
            each = rows.view(self._blocks, self.heads, -1).sum((0, 2))
            total += each.double().abs().cpu()
        columns = contribution[self._output.weight].sum(0).view(self.heads, -1).sum(1)
        return total + columns.double().abs().cpu()

    def remove(self, heads: Iterable[int]) -> None:
        """Remove heads, in place."""
        gone = set(heads)
        kept = torch.tensor([head for head in range(self.heads) if head not in gone])
        for layer in self._inputs:
            rows = self._indices(layer.out_features, self._blocks, kept)
            _keep(layer, rows, dim=0)
            layer.out_features = len(rows)
        columns = self._indices(self._output.in_features, 1, kept)
        _keep(self._output, columns, dim=1)
        self._output.in_features = len(columns)
        self._sizes |= {self._kind.width: len(columns), self._kind.heads: len(kept)}

    def _indices(self, size: int, blocks: int, kept: Tensor) -> Tensor:
        return torch.arange(size).view(blocks, self.heads, -1)[:, kept].flatten()


def attentions(model: nn.Module) -> dict[str, Attention]:
    """Return every attention of a known implementation, by path."""
    return {
        path: Attention(module, kind)
        for path, module in model.named_modules()
        for kind in KINDS
        if _is(module, kind)
    }


def _is(module: nn.Module, kind: Kind) -> bool:
    parts: Mapping[str, nn.Module] = dict(module.named_modules())
    layers = [parts.get(path) for path in (*kind.inputs, kind.output)]
    if not all(isinstance(layer, nn.Linear) for layer in layers) or kind.holder not in parts:
        return False
    if any(not isinstance(parts.get(path, nn.Identity()), nn.Identity) for path in kind.absent):
        return False
    numbers = vars(parts[kind.holder])
    heads, size, width = (numbers.get(name) for name in (kind.heads, kind.size, kind.width))
    first, last = cast("list[nn.Linear]", [layers[0], layers[-1]])
    whole = first.out_features == last.in_features * (3 // len(kind.inputs))
    return heads is not None and whole and heads * size == width == last.in_features


def _keep(layer: nn.Linear, indices: Tensor, *, dim: int) -> None:
    indices = indices.to(layer.weight.device)
    layer.weight = nn.Parameter(layer.weight.detach().index_select(dim, indices))
    if dim == 0 and layer.bias is not None:
        layer.bias = nn.Parameter(layer.bias.detach()[indices])
