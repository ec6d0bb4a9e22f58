"""Divergence from hidden states: logits are formed, used and dropped a few rows at a time.

The gradients of a block are formed while its logits are there, in the forward pass. What is kept
is of the size of the hidden states and of the head, however many units and classes there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal, TypeAlias, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor

from limbeck.errors import InputError, Problem, did_you_mean
from limbeck.losses.blocks import row_blocks, widened
from limbeck.losses.divergence import check_targets
from limbeck.losses.head import Head, product_type
from limbeck.losses.inputs import check_label_range, check_labels, precise, without_autocast
from limbeck.losses.kinds import RULED_OUT, Kind, Measure, closed_form
from limbeck.losses.sparse import rows_of_sample, rows_of_top_k
from limbeck.targets import (
    DenseTargets,
    HeadTargets,
    Rows,
    SampledTargets,
    Targets,
    TopKTargets,
    head_problems,
)

Reduction: TypeAlias = Literal["mean", "sum"]

_LEAST = 2**25  # bytes of logits that a block may take, even where the head itself is smaller


def fused_divergence(
    hidden: Float[Tensor, "units features"],
    weight: Float[Tensor, "classes features"],
    targets: Targets,
    *,
    kind: Kind = "forward_kl",
    temperature: float,
    labels: Integer[Tensor, " units"] | None = None,
    label_weight: float = 1.0,
    bias: Float[Tensor, " classes"] | None = None,
    softcap: float | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
    beta: float | None = None,
    normalized: bool = False,
    block_bytes: int | None = None,
) -> Float[Tensor, ""]:
    r"""Average the divergence of logits that are never all formed at once.

    With logits $z = h W^\top + b$, or $c \tanh(z/c)$ of them for a soft cap c, and weights w:

    $$\frac{\sum_i w_i \left[D(z_i, t_i) + \lambda\,\mathrm{CE}(z_i, y_i)\right]}{\sum_i w_i}$$

    D is `divergence`, and the value and gradients are those of the dense form. Since gradients
    are formed in the forward pass, they cannot themselves be differentiated (`create_graph`).

    Args:
        hidden: The student's last hidden states h, `[units, features]`.
        weight: Its head W, `[classes, features]`; may be tied to other weights.
        targets: The teacher's answer to the same units, in any form. No gradient reaches it.
        kind: As for `divergence`, and so are `temperature`, `beta` and `normalized`.
        temperature: T, above 0.
        labels: The right classes y, `[units]`, for cross-entropy at temperature 1.
        label_weight: λ. Only with labels.
        bias: The head's b, `[classes]`.
        softcap: c, above 0.
        weights: How much each unit counts, `[units]`, none below 0. Units of weight 0 are left
            out whatever they hold, and take no time; without any weight the value is 0.
        reduction: `mean` as in the formula, or `sum`, its numerator.
        beta: The weight of the teacher in the mixture. Only for `jsd`.
        normalized: Divide by β(1−β). Only for `jsd`.
        block_bytes: How much memory a block's logits may take, both sides together; by default 32
            MiB or what the head takes, if that is more. Values do not depend on it.

    Returns:
        A scalar in nats; float32 for half precision. Gradients are summed up in float32, too.

    Raises:
        InputError: A wrong shape, type or setting; a backward pass with `create_graph`.

    Example:
        >>> import torch
        >>> from limbeck.targets import DenseTargets
        >>> targets = DenseTargets(torch.tensor([[2.0, 0.0], [0.0, 0.0]]))
        >>> hidden, weight = torch.zeros(2, 3), torch.ones(2, 3)
        >>> fused_divergence(hidden, weight, targets, temperature=1.0)
        tensor(0.1639)

    Source: the blocks as in Hsu et al. 2024 (Liger Kernel) and Wijmans et al. 2025 (Cut
    Cross-Entropy); the divergences as `divergence`.
    """
    where = "fused_divergence"
    measure = Measure.of(where, kind, temperature, beta, normalized)
    _check_head(hidden, weight, bias, softcap, block_bytes, reduction)
    check_targets(
        targets,
        units=len(hidden),
        classes=len(weight),
        measure=measure,
        where=f"{where}.targets",
    )
    units = _units(hidden, weights, reduction)
    if labels is not None:
        check_labels(labels, hidden, where=f"{where}.labels")
        heard = labels if units.chosen is None else labels[units.chosen]
        check_label_range(heard, hidden.new_empty(0, len(weight)), where=f"{where}.labels")
    work = _Work(targets, measure, labels, float(label_weight), softcap, units, block_bytes)
    apply = _opaque() if torch.compiler.is_compiling() else _apply
    return apply(hidden, weight, bias, work)


def _apply(hidden: Tensor, weight: Tensor, bias: Tensor | None, work: _Work) -> Tensor:
    total: Tensor = _Fused.apply(hidden, weight, bias, work, torch.is_grad_enabled())
    return total


@cache
def _opaque() -> Callable[..., Tensor]:
    """The same, called by compiled code: a compiler would unroll the blocks and might keep all."""
    return torch.compiler.disable(_apply)


@dataclass(frozen=True)
class _Units:
    """How much each unit counts, and which count at all (None: all)."""

    shares: Tensor
    chosen: Tensor | None

    def blocks(self, rows: int) -> Sequence[Rows]:
        """Divide the units that count."""
        if self.chosen is not None:
            return self.chosen.split(rows) if len(self.chosen) else ()
        units = len(self.shares)
        return [slice(start, min(start + rows, units)) for start in range(0, units, rows)]


@dataclass(frozen=True)
class _Work:
    """What is asked for beside the student."""

    targets: Targets
    measure: Measure
    labels: Tensor | None
    label_weight: float
    softcap: float | None
    units: _Units
    block_bytes: int | None

    def take(self, rows: Rows) -> _Work:
        """The same for some units; what counts is among them already."""
        return replace(
            self,
            targets=self.targets.take(rows),
            labels=None if self.labels is None else self.labels[rows],
            units=_Units(self.units.shares[rows], None),
        )

    def prepared(self, classes: int) -> _Work:
        """Bring a teacher's head to the classes of the student, and to the type of autocast."""
        if not isinstance(self.targets, HeadTargets):
            return self
        head = self.targets.cut(classes)
        weight = head.weight.to(product_type(head.weight))
        return replace(self, targets=replace(head, weight=weight))


