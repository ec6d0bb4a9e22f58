"""Forward hooks on plain and compiled modules, and the tensors that they capture."""

from __future__ import annotations

import sys
import types
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointFunction

from limbeck.errors import InputError, Problem
from limbeck.taps.paths import Source, Tap


class Record:
    """The tensors captured in a forward pass, by tap name."""

    def __init__(self, taps: Sequence[Tap]) -> None:
        self.taps = taps
        self.sources = tuple(dict.fromkeys(tap.source for tap in taps))
        self.clear()

    def clear(self) -> None:
        """Release all tensors."""
        self._calls: Counter[Source] = Counter()
        self._captured: dict[str, tuple[Tensor, int]] = {}

    def add(self, source: Source, tensor: Tensor) -> None:
        """Store a tensor for each tap of this call of its source."""
        for tap in self.taps:
            if tap.source == source and tap.call in (None, self._calls[source]):
                self._captured[tap.name] = (tensor, _version(tensor))
        self._calls[source] += 1

    def get(self, tap: Tap) -> Tensor:
        """Return the tensor of a tap for which `problems` is empty."""
        return self._captured[tap.name][0]

    def problems(self, tap: Tap) -> list[Problem]:
        """Return the problems with a tap's tensor."""
        where = f"tap {tap.name}"
        if tap.name not in self._captured:
            calls = self._calls[tap.source]
            if calls == 0:
                return [Problem(where, f"no {tap.side}", "a module that runs in the forward pass")]
            return [Problem(where, f"{calls} calls", f"a call from @0 to @{calls - 1}")]
        tensor, version = self._captured[tap.name]
        if _version(tensor) == version:
            return []
        changed = f"an {tap.side} that is changed in place later"
        fix = "Tap the layer that changes it, or build the model with inplace=False."
        return [Problem(where, changed, f"an {tap.side} that is not changed", fix)]

    def no_tensor(self, source: Source, value: object) -> InputError:
        """Return the error for a module without a tensor in its output or input."""
        verb = "returns" if source.side == "output" else "takes"
        given = value[0] if isinstance(value, tuple) and len(value) == 1 else value
        allowed = f"a module that {verb} a tensor"
        return InputError(Problem(self._where(source), type(given).__name__, allowed))

    def no_gradient(self, source: Source) -> InputError:
        """Return the error for a tap inside a reentrant checkpoint."""
        given = "a module inside a checkpoint with use_reentrant=True, which no gradient reaches"
        fix = (
            "In transformers: gradient_checkpointing_enable("
            'gradient_checkpointing_kwargs={"use_reentrant": False}).'
        )
        allowed = "checkpoints with use_reentrant=False"
        return InputError(Problem(self._where(source), given, allowed, fix))

    def _where(self, source: Source) -> str:
        return f"tap {', '.join(tap.name for tap in self.taps if tap.source == source)}"


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
    found = (first_tensor(part) for part in parts)
    return next((tensor for tensor in found if tensor is not None), None)


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


Callback: TypeAlias = Callable[[object], None]
Remove: TypeAlias = Callable[[], None]


def attach(source: Source, record: Record) -> Remove:
    """Record the tensors of a module; return a function that ends it."""
    module, with_gradient = source.module, torch.is_grad_enabled()

    def capture(value: object) -> None:
        # Checkpointing runs the module again in the backward pass, with known outputs.
        if torch._C._current_graph_task_id() != -1:
            return
        tensor = first_tensor(value)
        if tensor is None:
            raise record.no_tensor(source, value)
        if with_gradient and not torch.is_grad_enabled() and _in_reentrant_checkpoint():
            raise record.no_gradient(source)
        record.add(source, tensor)

    compiled = module._compiled_call_impl
    if compiled is None:
        return _register(source, _hook(source, capture))

    # The graph of a module compiled in place may contain its hooks: capture outside of it.
    def call(*args: Any, **kwargs: Any) -> Any:
        if source.side == "input":
            capture((*args, kwargs))
        output = compiled(*args, **kwargs)
        if source.side == "output":
            capture(output)
        return output

    module._compiled_call_impl = call
    return lambda: setattr(module, "_compiled_call_impl", compiled)


