"""Preparation of a scheme's modules for training, undone at the end."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from limbeck.errors import InputError, LimbeckError, Problem
from limbeck.training.settings import Training
from limbeck.training.sharding import check_strategy, is_sharded, sharded

if TYPE_CHECKING:
    from accelerate import Accelerator

    from limbeck.schemes.scheme import Scheme


@contextmanager
def prepared(scheme: Scheme, *, settings: Training, accelerator: Accelerator) -> Iterator[Channel]:
    """Move the modules to the device with equal weights in every process; restore them at the end.

    Under FSDP2 the students are sharded as Accelerate prepares them. Data parallelism does not
    wrap models in DistributedDataParallel, as `accelerator.prepare` does: that reduces the
    gradients of one `forward` of one module in a fixed order, and waits for ever for a process
    whose branch of the model differs. A scheme may run several modules, twice or in parts, without
    a gradient or through forward hooks, and its loss is a sum over all processes, not a mean.

    Args:
        scheme: The scheme.
        settings: The training settings.
        accelerator: The device and the processes.

    Yields:
        The channel that synchronises the batch normalisations of all processes.

    Raises:
        InputError: The accelerator's distribution is not supported, or not with a setting.
    """
    check_strategy(accelerator, settings, scheme)
    modules = dict(scheme.modules_to_save())
    with ExitStack() as undo:
        for module in modules.values():
            undo.callback(module.to, _device(module))
            module.to(accelerator.device)
        channel = Channel()
        if accelerator.num_processes > 1:
            _share(list(modules.values()), accelerator)
            copies: dict[str, nn.Module] = {}
            if is_sharded(accelerator):
                copies = copy.deepcopy(dict(scheme.students))
            channel = undo.enter_context(synchronized(*(modules | copies).values()))
            if copies:
                undo.enter_context(sharded(scheme, copies, accelerator))
                channel.fails = True
        if settings.compile:
            # A wrapper, not a module compiled in place: only inside the former can taps capture
            # outputs.
            for name, student in scheme.students.items():
                undo.callback(setattr, scheme, name, student)
                setattr(scheme, name, torch.compile(student))
        yield channel


def _device(module: nn.Module) -> torch.device:
    tensor = next(iter((*module.parameters(), *module.buffers())), None)
    return torch.device("cpu") if tensor is None else tensor.device


def _share(modules: list[nn.Module], accelerator: Accelerator) -> None:
    """Broadcast the main process's weights, and seed each process differently."""
    from accelerate.utils import broadcast

    for module in modules:
        for tensor in module.state_dict().values():
            broadcast(tensor)
    # With one seed for all, dropout masks would be equal in every process.
    torch.manual_seed(torch.initial_seed() + accelerator.process_index)


PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class DivergedError(LimbeckError):
    """Different branches of a model in different processes."""


class Channel:
    """The messages of all batch normalisations of a training, all of one length.

    Attributes:
        norms: The layers; a message contains the index of its layer.
        local: Whether each process normalises by its own samples, because branches differ.
        fails: Whether differing branches end the training, since models are sharded.
    """

    def __init__(self) -> None:
        self.norms: list[SynchronizedBatchNorm] = []
        self.local = self.fails = False

    def sum(self, values: Tensor, norm: SynchronizedBatchNorm) -> Tensor:
        """Sum values over the processes, forward and backward.

        Raises:
            DivergedError: Processes are at different layers.
        """
        total: Tensor = _Sum.apply(values, self, 1 + self.norms.index(norm))
        return total

    def end_step(self, device: torch.device) -> None:
        """Check that every process is at the end of a step; average statistics of local layers.

        Raises:
            DivergedError: Another process is still in the model's forward pass.
        """
        if not self.norms:
            return
        if not self.local:
            self.exchange(torch.zeros(0, device=device), 0)
            return
        buffers = [b for norm in self.norms for b in (norm.running_mean, norm.running_var)]
        statistics = [buffer for buffer in buffers if buffer is not None]
        counts = [n.num_batches_tracked for n in self.norms if n.num_batches_tracked is not None]
        if statistics:
            flat = torch.cat([buffer.flatten().float() for buffer in statistics])
            dist.all_reduce(flat)
            parts = (flat / dist.get_world_size()).split([one.numel() for one in statistics])
            for buffer, part in zip(statistics, parts, strict=True):
                buffer.copy_(part.view_as(buffer))
        if counts:
            largest = torch.stack(counts)
            dist.all_reduce(largest, op=dist.ReduceOp.MAX)
            for count, value in zip(counts, largest, strict=True):
                count.copy_(value)

    def exchange(self, values: Tensor, name: int) -> Tensor:
        """Sum a message over the processes, and check that all sent the same layer index."""
        length = max(norm.num_features for norm in self.norms) + 1
        message = values.new_zeros(length + 2, dtype=torch.float64)
        message[: values.numel()] = values
        message[length], message[length + 1] = name, name * name
        dist.all_reduce(message)
        count = dist.get_world_size()
        # Equal to the mean and to the mean square: all indices are equal.
        if message[length:].tolist() != [count * name, count * name * name]:
            raise DivergedError("batch normalisation: the processes took different branches.")
        return message[: values.numel()].to(values.dtype)


