"""Preparation of a scheme's modules for training, undone at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from limbeck.training.synchronized_norm import Channel, synchronized

if TYPE_CHECKING:
    from accelerate import Accelerator

    from limbeck.schemes import Scheme


@contextmanager
def prepared(scheme: Scheme, *, compiles: bool, accelerator: Accelerator) -> Iterator[Channel]:
    """Move the modules to the device with equal weights in every process; restore them at the end.

    Args:
        scheme: The scheme.
        compiles: Whether the student is compiled.
        accelerator: The device and the processes.

    Yields:
        The channel that synchronises the batch normalisations of all processes.
    """
    modules = list(scheme.modules_to_save().values())
    with ExitStack() as undo:
        for module in modules:
            undo.callback(module.to, _device(module))
            module.to(accelerator.device)
        channel = Channel()
        if accelerator.num_processes > 1:
            _share(modules, accelerator)
            channel = undo.enter_context(synchronized(*modules))
        if compiles:
            # A wrapper, not a module compiled in place: only inside the former can taps capture
            # outputs.
            undo.callback(setattr, scheme, "student", scheme.student)
            scheme.student = cast("nn.Module", torch.compile(scheme.student))
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
