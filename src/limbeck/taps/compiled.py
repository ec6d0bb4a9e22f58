"""Feature capture inside a compiled module.

A graph compiled without hooks ignores later ones, and a graph with hooks is recompiled for each
set. So a compiled module gets, for each set of taps, a second graph that returns the tapped tensors
with the output. It is compiled once, with the module's own settings, and kept as long as the
module.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from limbeck.errors import InputError, Problem
from limbeck.taps.hooks import (
    Remove,
    hook,
    in_reentrant_checkpoint,
    no_gradient,
    register,
)
from limbeck.taps.paths import Tap
from limbeck.taps.record import Record, Source, first_tensor

Heard: TypeAlias = list[tuple[int, Tensor, bool]]

_GRAPHS: WeakKeyDictionary[nn.Module, dict[tuple[Any, ...], _Graph]] = WeakKeyDictionary()


def region_of(tap: Tap) -> nn.Module | None:
    """Return the outermost compiled module that contains a tap.

    Raises:
        InputError: A module around the tap was compiled in place.
    """
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is None:  # no module was compiled
        return None
    for module in tap.way[:-1]:
        if isinstance(module, dynamo.OptimizedModule):
            return module
        if module._compiled_call_impl is not None:
            raise InputError(
                Problem(
                    f"tap {tap.name}",
                    "a part of a module that was compiled in place, by module.compile()",
                    "a module that is wrapped by torch.compile(module)",
                    "Compile it so, or tap the module itself.",
                )
            )
    return None


def listen_inside(region: nn.Module, sources: Sequence[Source], record: Record) -> Remove:
    """Record the tensors of sources in a compiled module; return a function that ends it."""
    graphs = _GRAPHS.setdefault(region, {})
    key = tuple((source.module, source.side) for source in sources)
    graph = graphs.get(key)
    if graph is None:
        graph = graphs[key] = _Graph(region, sources)

    def forward(*args: Any, **kwargs: Any) -> Any:
        output, heard = graph(*args, **kwargs)
        for number, tensor, reentrant in heard:
            if reentrant:
                raise InputError(no_gradient(sources[number]))
            record.add(sources[number], tensor)
        return output

    own = region.forward
    remove_hooks = graph.attach()
    region.forward = forward

    def remove() -> None:
        region.forward = own
        remove_hooks()

    return remove


class _Graph:
    """A compiled module's second graph, and the hooks that it is traced with."""

    def __init__(self, region: nn.Module, sources: Sequence[Source]) -> None:
        self.heard: Heard | None = None
        self.gradient = False
        # The same hooks every time, so that the graph is traced once.
        self._hooks = [
            (Source(source.module, source.side), hook(source.side, self._listener(number)))
            for number, source in enumerate(sources)
        ]
        self._run = _compiled(region, self)

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Any, Heard]:
        """Run the module; return its output, and the tensors by source."""
        result: tuple[Any, Heard] = self._run(*args, **kwargs)
        return result

    def attach(self) -> Remove:
        """Register the hooks; return a function that removes them and releases the tensors."""
        removers = [register(source, made) for source, made in self._hooks]

        def remove() -> None:
            for one in removers:
                one()
            self.heard = None

        return remove

    def _listener(self, number: int) -> Callable[[object], None]:
        # Evaluated during tracing, which is inside the checkpoint.
        in_checkpoint = torch.compiler.assume_constant_result(in_reentrant_checkpoint)

        def hear(said: object) -> None:
            tensor = first_tensor(said)
            if self.heard is None or tensor is None:
                return
            lost = self.gradient and not torch.is_grad_enabled() and in_checkpoint()
            # A copy, since in-place changes cannot be detected in a graph.
            self.heard.append((number, tensor.clone(), lost))

        return hear


def _compiled(region: nn.Module, graph: _Graph) -> Callable[..., tuple[Any, Heard]]:
    """Compile a module's forward pass again, with its own compile settings."""
    module = region.get_submodule("_orig_mod")

    def run(*args: Any, **kwargs: Any) -> tuple[Any, Heard]:
        heard: Heard = []
        graph.heard, graph.gradient = heard, torch.is_grad_enabled()
        output = module(*args, **kwargs)
        graph.heard = None
        return output, heard

    # A separate code object, since compiled graphs are cached and counted by code object.
    own = types.FunctionType(run.__code__.replace(), run.__globals__, "run", None, run.__closure__)
    compiled: Callable[..., tuple[Any, Heard]] = region.dynamo_ctx(own)  # type: ignore[operator]
    return compiled
