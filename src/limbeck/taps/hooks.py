"""Forward hooks on uncompiled modules, including activation checkpointing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointFunction

from limbeck.errors import InputError, Problem
from limbeck.taps.paths import Side
from limbeck.taps.record import Record, Source, first_tensor

Hear: TypeAlias = Callable[[object], None]
Remove: TypeAlias = Callable[[], None]


def listen(source: Source, record: Record) -> Remove:
    """Record the tensors of a source; return a function that ends it."""
    with_gradient = torch.is_grad_enabled()

    def hear(said: object) -> None:
        # Checkpointing runs the module again in the backward pass, with known outputs.
        if torch._C._current_graph_task_id() != -1:
            return
        tensor = first_tensor(said)
        if tensor is None:
            raise InputError(_no_tensor(source, said))
        if with_gradient and not torch.is_grad_enabled() and in_reentrant_checkpoint():
            raise InputError(no_gradient(source))
        record.add(source, tensor)

    return attach(source, hear)


def attach(source: Source, hear: Hear) -> Remove:
    """Call a function with the tensors of a source; return a function that ends it."""
    if source.module._compiled_call_impl is not None:
        return _around(source, hear)
    return register(source, hook(source.side, hear))


def hook(side: Side, hear: Hear) -> Callable[..., None]:
    """Return the hook that calls a function with a module's output or input."""
    if side == "output":

        def after(module: nn.Module, inputs: Any, output: Any) -> None:
            hear(output)

        return after

    def before(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        hear((*inputs, named))

    return before


def register(source: Source, made: Callable[..., None]) -> Remove:
    """Register a hook on a source's module; return a function that removes it."""
    if source.side == "output":
        return source.module.register_forward_hook(made).remove
    return source.module.register_forward_pre_hook(made, with_kwargs=True).remove


def _around(source: Source, hear: Hear) -> Remove:
    """Capture outside of a module compiled in place: its graph may contain its hooks."""
    module = source.module
    own = module._compiled_call_impl
    if own is None:
        raise ValueError("the module is not compiled")

    def call(*args: Any, **named: Any) -> Any:
        if source.side == "input":
            hear((*args, named))
        output = own(*args, **named)
        if source.side == "output":
            hear(output)
        return output

    module._compiled_call_impl = call

    def remove() -> None:
        module._compiled_call_impl = own

    return remove


def in_reentrant_checkpoint() -> bool:
    """Return whether reentrant checkpointing runs the module, which has no gradient."""
    code = CheckpointFunction.forward.__code__
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code is code:
            return True
    return False


def _no_tensor(source: Source, said: object) -> Problem:
    verb = "puts out" if source.side == "output" else "takes in"
    given = said[0] if isinstance(said, tuple) and len(said) == 1 else said
    return Problem(_where(source), type(given).__name__, f"a module that {verb} a tensor")


def no_gradient(source: Source) -> Problem:
    """Return the problem for a tap inside a reentrant checkpoint."""
    return Problem(
        _where(source),
        "a module inside a checkpoint with use_reentrant=True, which no gradient reaches",
        "checkpoints with use_reentrant=False",
        "In transformers: gradient_checkpointing_enable("
        'gradient_checkpointing_kwargs={"use_reentrant": False}).',
    )


def _where(source: Source) -> str:
    return f"tap {', '.join(tap.name for tap in source.taps)}"
