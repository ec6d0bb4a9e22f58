"""Batch normalisation whose statistics are those of the whole batch over all processes.

Torch's own `SyncBatchNorm` runs on GPUs only; this one runs wherever `torch.distributed` does, so
that two processes train as one does with the same global batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm

from limbeck.errors import InputError, LimbeckError, Problem

PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class SynchronizedBatchNorm(_BatchNorm):
    """Normalise by mean and variance over every process's samples; in evaluation mode, as ever."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Accept any number of axes after the channels."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise `[n, channels, ...]` per channel.

        Raises:
            LimbeckError: All processes together have one value a channel, which has no variance.
        """
        # Without running statistics a batch is normalised by its own, in evaluation mode too.
        if not self.training and self.running_mean is not None:
            return super().forward(input)
        inputs = input if input.dtype == torch.float64 else input.float()
        dimensions = [axis for axis in range(inputs.dim()) if axis != 1]
        shape = [1, -1] + [1] * (inputs.dim() - 2)
        own = inputs.numel() // inputs.shape[1]
        sums = all_reduce(torch.cat([inputs.sum(dimensions), inputs.new_tensor([own])]))
        count = sums[-1].detach()
        if own < 2 and count < 2:
            raise LimbeckError("batch normalisation: one value a channel has no variance.")
        # Mean first: a variance from sums of squares loses its digits when the mean is large.
        mean = sums[:-1] / count
        centred = inputs - mean.view(shape)
        variance = all_reduce(centred.square().sum(dimensions)) / count
        if self.training:
            self._track(mean.detach(), variance.detach() * (count / (count - 1)))
        outputs = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            outputs = outputs * self.weight.view(shape) + self.bias.view(shape)
        return outputs.to(input.dtype)

    def _track(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        momentum = self.momentum
        if momentum is None:
            momentum = 1 / float(self.num_batches_tracked or 1)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), momentum)


@contextmanager
def synchronized(model: nn.Module) -> Iterator[None]:
    """Put synchronised twins in the places of every batch normalisation; take them out at the end.

    Parameters, buffers and their names stay: the twins hold the very same ones.

    Raises:
        InputError: The model holds a kind of batch normalisation that cannot be synchronised.
    """
    places = [
        (path, module)
        for path, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, _BatchNorm) and not isinstance(module, SynchronizedBatchNorm)
    ]
    _refuse_others(places)
    twins = {norm: _twin(norm) for _, norm in places}
    for path, norm in places:
        _put(model, path, twins[norm])
    try:
        yield
    finally:
        for path, norm in places:
            norm.train(twins[norm].training)
            _put(model, path, norm)


def _refuse_others(places: list[tuple[str, _BatchNorm]]) -> None:
    problems = [
        Problem(
            path or "the model itself",
            type(norm).__name__,
            "nn.BatchNorm1d, 2d or 3d inside a model",
            "Train in one process.",
        )
        for path, norm in places
        if type(norm) not in PLAIN or not path
    ]
    if problems:
        raise InputError(*problems)


def _put(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def _twin(norm: _BatchNorm) -> SynchronizedBatchNorm:
    twin = SynchronizedBatchNorm(
        norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats
    )
    # The same parameters and buffers, not copies: an optimiser may hold them already.
    twin._parameters, twin._buffers, twin.training = norm._parameters, norm._buffers, norm.training
    return twin