class _Sum(torch.autograd.Function):
    """A sum over processes; the gradient is summed too, with the negative index."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, channel: Channel, name: int) -> Tensor:
        ctx.channel, ctx.name = channel, name
        return channel.exchange(values, name)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        return ctx.channel.exchange(gradient, -ctx.name), None, None


class SynchronizedBatchNorm(_BatchNorm):
    """Batch normalisation by the samples of all processes; unchanged in evaluation mode.

    `torch.nn.SyncBatchNorm` runs on GPUs only, and deadlocks if processes take different branches.
    """

    channel: Channel

    def _check_input_dim(self, input: Tensor) -> None:
        """Accept any number of dimensions after the channels."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise `[n, channels, ...]` per channel.

        Raises:
            LimbeckError: All processes together have one value per channel, which has no variance.
        """
        # Without running statistics, evaluation mode uses batch statistics too.
        if not self.training and self.running_mean is not None:
            return super().forward(input)
        if self.channel.local:
            return self._forward_alone(input)
        inputs = input if input.dtype == torch.float64 else input.float()
        dimensions = [axis for axis in range(inputs.dim()) if axis != 1]
        shape = [1, -1] + [1] * (inputs.dim() - 2)
        own = inputs.numel() // inputs.shape[1]
        sums = self._sum(torch.cat([inputs.sum(dimensions), inputs.new_tensor([own])]))
        count = sums[-1].detach()
        if own < 2 and count < 2:
            raise LimbeckError("batch normalisation: one value a channel has no variance.")
        # Mean first: a variance from sums of squares loses digits if the mean is large.
        mean = sums[:-1] / count
        centred = inputs - mean.view(shape)
        variance = self._sum(centred.square().sum(dimensions)) / count
        if self.training:
            self._track(mean.detach(), variance.detach() * (count / (count - 1)))
        outputs = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            outputs = outputs * self.weight.view(shape) + self.bias.view(shape)
        return outputs.to(input.dtype)

    def _sum(self, values: Tensor) -> Tensor:
        return self.channel.sum(values, self)

    def _forward_alone(self, input: Tensor) -> Tensor:
        """Normalise by this process's samples, or by the running statistics if it has one value."""
        if input.numel() > input.shape[1]:
            return super().forward(input)
        if self.running_mean is None:
            raise LimbeckError("batch normalisation: one value a channel has no variance.")
        return F.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )

    def _track(self, mean: Tensor, variance: Tensor) -> None:
        if not self.track_running_stats or self.running_mean is None or self.running_var is None:
            return
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        momentum = self.momentum
        if momentum is None:
            momentum = 1 / float(self.num_batches_tracked or 1)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), momentum)


@contextmanager
def synchronized(*models: nn.Module) -> Iterator[Channel]:
    """Replace every batch normalisation by a synchronised layer; undo it at the end.

    The new layers share the parameters and buffers, under the same names.

    Raises:
        InputError: A model has a type of batch normalisation that cannot be synchronised.
    """
    places = [
        (model, path, module)
        for model in models
        for path, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, _BatchNorm) and not isinstance(module, SynchronizedBatchNorm)
    ]
    _refuse_others([(path, norm) for _, path, norm in places])
    channel = Channel()
    # Processes do not exchange values in a compiled graph. The compiler takes a second to import.
    channel.sum = torch.compiler.disable(channel.sum)  # type: ignore[method-assign]
    replacements = {norm: _replacement(norm, channel) for _, _, norm in places}
    channel.norms += replacements.values()
    for model, path, norm in places:
        _put(model, path, replacements[norm])
    try:
        yield channel
    finally:
        for model, path, norm in places:
            norm.train(replacements[norm].training)
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


def _replacement(norm: _BatchNorm, channel: Channel) -> SynchronizedBatchNorm:
    new = SynchronizedBatchNorm(
        norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats
    )
    # The same parameters and buffers, not copies: an optimiser may already hold them.
    new._parameters, new._buffers, new.training = norm._parameters, norm._buffers, norm.training
    new.channel = channel
    return new
