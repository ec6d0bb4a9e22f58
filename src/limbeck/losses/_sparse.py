"""Divergence from top-k or sampled classes of a teacher.

Both need few of the student's logits (`picked`) and one number for all others (`rest`, a
logsumexp). Tensors of the size of the vocabulary are computed a block of rows at a time, and again
in backward.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from limbeck.core.tensors import precise
from limbeck.losses._inputs import not_negative
from limbeck.losses._kinds import RULED_OUT, Measure, closed_form, log_mixture
from limbeck.losses._maps import dense, is_plain, over_copies, row_blocks, widened
from limbeck.targets import DenseTargets, SampledTargets, TopKTargets

_SATURATED = 60.0  # a class with q above exp(60) times p is not sampled


def top_k(student: Tensor, targets: TopKTargets, measure: Measure) -> Tensor:
    """Compute the divergence over top-k classes, with or without the tail as one class."""
    classes = min(student.shape[1], targets.classes)
    ours = _pick(student, targets.ids, classes, 1.0, _mode(targets))
    return dense(ours, DenseTargets(_likeliest(targets, classes)), measure)


def sampled(student: Tensor, targets: SampledTargets, measure: Measure) -> Tensor:
    """Compute an unbiased estimate of the divergence from sampled classes."""
    classes = min(student.shape[1], targets.classes or student.shape[1])
    logs = _pick(student, targets.ids, classes, measure.temperature, "all")
    return estimate(logs, targets, measure)


def rows_of_top_k(
    student: Tensor, targets: TopKTargets, measure: Measure, *, slope: bool
) -> tuple[Tensor, Tensor | None]:
    """Compute value and optionally slope of a few rows, as `closed_form`."""
    ids, mode = targets.ids.long(), _mode(targets)
    ours = _picked(student, ids, 1.0, mode)
    theirs = _likeliest(targets, student.shape[1]).to(ours.dtype)
    value, found = closed_form(ours, theirs, measure, slope=slope)
    return value, None if found is None else _spread(student, ids, ours, found, 1.0, mode)


def rows_of_sample(
    student: Tensor, targets: SampledTargets, measure: Measure, *, slope: bool
) -> tuple[Tensor, Tensor | None]:
    """Compute value and optionally slope of a few rows, as `closed_form`."""
    ids = targets.ids.long()
    logs = _picked(student, ids, measure.temperature, "all")
    ratio, share = _shared(logs, targets)
    value = _weighed(ratio, share, measure)
    if not slope:
        return value, None
    steep = share * _steepness(ratio, measure) * measure.temperature
    found = torch.cat([steep, -steep.sum(1, keepdim=True)], dim=1)
    return value, _spread(student, ids, logs, found, measure.temperature, "all")


def estimate(picked: Tensor, targets: SampledTargets, measure: Measure) -> Tensor:
    """Estimate T²·Σ p̂·f(q/p) from logits of the sampled classes and their normaliser.

    Every kind is the expectation, over the teacher's distribution, of an f of the ratio r = q/p.
    For `jsd` and `tvd` f is never negative; for `reverse_kl` it is r·log r − r + 1, where the
    control variate r − 1 has mean 0 and removes most of the variance. `forward_kl` is −log r
    without r − 1: its gradient is T·(q − p̂), which is bounded, while that of r is not for a class
    with q much larger than p; and it is unbiased also for a teacher with logits of -inf, which are
    never sampled.
    """
    return _weighed(*_shared(picked, targets), measure)


def _weighed(ratio: Tensor, share: Tensor, measure: Measure) -> Tensor:
    return (share * _excess(ratio, measure)).sum(-1) * measure.temperature**2


def _shared(picked: Tensor, targets: SampledTargets) -> tuple[Tensor, Tensor]:
    """Return log q/p of each sampled class, and its weight p̂ in the mean."""
    log_q = picked[:, :-1] - picked[:, -1:].clamp_min(RULED_OUT)
    log_p = precise(targets.log_probabilities.detach()).to(log_q.dtype)
    counts = targets.counts.to(log_q.dtype)
    share = counts / counts.sum(-1, keepdim=True).clamp_min(1)
    if targets.log_proposal is not None:
        proposal = precise(targets.log_proposal.detach()).to(log_q.dtype)
        share = share * (log_p - proposal).masked_fill(counts == 0, 0).exp()
    ratio = log_q - log_p
    # Classes that the student rules out are excluded, as are padding classes.
    unheard = (ratio.abs() == math.inf) | (counts == 0)
    ratio, share = ratio.masked_fill(unheard, 0), share.masked_fill(unheard, 0)
    return ratio, share


def _excess(ratio: Tensor, measure: Measure) -> Tensor:
    """Compute f of q/p, given the ratio's logarithm."""
    if measure.kind == "forward_kl":
        return -ratio
    near = ratio.clamp_max(_SATURATED)
    if measure.kind == "reverse_kl":
        return not_negative(near * near.exp() - near.expm1())
    if measure.kind == "tvd":
        return near.expm1().abs() / 2
    beta = measure.beta
    to_p, to_q = -log_mixture(near, 1 - beta), -log_mixture(-near, beta)
    scale = beta * (1 - beta) if measure.normalized else 1.0
    return not_negative((beta * to_p + (1 - beta) * near.exp() * to_q) / scale)


