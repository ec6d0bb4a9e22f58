"""The tensors captured in a forward pass, by module and call."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointFunction

from limbeck.errors import InputError, Problem
from limbeck.taps.paths import Side, Tap


class Source:
    """The input or output of one module, and its taps."""

    def __init__(self, module: nn.Module, side: Side) -> None:
        self.module = module
        self.side = side
        self.taps: list[Tap] = []


def sources(taps: Iterable[Tap]) -> list[Source]:
    """Group taps by module and side, so that each call is counted once."""
    found: dict[tuple[nn.Module, Side], Source] = {}
    for tap in taps:
        key = (tap.module, tap.side)
        found.setdefault(key, Source(*key)).taps.append(tap)
    return list(found.values())


class Record:
    """The tensors captured since the last call, by tap name."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._of = {tap.name: source for source in sources for tap in source.taps}
        self._calls: dict[Source, int] = {}
        self._heard: dict[str, tuple[Tensor, int]] = {}

    def clear(self) -> None:
        """Release all tensors."""
        self._calls, self._heard = {}, {}

    def add(self, source: Source, tensor: Tensor) -> None:
        """Store a tensor for each tap of this call of its source."""
        call = self._calls.get(source, 0)
        self._calls[source] = call + 1
        for tap in source.taps:
            if tap.call is None or tap.call == call:
                self._heard[tap.name] = (tensor, _version(tensor))

    def get(self, tap: Tap) -> Tensor:
        """Return the tensor of a tap for which `problems` is empty."""
        return self._heard[tap.name][0]

    def problems(self, tap: Tap) -> list[Problem]:
        """Return the problems with a tap's tensor."""
        where = f"tap {tap.name}"
        if tap.name not in self._heard:
            calls = self._calls.get(self._of[tap.name], 0)
            if calls == 0:
                return [Problem(where, f"no {tap.side}", "a module that runs in the forward pass")]
            return [Problem(where, f"{calls} calls", f"a call from @0 to @{calls - 1}")]
        tensor, version = self._heard[tap.name]
        if _version(tensor) == version:
            return []
        changed = f"an {tap.side} that is changed in place later"
        fix = "Tap the layer that changes it, or build the model with inplace=False."
        return [Problem(where, changed, f"an {tap.side} that stays as it is", fix)]


def first_tensor(output: object) -> Tensor | None:
    """Return the first tensor in a module's output.

    Example:
        >>> import torch
        >>> first_tensor((None, {"hidden": torch.zeros(2, 3)})).shape
        torch.Size([2, 3])
    """
    if isinstance(output, Tensor):
        return output
    parts: Iterable[object] = ()
    if isinstance(output, Mapping):
        parts = output.values()
    elif isinstance(output, Sequence) and not isinstance(output, str):
        parts = output
    for part in parts:
        tensor = first_tensor(part)
        if tensor is not None:
            return tensor
    return None


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


Hear: TypeAlias = Callable[[object], None]
Remove: TypeAlias = Callable[[], None]


def attach_listener(source: Source, record: Record) -> Remove:
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
    for module in tap.module_path[:-1]:
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
