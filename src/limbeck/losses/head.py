"""A student's last layer for the fused divergence: products forward, accumulated gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from limbeck.precision import precise
from limbeck.targets import Rows, capped

_SLAB = 2**14  # the number of classes per accumulation step in higher precision


class Head:
    """The student's last layer, with its accumulated gradients."""

    def __init__(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, wanted: tuple[bool, ...]
    ) -> None:
        self.dtype = product_type(hidden)
        self._types = weight.dtype, None if bias is None else bias.dtype
        self.hidden, self.weight = hidden.to(self.dtype), weight.to(self.dtype)
        self._bias = None if bias is None else bias.to(self.dtype)
        self.trains = any(wanted)
        full = torch.promote_types(hidden.dtype, torch.float32)
        self.to_hidden = torch.zeros_like(hidden) if wanted[0] else None
        self._to_weight = torch.zeros_like(weight, dtype=full) if wanted[1] else None
        self._to_bias = weight.new_zeros(len(weight), dtype=full) if wanted[2] else None

    def logits(self, rows: Rows, softcap: float | None) -> Tensor:
        """Compute the logits of some elements."""
        hidden, weight = self.hidden[rows], self.weight.T
        plain = hidden @ weight if self._bias is None else torch.addmm(self._bias, hidden, weight)
        return capped(precise(plain), softcap)

    def add(self, rows: Rows, slope: Tensor) -> None:
        """Accumulate the gradient of some elements' logits in hidden states, weight and bias."""
        product = slope.to(self.dtype)
        if self.to_hidden is not None:
            self.to_hidden[rows] = (product @ self.weight).to(self.to_hidden.dtype)
        if self._to_bias is not None:
            self._to_bias += slope.sum(0)
        if self._to_weight is None:
            return
        if self._to_weight.dtype == self.dtype:
            self._to_weight.addmm_(product.T, self.hidden[rows])
            return
        for start in range(0, len(self._to_weight), _SLAB):
            slab = slice(start, start + _SLAB)
            self._to_weight[slab] += product[:, slab].T @ self.hidden[rows]

    def to_weights(self) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradients of weight and bias in their own dtypes."""
        found = zip((self._to_weight, self._to_bias), self._types, strict=True)
        weight, bias = (None if g is None or t is None else g.to(t) for g, t in found)
        return weight, bias


def product_type(tensor: Tensor) -> torch.dtype:
    """Return the dtype of a matrix product: autocast's, or else the tensor's own.

    Example:
        >>> with torch.autocast("cpu", dtype=torch.bfloat16):
        ...     product_type(torch.zeros(1)), product_type(torch.zeros(1, dtype=torch.float64))
        (torch.bfloat16, torch.float64)
    """
    device = tensor.device.type
    available = torch.amp.is_autocast_available(device)
    if available and torch.is_autocast_enabled(device) and tensor.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return tensor.dtype