def _steepness(ratio: Tensor, measure: Measure) -> Tensor:
    """Compute the derivative of `_excess` with respect to the ratio's logarithm."""
    if measure.kind == "forward_kl":
        return torch.full_like(ratio, -1.0)
    near = ratio.clamp_max(_SATURATED)
    slope = near.exp().masked_fill(ratio > _SATURATED, 0)
    if measure.kind == "reverse_kl":
        return slope * near
    if measure.kind == "tvd":
        return slope * near.sign() / 2
    beta = measure.beta
    scale = beta if measure.normalized else 1 / (1 - beta)
    return -slope * log_mixture(-near, beta) / scale


def _mode(targets: TopKTargets) -> str:
    """Return the treatment of the other classes: `others` as one class, or `none`."""
    tail = targets.tail == "bucket" and targets.ids.shape[1] < targets.classes
    return "others" if tail else "none"


def _likeliest(targets: TopKTargets, classes: int) -> Tensor:
    """Return the teacher's log-probabilities, with a floor for classes that the student lacks."""
    logs = precise(targets.log_probabilities.detach())
    kept = logs.masked_fill(targets.ids >= classes, -math.inf)
    if _mode(targets) == "none":
        return kept
    if targets.log_tail is not None:
        tail = targets.log_tail.detach().to(logs.dtype)
    else:  # a tail below rounding is not zero: the other classes exist
        missing = -logs.logsumexp(-1).clamp_max(0).expm1()
        tail = missing.clamp_min(torch.finfo(logs.dtype).eps).log()
    return torch.cat([kept, tail.unsqueeze(1)], dim=1)


def _pick(student: Tensor, ids: Tensor, classes: int, temperature: float, mode: str) -> Tensor:
    if is_plain(len(student) * classes):
        return _picked(precise(student[:, :classes]), ids.long(), temperature, mode)
    logits: Tensor = _Pick.apply(student, ids.long(), classes, temperature, mode)
    return logits


