"""One pass over the blocks of a fused divergence, for values and gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from limbeck.core.tensors import precise, without_autocast
from limbeck.errors import InputError, Problem
from limbeck.losses._blocks import pad_classes, row_blocks
from limbeck.losses._inputs import check_label_range
from limbeck.losses._kinds import MINIMUM_LOGIT, DivergenceConfig, closed_form
from limbeck.losses._sparse import sampled_rows, top_k_rows
from limbeck.targets import (
    CategoricalTargets,
    DenseTargets,
    HeadTargets,
    Rows,
    SampledTargets,
    TopKTargets,
    softcap_,
)

Reduction: TypeAlias = Literal["mean", "sum"]
_MINIMUM_BYTES = 2**25  # of logits per block, even if the head itself is smaller
_SLAB = 2**14  # the number of classes per accumulation step in higher precision


@dataclass(frozen=True)
class FusedArguments:
    """The arguments of a fused divergence besides the student; see `fused_divergence`."""

    targets: CategoricalTargets
    config: DivergenceConfig
    labels: Tensor | None
    label_weight: float
    softcap: float | None
    weights: Tensor | None
    reduction: Reduction
    block_bytes: int | None

    def take(self, rows: Rows) -> FusedArguments:
        """Return the arguments for some elements."""
        labels, weights = (None if x is None else x[rows] for x in (self.labels, self.weights))
        return replace(self, targets=self.targets.take(rows), labels=labels, weights=weights)


def fused_value(head: Head, arguments: FusedArguments) -> Tensor:
    """Iterate over the blocks; accumulate gradients in the head, return the weighted sum."""
    classes, targets, labels = len(head.weight), arguments.targets, arguments.labels
    weights, selected = _weights(arguments, head.hidden)
    if labels is not None:
        weighted = labels if selected is None else labels[selected]
        check_label_range(weighted, classes, where="fused_divergence.labels")
    if isinstance(targets, HeadTargets):
        targets = targets.cut(classes)
        targets = replace(targets, weight=targets.weight.to(product_dtype(targets.weight)))
    arguments = replace(arguments, targets=targets, weights=weights)
    rows = _rows_per_block(head, arguments)
    blocks: Sequence[Rows]
    if selected is None:
        blocks = [slice(start, start + rows) for start in range(0, len(weights), rows)]
    else:
        blocks = selected.split(rows) if len(selected) else ()
    with without_autocast(head.hidden):
        values = torch.zeros_like(weights)
        for block in blocks:
            logits = head.logits(block, arguments.softcap)
            values[block] = _block(logits, arguments.take(block), weights[block], head.trained)
            if head.trained:
                head.accumulate(block, logits)
        return (values * weights).sum()


def _weights(arguments: FusedArguments, hidden: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the normalised weight per element, and the elements of non-zero weight (None: all)."""
    dtype, elements = torch.promote_types(hidden.dtype, torch.float32), len(hidden)
    if arguments.weights is None:
        weight = 1.0 if arguments.reduction == "sum" else 1.0 / max(elements, 1)
        return torch.full((elements,), weight, dtype=dtype, device=hidden.device), None
    weights = arguments.weights.detach().to(dtype)
    if weights.device.type == "cpu" and bool((weights < 0).any()):
        lowest = weights.min().item()
        raise InputError(Problem("fused_divergence.weights", lowest, "no weight below 0"))
    selected = weights.nonzero().squeeze(1)  # the only device synchronisation
    if arguments.reduction == "mean":
        weights = weights / weights.sum().clamp_min(torch.finfo(dtype).tiny)
    return weights, None if len(selected) == elements else selected


