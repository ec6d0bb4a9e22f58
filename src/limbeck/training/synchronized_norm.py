"""Batch normalisation whose statistics are those of the whole batch, however many processes share it.

Torch's own `SyncBatchNorm` runs on GPUs only; this one runs wherever `torch.distributed` does, so that two
processes train as one does with the same global batch.
"""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm

from limbeck.errors import InputError, Problem

PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class SynchronizedBatchNorm(_BatchNorm):
    """Normalise by the mean and variance over every process's samples; in evaluation mode, as ever."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Accept any number of axes after the channels."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise `[n, channels, ...]` per channel."""
        if not self.training:
            return super().forward(input)
        inputs = input.float()
        dimensions = [axis for axis in range(inputs.dim()) if axis != 1]
        shape = [1, -1] + [1] * (inputs.dim() - 2)
        count = inputs.new_tensor([inputs.numel() / inputs.shape[1]])
        dist.all_reduce(count)
        # Two passes, mean first: a variance from sums of squares loses its digits when the mean is large.
        mean = all_reduce(inputs.sum(dimensions)) / count
        centred = inputs - mean.view(shape)
        variance = all_reduce(centred.square().sum(dimensions)) / count
        self._track(mean.detach(), (variance * count / (count - 1)).detach())
        outputs = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            outputs = outputs * self.weight.view(shape) + self.bias.view(shape)
        return outputs.to(input.dtype)

    def _track(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        momentum = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance, momentum)


def synchronize(model: nn.Module) -> None:
    """Replace every batch normalisation in place; parameters, buffers and their names stay.

    Raises:
        InputError: The model holds a kind of batch normalisation that cannot be synchronised.
    """
    for path, module in list(model.named_modules()):
        if not isinstance(module, _BatchNorm) or isinstance(module, SynchronizedBatchNorm):
            continue
        if type(module) not in PLAIN:
            raise InputError(
                Problem(path, type(module).__name__, "nn.BatchNorm1d, 2d or 3d", "Train in one process.")
            )
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, _synchronized(module))


def _synchronized(norm: _BatchNorm) -> SynchronizedBatchNorm:
    twin = SynchronizedBatchNorm(
        norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats
    )
    # The same parameters and buffers, not copies: an optimiser may hold them already.
    twin._parameters, twin._buffers, twin.training = norm._parameters, norm._buffers, norm.training
    return twin