class _Pick(torch.autograd.Function):
    """The logits of some classes, and in one more column the logsumexp over the rest.

    The backward pass is itself differentiable.
    """

    @staticmethod
    def forward(
        student: Tensor, ids: Tensor, classes: int, temperature: float, mode: str
    ) -> Tensor:
        common = student[:, :classes]
        return torch.cat(
            [
                _picked(precise(common[rows]), ids[rows], temperature, mode)
                for rows in _row_blocks(student, classes)
            ]
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        student, ids, ctx.classes, *ctx.settings = inputs
        ctx.save_for_backward(student, ids, output)
        ctx.save_for_forward(student, ids, output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        student, ids, picked = ctx.saved_tensors
        result = None if torch.is_grad_enabled() else _gradient(ctx, gradient)
        if result is None:  # double backward, or batched gradients
            common = precise(student[:, : ctx.classes])
            whole = _spread(common, ids, picked, gradient, *ctx.settings)
            result = widened(whole, student.shape[1]).to(student.dtype)
        return result, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *others: Tensor | None) -> Tensor:
        student, ids, picked = ctx.saved_tensors
        found = []
        for rows in _row_blocks(student, ctx.classes):
            ours, change = (precise(side[rows, : ctx.classes]) for side in (student, tangent))
            found.append(_changed(ours, ids[rows], picked[rows], change, *ctx.settings))
        return torch.cat(found)

    @staticmethod
    def vmap(info: Any, dims: tuple[int | None, ...], *inputs: Any) -> tuple[Tensor, int]:
        return over_copies(_Pick.apply, info.batch_size, dims, inputs), 0


def _gradient(ctx: Any, gradient: Tensor) -> Tensor | None:
    """Compute the gradient block by block; None for batched gradients, as in `vmap`."""
    student, ids, picked = ctx.saved_tensors
    result = student.new_empty(student.shape)
    result[:, ctx.classes :] = 0
    try:
        for rows in _row_blocks(student, ctx.classes):
            ours = precise(student[rows, : ctx.classes])
            whole = _spread(ours, ids[rows], picked[rows], gradient[rows], *ctx.settings)
            result[rows, : ctx.classes] = whole
    except RuntimeError:
        return None
    return result


def _row_blocks(student: Tensor, classes: int) -> list[slice]:
    return row_blocks(len(student), classes, student.device) or [slice(0, 0)]


def _picked(logits: Tensor, ids: Tensor, temperature: float, mode: str) -> Tensor:
    """Return `[rows, k]`, or `[rows, k + 1]` with the logsumexp over `all` or the `others`."""
    lacking = ids >= logits.shape[1]
    chosen = logits.gather(1, ids.masked_fill(lacking, 0)) / temperature
    chosen = chosen.masked_fill(lacking, -math.inf)
    if mode == "none":
        return chosen
    summed = logits if temperature == 1 else logits / temperature
    if mode == "others":
        summed = summed.masked_fill(_listed(logits, ids), -math.inf)
    # For an empty rest the sum is 0; the derivative of its logarithm would not be finite.
    nothing = (summed == -math.inf).all(-1, keepdim=True)
    rest = summed.masked_fill(nothing, 0).logsumexp(-1, keepdim=True)
    return torch.cat([chosen, rest.masked_fill(nothing, -math.inf)], dim=1)


def _spread(
    logits: Tensor, ids: Tensor, picked: Tensor, gradient: Tensor, temperature: float, mode: str
) -> Tensor:
    """Convert a gradient of the picked values to one of all logits."""
    lacking = ids >= logits.shape[1]
    direct = gradient[:, : ids.shape[1]].masked_fill(lacking, 0)
    if mode == "none":
        whole = torch.zeros_like(logits)
    else:
        whole = _shares(logits, ids, picked, temperature, mode) * gradient[:, -1:]
    whole = whole.scatter_add(1, ids.masked_fill(lacking, 0), direct)
    return whole if temperature == 1 else whole / temperature


def _changed(
    logits: Tensor, ids: Tensor, picked: Tensor, tangent: Tensor, temperature: float, mode: str
) -> Tensor:
    """Convert a tangent of all logits to one of the picked values."""
    lacking = ids >= logits.shape[1]
    direct = tangent.gather(1, ids.masked_fill(lacking, 0)).masked_fill(lacking, 0)
    if mode != "none":
        shares = _shares(logits, ids, picked, temperature, mode)
        direct = torch.cat([direct, (shares * tangent).sum(1, keepdim=True)], dim=1)
    return direct / temperature


def _shares(logits: Tensor, ids: Tensor, picked: Tensor, temperature: float, mode: str) -> Tensor:
    """Return the share of each class in the sum of the last column."""
    rest = picked[:, -1:]
    rest = rest.masked_fill(rest == -math.inf, 0)
    scaled = logits if temperature == 1 else logits / temperature
    whole = (scaled - rest).exp()
    return whole.masked_fill(_listed(logits, ids), 0) if mode == "others" else whole


def _listed(logits: Tensor, ids: Tensor) -> Tensor:
    """Return the mask of `[rows, classes]` for the ids; ids beyond the classes are ignored."""
    classes = logits.shape[1]
    marked = torch.zeros(len(ids), classes + 1, dtype=torch.bool, device=ids.device)
    return marked.scatter(1, ids.clamp_max(classes), True)[:, :classes]
