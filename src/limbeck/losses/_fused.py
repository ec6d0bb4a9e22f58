"""One pass over the blocks of a fused divergence, for values and gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.core.tensors import precise, without_autocast
from limbeck.errors import InputError, Problem
from limbeck.losses._inputs import check_label_range
from limbeck.losses._kinds import RULED_OUT, Measure, closed_form
from limbeck.losses._maps import row_blocks, widened
from limbeck.losses._sparse import rows_of_sample, rows_of_top_k
from limbeck.targets import (
    DenseTargets,
    HeadTargets,
    Rows,
    SampledTargets,
    Targets,
    TopKTargets,
    softcap_,
)

Reduction: TypeAlias = Literal["mean", "sum"]
_LEAST = 2**25  # bytes of logits per block, even if the head itself is smaller


@dataclass(frozen=True)
class Work:
    """The arguments of a fused divergence besides the student; see `fused_divergence`."""

    targets: Targets
    measure: Measure
    labels: Tensor | None
    label_weight: float
    softcap: float | None
    weights: Tensor | None
    reduction: Reduction
    block_bytes: int | None

    def take(self, rows: Rows) -> Work:
        """Return the arguments for some elements."""
        labels, weights = (
            None if part is None else part[rows] for part in (self.labels, self.weights)
        )
        return replace(self, targets=self.targets.take(rows), labels=labels, weights=weights)

    def prepared(self, classes: int) -> Work:
        """Restrict a teacher's head to the student's classes, and cast it to autocast's dtype."""
        if not isinstance(self.targets, HeadTargets):
            return self
        head = self.targets.cut(classes)
        weight = head.weight.to(product_type(head.weight))
        return replace(self, targets=replace(head, weight=weight))


def run(head: Head, work: Work) -> Tensor:
    """Iterate over the blocks; accumulate gradients in the head, return the weighted sum.

    Raises:
        InputError: A weight below 0, or a label out of range (checked on a CPU).
    """
    shares, chosen = _shares(work, head.hidden)
    if work.labels is not None:
        heard = work.labels if chosen is None else work.labels[chosen]
        check_label_range(heard, len(head.weight), where="fused_divergence.labels")
    work = replace(work.prepared(len(head.weight)), weights=shares)
    with without_autocast(head.hidden):
        values = torch.zeros_like(shares)
        for rows in _blocks(len(shares), chosen, _block_rows(head, work)):
            logits = head.logits(rows, work.softcap)
            part = work.take(rows)
            values[rows] = _block(logits, part, shares[rows], head.trains)
            if head.trains:
                head.add(rows, logits)
        return (values * shares).sum()


def _shares(work: Work, hidden: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the weight per element, and the mask of those with weight (None: all)."""
    dtype, units = torch.promote_types(hidden.dtype, torch.float32), len(hidden)
    if work.weights is None:
        share = 1.0 if work.reduction == "sum" else 1.0 / max(units, 1)
        return torch.full((units,), share, dtype=dtype, device=hidden.device), None
    weights = work.weights.detach().to(dtype)
    if weights.device.type == "cpu" and bool((weights < 0).any()):
        lowest = weights.min().item()
        raise InputError(Problem("fused_divergence.weights", lowest, "no weight below 0"))
    chosen = weights.nonzero().squeeze(1)  # the only device synchronisation
    if work.reduction == "mean":
        weights = weights / weights.sum().clamp_min(torch.finfo(dtype).tiny)
    return weights, None if len(chosen) == units else chosen


def _blocks(units: int, chosen: Tensor | None, rows: int) -> Sequence[Rows]:
    if chosen is not None:
        return chosen.split(rows) if len(chosen) else ()
    return [slice(start, min(start + rows, units)) for start in range(0, units, rows)]


def _block(logits: Tensor, work: Work, shares: Tensor, trains: bool) -> Tensor:
    """Compute a block's values, and write the weighted gradient in place of the logits."""
    values = []
    for rows in row_blocks(len(logits), logits.shape[1], logits.device):
        part, ours = work.take(rows), logits[rows]
        value, slope = _rows(ours, part, trains)
        values.append(value)
        if slope is None:
            continue
        if work.softcap is not None:
            slope = slope * (1 - (ours / work.softcap).square())
        factor = shares[rows] * work.measure.temperature
        torch.mul(slope, factor.unsqueeze(1), out=ours)
    return torch.cat(values)


def _rows(logits: Tensor, work: Work, trains: bool) -> tuple[Tensor, Tensor | None]:
    """Compute value and slope of a few rows: of the divergence, and of cross-entropy with labels.

    The gradient is T times the slope, see `closed_form`.
    """
    value, slope = _divergence(logits, work.targets, work.measure, trains)
    slope = None if slope is None else widened(slope, logits.shape[1])
    if work.labels is None:
        return value, slope
    logs = F.log_softmax(logits, dim=-1)
    right = work.labels.long().unsqueeze(1)
    value = value - logs.gather(1, right).squeeze(1).clamp_min(RULED_OUT) * work.label_weight
    if slope is not None:
        share = work.label_weight / work.measure.temperature
        slope = slope.add(logs.exp_(), alpha=share)
        slope.scatter_add_(1, right, torch.full_like(value, -share).unsqueeze(1))
    return value, slope


def _divergence(
    logits: Tensor, targets: Targets, measure: Measure, trains: bool
) -> tuple[Tensor, Tensor | None]:
    if isinstance(targets, SampledTargets | TopKTargets):
        common = logits[:, : targets.classes]
        if isinstance(targets, TopKTargets):
            return rows_of_top_k(common, targets, measure, slope=trains)
        return rows_of_sample(common, targets, measure, slope=trains)
    assert isinstance(targets, DenseTargets)  # a head was converted to logits with the block
    classes = min(logits.shape[1], targets.classes)
    theirs = precise(targets.logits[:, :classes].detach()).to(logits.dtype)
    form = _compiled() if logits.is_cuda else closed_form
    return form(logits[:, :classes], theirs, measure, slope=trains)


@cache
def _compiled() -> Any:
    """Return the row function compiled to one kernel; not used on CPUs. Not measured yet."""
    return torch.compile(closed_form, dynamic=True)


def _block_rows(head: Head, work: Work) -> int:
    """Return the number of elements whose logits fit into the memory limit."""
    weight = head.weight
    budget = work.block_bytes or max(_LEAST, weight.numel() * weight.element_size())
    theirs = work.targets.classes if isinstance(work.targets, HeadTargets) else 0
    return max(1, budget // (4 * (len(weight) + theirs)))


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
        return softcap_(precise(plain), softcap)

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