class _Fused(torch.autograd.Function):
    """Value and gradients in one pass; the way back only scales them."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, work: _Work, training: bool
    ) -> Tensor:
        wanted = tuple(training and needed for needed in ctx.needs_input_grad[:3])
        head = Head(hidden, weight, bias, wanted)
        value = _run(head, work)
        ctx.save_for_backward(head.to_hidden, *head.to_weights())
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            fix = "Use divergence on logits, whose gradient can be differentiated."
            raise InputError(Problem("fused_divergence", "create_graph=True", "a plain", fix))
        # Not in place: the graph may be gone through again.
        scaled = [None if g is None else g * gradient.to(g.dtype) for g in ctx.saved_tensors]
        return *scaled, None, None


def _run(head: Head, work: _Work) -> Tensor:
    """Go through the blocks; gradients gather in the head, the weighted sum is given back."""
    work, shares = work.prepared(len(head.weight)), work.units.shares
    with without_autocast(head.hidden):
        values = torch.zeros_like(shares)
        for rows in work.units.blocks(_block_rows(head, work)):
            logits = head.logits(rows, work.softcap)
            values[rows] = _block(logits, work.take(rows), head.trains)
            if head.trains:
                head.add(rows, logits)
        return (values * shares).sum()


def _block(logits: Tensor, work: _Work, trains: bool) -> Tensor:
    """Give a block's values, and leave the weighted gradient where the logits were."""
    values = []
    for rows in row_blocks(len(logits), logits.shape[1], logits.device):
        part, ours = work.take(rows), logits[rows]
        value, slope = _rows(ours, part, trains)
        values.append(value)
        if slope is None:
            continue
        if work.softcap is not None:
            slope = slope * (1 - (ours / work.softcap).square())
        factor = part.units.shares * work.measure.temperature
        torch.mul(slope, factor.unsqueeze(1), out=ours)
    return torch.cat(values)


