"""Gradient balancing: term weights that equalise gradient norms (after GradNorm)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from limbeck.errors import InputError, Problem

_KEPT = 0.9  # the momentum of the weights: one batch is a noisy estimate
_EVERY = 50


class Balance(nn.Module):
    r"""The automatic weights of terms with `auto`, by gradient balancing.

    $$w_k \leftarrow w_k^{0.9} \left( \frac{r}{\|\nabla L_k\|} \right)^{0.1}, \qquad
    r = \frac1m \sum_{j \text{ with a weight}} w_j \|\nabla L_j\|$$

    with norms over the student's parameters, measured at intervals; the first measurement sets the
    weight (exponents 0 and 1), and each applies from the next optimiser step on, so that all
    micro-batches of a step have equal weights. If no term has its own weight, r is the mean of the
    norms.

    Args:
        names: The terms with `auto`.
        every: The interval in optimiser steps; 0 is 50 if there are such terms, else never.

    Attributes:
        names: The terms with `auto`.

    Source: after Chen et al. 2018 (GradNorm).
    """

    scales: Tensor
    pending: Tensor
    steps: Tensor
    progress: Tensor

    def __init__(self, names: Iterable[str], *, every: int = 0) -> None:
        super().__init__()
        self.names = tuple(names)
        self._every = every or (_EVERY if self.names else 0)
        ones = torch.ones(len(self.names), dtype=torch.float64)
        self.register_buffer("scales", ones)
        self.register_buffer("pending", ones.clone())
        self.register_buffer("steps", torch.tensor(0))
        self.register_buffer("progress", torch.tensor(-1.0, dtype=torch.float64))

    @property
    def measures(self) -> bool:
        """Return whether gradient norms are ever measured."""
        return bool(self._every)

    def weight(self, name: str) -> float:
        """Return the current weight of a term with `auto`."""
        return float(self.scales[self.names.index(name)])

    @torch.no_grad()
    def is_due(self, progress: float) -> bool:
        """Return whether to measure in this optimiser step; a new step applies the last weights."""
        if not self._every:
            return False
        if progress != float(self.progress):  # another step, not another micro-batch of it
            self.progress.fill_(progress)
            self.steps += 1
            self.scales.copy_(self.pending)
        return (int(self.steps) - 1) % self._every == 0

    @torch.no_grad()
    def update(self, norms: Mapping[str, Tensor], weights: Mapping[str, float]) -> None:
        """Update the weights towards equal gradient norms.

        Args:
            norms: Each term's raw gradient norm.
            weights: The weights of the other terms.
        """
        if not self.names:
            return
        found = _over_processes(torch.stack([norms[name].double() for name in norms]))
        by_name = dict(zip(norms, found.to(self.scales.device), strict=True))
        fixed = [by_name[name] * weight for name, weight in weights.items() if weight]
        measured = torch.stack([by_name[name] for name in self.names])
        reference = torch.stack(fixed).mean() if fixed else measured.mean()
        targets = reference / measured
        # A term without a gradient, or without others that have one, keeps its weight.
        targets = torch.where(targets.isfinite() & (targets > 0), targets, self.scales)
        kept = 0.0 if int(self.steps) <= 1 else _KEPT
        self.pending.copy_(self.scales**kept * targets ** (1 - kept))


def gradient_norms(
    values: Mapping[str, Tensor], parameters: Sequence[nn.Parameter]
) -> dict[str, Tensor]:
    """Compute the gradient norm of each value for some parameters; costs a backward pass each.

    Raises:
        InputError: The parameters are sharded.

    Example:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> norms = gradient_norms({"double": layer.weight.sum() * 2}, [layer.weight])
        >>> norms["double"]
        tensor(2.)
    """
    from torch.distributed.tensor import DTensor

    if any(isinstance(one, DTensor) for one in parameters):  # FSDP2 computes with other tensors
        given, allowed = "gradient norms of sharded parameters", "fixed weights, with FSDP2"
        fix = "Remove `weight: auto` and `grad_norm_every`."
        raise InputError(Problem("objective", given, allowed, fix))
    norms = {}
    for name, value in values.items():
        if not value.requires_grad:
            norms[name] = value.new_zeros(())
            continue
        found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        squares = [one.float().square().sum() for one in found if one is not None]
        norms[name] = torch.stack(squares).sum().sqrt() if squares else value.new_zeros(())
    return norms


def _over_processes(norms: Tensor) -> Tensor:
    """Average over processes, so that weights are equal in all of them."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return norms
    torch.distributed.all_reduce(norms)
    return norms / torch.distributed.get_world_size()