def _rows_per_block(head: Head, arguments: FusedArguments) -> int:
    """Return the number of elements whose logits fit into the memory limit."""
    size = head.weight.numel() * head.weight.element_size()
    limit = arguments.block_bytes or max(_MINIMUM_BYTES, size)
    targets = arguments.targets
    teacher_classes = targets.classes if isinstance(targets, HeadTargets) else 0
    return max(1, limit // (4 * (len(head.weight) + teacher_classes)))


def _block(logits: Tensor, arguments: FusedArguments, weights: Tensor, grad: bool) -> Tensor:
    """Compute a block's values, and write the weighted gradient in place of the logits."""
    values = []
    for rows in row_blocks(len(logits), logits.shape[1], logits.device):
        part = logits[rows]
        value, gradient = _rows(part, arguments.take(rows), grad)
        values.append(value)
        if gradient is None:
            continue
        if arguments.softcap is not None:
            gradient = gradient * (1 - (part / arguments.softcap).square())
        factor = weights[rows] * arguments.config.temperature
        torch.mul(gradient, factor.unsqueeze(1), out=part)
    return torch.cat(values)


def _rows(logits: Tensor, arguments: FusedArguments, grad: bool) -> tuple[Tensor, Tensor | None]:
    """Compute value and gradient of a few rows, of the divergence and of cross-entropy.

    The gradient is divided by T, see `closed_form`.
    """
    value, gradient = _divergence(logits, arguments.targets, arguments.config, grad)
    gradient = None if gradient is None else pad_classes(gradient, logits.shape[1])
    if arguments.labels is None:
        return value, gradient
    weight, labels = arguments.label_weight, arguments.labels.long().unsqueeze(1)
    logs = F.log_softmax(logits, dim=-1)
    value = value - logs.gather(1, labels).squeeze(1).clamp_min(MINIMUM_LOGIT) * weight
    if gradient is not None:
        scaled = weight / arguments.config.temperature
        gradient = gradient.add(logs.exp_(), alpha=scaled)
        gradient.scatter_add_(1, labels, torch.full_like(value, -scaled).unsqueeze(1))
    return value, gradient


def _divergence(
    logits: Tensor, targets: CategoricalTargets, config: DivergenceConfig, grad: bool
) -> tuple[Tensor, Tensor | None]:
    if isinstance(targets, TopKTargets):
        return top_k_rows(logits[:, : targets.classes], targets, config, grad=grad)
    if isinstance(targets, SampledTargets):
        return sampled_rows(logits[:, : targets.classes], targets, config, grad=grad)
    assert isinstance(targets, DenseTargets)  # a head was converted to logits with the block
    classes = min(logits.shape[1], targets.classes)
    teacher = precise(targets.logits[:, :classes].detach()).to(logits.dtype)
    form = _compiled() if logits.is_cuda else closed_form
    return form(logits[:, :classes], teacher, config, grad=grad)


@cache
def _compiled() -> Callable[..., Any]:
    """Return the row function compiled to one kernel; not used on CPUs. Not measured yet."""
    return torch.compile(closed_form, dynamic=True)


class Head:
    """The student's last layer, with its accumulated gradients."""

    def __init__(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, wanted: tuple[bool, ...]
    ) -> None:
        self.dtype = product_dtype(hidden)
        self._dtypes = weight.dtype, None if bias is None else bias.dtype
        self.hidden, self.weight = hidden.to(self.dtype), weight.to(self.dtype)
        self._bias = None if bias is None else bias.to(self.dtype)
        self.trained = any(wanted)
        full = torch.promote_types(hidden.dtype, torch.float32)
        self.hidden_grad = torch.zeros_like(hidden) if wanted[0] else None
        self._weight_grad = torch.zeros_like(weight, dtype=full) if wanted[1] else None
        self._bias_grad = weight.new_zeros(len(weight), dtype=full) if wanted[2] else None

    def logits(self, rows: Rows, softcap: float | None) -> Tensor:
        """Compute the logits of some elements."""
        hidden, weight = self.hidden[rows], self.weight.T
        logits = hidden @ weight if self._bias is None else torch.addmm(self._bias, hidden, weight)
        return softcap_(precise(logits), softcap)

    def accumulate(self, rows: Rows, gradient: Tensor) -> None:
        """Accumulate the gradient of some elements' logits in hidden states, weight and bias."""
        product = gradient.to(self.dtype)
        if self.hidden_grad is not None:
            self.hidden_grad[rows] = (product @ self.weight).to(self.hidden_grad.dtype)
        if self._bias_grad is not None:
            self._bias_grad += gradient.sum(0)
        if self._weight_grad is None:
            return
        if self._weight_grad.dtype == self.dtype:
            self._weight_grad.addmm_(product.T, self.hidden[rows])
            return
        for start in range(0, len(self._weight_grad), _SLAB):
            slab = slice(start, start + _SLAB)
            self._weight_grad[slab] += product[:, slab].T @ self.hidden[rows]

    def gradients(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Return the gradients of hidden states, weight and bias in their own dtypes."""
        gradients = zip((self._weight_grad, self._bias_grad), self._dtypes, strict=True)
        weight, bias = (None if g is None or t is None else g.to(t) for g, t in gradients)
        return self.hidden_grad, weight, bias


def autocast_dtype(device: str) -> torch.dtype | None:
    """Return autocast's dtype on a device; None if autocast is disabled."""
    enabled = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if enabled else None


def product_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype of a matrix product: autocast's, or else the tensor's own.

    Example:
        >>> with torch.autocast("cpu", dtype=torch.bfloat16):
        ...     product_dtype(torch.zeros(1)), product_dtype(torch.zeros(1, dtype=torch.float64))
        (torch.bfloat16, torch.float64)
    """
    if tensor.dtype == torch.float64:
        return tensor.dtype
    return autocast_dtype(tensor.device.type) or tensor.dtype