def _rows(logits: Tensor, work: _Work, trains: bool) -> tuple[Tensor, Tensor | None]:
    """Value and slope of a few rows: of the divergence, and of cross-entropy if there are labels.

    The gradient is T times the slope, as `closed_form` says.
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
    assert isinstance(targets, DenseTargets)  # a head became logits with the block
    classes = min(logits.shape[1], targets.classes)
    theirs = precise(targets.logits[:, :classes].detach()).to(logits.dtype)
    form = _compiled() if logits.is_cuda else closed_form
    return form(logits[:, :classes], theirs, measure, slope=trains)


@cache
def _compiled() -> Any:
    """The row function as one kernel; a processor has its caches instead. Not measured yet."""
    return torch.compile(closed_form, dynamic=True)


def _units(hidden: Tensor, weights: Tensor | None, reduction: Reduction) -> _Units:
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    units = len(hidden)
    if weights is None:
        share = 1.0 if reduction == "sum" else 1.0 / max(units, 1)
        return _Units(torch.full((units,), share, dtype=dtype, device=hidden.device), None)
    if weights.shape != (units,) or weights.is_complex():
        given = f"{weights.dtype} {tuple(weights.shape)}"
        raise InputError(
            Problem("fused_divergence.weights", given, f"one weight a unit, [{units}]")
        )
    weights = weights.detach().to(dtype)
    if weights.device.type == "cpu" and bool((weights < 0).any()):
        lowest = weights.min().item()
        raise InputError(Problem("fused_divergence.weights", lowest, "no weight below 0"))
    chosen = weights.nonzero().squeeze(1)  # the one look at the device before all is done
    if reduction == "mean":
        weights = weights / weights.sum().clamp_min(torch.finfo(dtype).tiny)
    return _Units(weights, None if len(chosen) == units else chosen)


def _block_rows(head: Head, work: _Work) -> int:
    """How many units' logits fit into the budget."""
    weight = head.weight
    budget = work.block_bytes or max(_LEAST, weight.numel() * weight.element_size())
    theirs = work.targets.classes if isinstance(work.targets, HeadTargets) else 0
    return max(1, budget // (4 * (len(weight) + theirs)))


def _check_head(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    softcap: object,
    block_bytes: object,
    reduction: object,
) -> None:
    where = "fused_divergence"
    problems = list(head_problems(where, hidden, weight, bias))
    if not problems and product_type(hidden) != product_type(weight):
        fix = "Convert one of them, or use autocast."
        problems.append(Problem(f"{where}.weight", str(weight.dtype), str(hidden.dtype), fix))
    if softcap is not None and not _is_above_0(softcap):
        problems.append(Problem(f"{where}.softcap", softcap, "a finite number above 0, or None"))
    if block_bytes is not None and not (_is_above_0(block_bytes) and isinstance(block_bytes, int)):
        problems.append(Problem(f"{where}.block_bytes", block_bytes, "a whole number above 0"))
    if reduction not in (known := get_args(Reduction)):
        fix = did_you_mean(reduction, known)
        problems.append(Problem(f"{where}.reduction", reduction, ", ".join(known), fix))
    if problems:
        raise InputError(*problems)


def _is_above_0(given: object) -> bool:
    number = isinstance(given, int | float) and not isinstance(given, bool)
    return number and 0 < given < float("inf")  # type: ignore[operator]