def _hook(source: Source, callback: Callback) -> Callable[..., None]:
    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        callback(output)

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        callback((*args, kwargs))

    return after if source.side == "output" else before


def _register(source: Source, hook: Callable[..., None]) -> Remove:
    if source.side == "output":
        return source.module.register_forward_hook(hook).remove
    return source.module.register_forward_pre_hook(hook, with_kwargs=True).remove


def _in_reentrant_checkpoint() -> bool:
    """Return whether reentrant checkpointing runs the module, which has no gradient."""
    code = CheckpointFunction.forward.__code__
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code is code:
            return True
    return False


Captured: TypeAlias = list[tuple[Source, Tensor, bool]]
_GRAPHS: WeakKeyDictionary[nn.Module, dict[tuple[Source, ...], _Graph]] = WeakKeyDictionary()


def compiled_parent(tap: Tap) -> nn.Module | None:
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
            given = "a part of a module that was compiled in place, by module.compile()"
            allowed = "a module that is wrapped by torch.compile(module)"
            fix = "Wrap it by torch.compile, or tap the compiled module itself."
            raise InputError(Problem(f"tap {tap.name}", given, allowed, fix))
    return None


def attach_inside(region: nn.Module, record: Record) -> Remove:
    """Record the tensors of parts of a compiled module; return a function that ends it."""
    graphs = _GRAPHS.setdefault(region, {})
    graph = graphs.get(record.sources)
    if graph is None:
        graph = graphs[record.sources] = _Graph(region, record.sources)

    def forward(*args: Any, **kwargs: Any) -> Any:
        output, captured = graph.run(*args, **kwargs)
        for source, tensor, reentrant in captured:
            if reentrant:
                raise record.no_gradient(source)
            record.add(source, tensor)
        return output

    original = region.forward
    remove_hooks = graph.attach()
    region.forward = forward

    def remove() -> None:
        region.forward = original
        remove_hooks()

    return remove


class _Graph:
    """A compiled module's second graph, and the hooks that it is traced with."""

    def __init__(self, region: nn.Module, sources: tuple[Source, ...]) -> None:
        self._captured: Captured | None = None
        self._with_gradient = False
        # The same hooks every time, so that the graph is traced once.
        self._hooks = [(source, _hook(source, self._callback(source))) for source in sources]
        self.run = self._compiled(region)

    def attach(self) -> Remove:
        """Register the hooks; return a function that removes them and releases the tensors."""
        removers = [_register(source, hook) for source, hook in self._hooks]

        def remove() -> None:
            for remover in removers:
                remover()
            self._captured = None

        return remove

    def _callback(self, source: Source) -> Callback:
        # Evaluated during tracing, which is inside the checkpoint.
        in_checkpoint = torch.compiler.assume_constant_result(_in_reentrant_checkpoint)

        def capture(value: object) -> None:
            tensor = first_tensor(value)
            if self._captured is None or tensor is None:
                return
            reentrant = self._with_gradient and not torch.is_grad_enabled() and in_checkpoint()
            # A copy, since in-place changes cannot be detected in a graph.
            self._captured.append((source, tensor.clone(), reentrant))

        return capture

    def _compiled(self, region: nn.Module) -> Callable[..., tuple[Any, Captured]]:
        """Compile a module's forward pass again, with its own compile settings."""
        module = region.get_submodule("_orig_mod")

        def run(*args: Any, **kwargs: Any) -> tuple[Any, Captured]:
            captured: Captured = []
            self._captured, self._with_gradient = captured, torch.is_grad_enabled()
            output = module(*args, **kwargs)
            self._captured = None
            return output, captured

        # A separate code object, since compiled graphs are cached and counted by code object.
        code, space, cells = run.__code__.replace(), run.__globals__, run.__closure__
        separate = types.FunctionType(code, space, "run", None, cells)
        compiled: Callable[..., tuple[Any, Captured]]
        compiled = region.dynamo_ctx(separate)  # type: ignore[operator]
        return compiled
