"""A list of the submodules that can be tapped, with their output shapes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import NamedTuple

import torch
from torch import nn

from limbeck.core.modules import evaluating
from limbeck.taps.hooks import first_tensor
from limbeck.taps.paths import named


class Layer(NamedTuple):
    """A submodule: its path, type, output shape, and number of parameters."""

    path: str
    type: str
    shape: tuple[int, ...] | None
    parameters: int


def list_paths(module: nn.Module, run: Callable[[nn.Module], object]) -> list[Layer]:
    """Return the submodules that can be tapped, with their output shapes.

    The module runs in evaluation mode without gradient, and is not changed.

    Args:
        module: The module.
        run: A function that calls the module once, on an example.

    Returns:
        One `Layer` per submodule in the order of definition; its shape is None if it did not run or
        has no tensor output.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
        >>> for layer in list_paths(net, lambda net: net(torch.zeros(5, 4))):
        ...     print(*layer)
        0 Linear (5, 3) 15
        1 ReLU (5, 3) 0
    """
    modules = [(path, part) for path, part in named(module) if path]
    shapes: dict[nn.Module, tuple[int, ...]] = {}

    def record(part: nn.Module, inputs: object, output: object) -> None:
        tensor = first_tensor(output)
        if tensor is not None:
            shapes[part] = tuple(tensor.shape)

    with ExitStack() as stack:
        for part in {part for _, part in modules}:
            stack.enter_context(part.register_forward_hook(record))
        with evaluating(module), torch.no_grad(), _uncompiled():
            run(module)
    return [
        Layer(
            path, type(part).__name__, shapes.get(part), sum(p.numel() for p in part.parameters())
        )
        for path, part in modules
    ]


def _uncompiled() -> AbstractContextManager[object]:
    """Run compiled modules eagerly, since a compiled graph ignores new hooks."""
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    return torch.compiler.set_stance("force_eager")
