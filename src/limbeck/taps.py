"""Listen to what a module's parts put out, by their paths.

Works on any module: nothing is subclassed and nothing of the model's code is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from limbeck.errors import InputError, Problem, did_you_mean


class Taps:
    """Capture the outputs of some submodules while a `with` block lasts.

    A module that runs more than once keeps its last output. Of a tuple, a list or a mapping (as
    transformers return them) the first tensor is kept. Hooks exist only inside the block, and
    nothing is held after it.

    Args:
        module: The module to listen to.
        paths: Paths of submodules, as `named_modules` writes them.

    Raises:
        InputError: A path does not exist; all such paths at once, each with the nearest that do.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> with Taps(net, ["1"]) as taps:
        ...     _ = net(torch.zeros(5, 4))
        ...     taps.take()["1"].shape
        torch.Size([5, 3])
        >>> Taps(nn.ModuleDict({"stem": nn.ReLU()}), ["sten"])
        Traceback (most recent call last):
        ...
        limbeck.errors.InputError: tap: got 'sten'; ... did you mean "stem"?
    """

    def __init__(self, module: nn.Module, paths: Iterable[str]) -> None:
        wanted = list(dict.fromkeys(paths))
        self._modules = _resolve(module, wanted) if wanted else {}
        self._captured: dict[str, tuple[Tensor, int]] = {}
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Taps:
        for path, module in self._modules.items():
            self._handles.append(module.register_forward_hook(self._hook(path)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._captured.clear()

    def take(self) -> dict[str, Tensor]:
        """Give what was captured since the last time, in the order asked for, and let go of it.

        Raises:
            InputError: A module did not run, or its output was changed in place after it put it
                out.
        """
        captured, self._captured = self._captured, {}
        problems = [
            problem for path in self._modules for problem in _problems(path, captured.get(path))
        ]
        if problems:
            raise InputError(*problems)
        return {path: captured[path][0] for path in self._modules}

    def _hook(self, path: str) -> Callable[[nn.Module, Any, Any], None]:
        def capture(module: nn.Module, inputs: object, output: object) -> None:
            tensor = first_tensor(output)
            if tensor is None:
                raise InputError(
                    Problem(f"tap {path}", type(output).__name__, "a module that puts out a tensor")
                )
            self._captured[path] = (tensor, _version(tensor))

        return capture


class Layer(NamedTuple):
    """One submodule: its path, its type, the shape of what it puts out, and its parameters."""

    path: str
    type: str
    shape: tuple[int, ...] | None
    parameters: int


def list_paths(module: nn.Module, run: Callable[[nn.Module], object]) -> list[Layer]:
    """List the submodules that can be tapped, with what each puts out.

    Runs in evaluation mode and without gradient, and leaves the module as it was.

    Args:
        module: The module to look at.
        run: Calls the module once, on an example.

    Returns:
        One `Layer` a submodule in the order of definition; its shape is None if it did not run or
        put out no tensor.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
        >>> for layer in list_paths(net, lambda net: net(torch.zeros(5, 4))):
        ...     print(*layer)
        0 Linear (5, 3) 15
        1 ReLU (5, 3) 0
    """
    modules = {path: part for path, part in module.named_modules(remove_duplicate=False) if path}
    shapes: dict[nn.Module, tuple[int, ...]] = {}

    def note(part: nn.Module, inputs: object, output: object) -> None:
        tensor = first_tensor(output)
        if tensor is not None:
            shapes[part] = tuple(tensor.shape)

    handles = [part.register_forward_hook(note) for part in set(modules.values())]
    modes = {part: part.training for part in module.modules()}
    try:
        module.eval()
        with torch.no_grad():
            run(module)
    finally:
        for handle in handles:
            handle.remove()
        for part, mode in modes.items():
            part.training = mode
    return [
        Layer(path, type(part).__name__, shapes.get(part), _count(part))
        for path, part in modules.items()
    ]


def first_tensor(output: object) -> Tensor | None:
    """Find the first tensor in what a module put out.

    Example:
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
    return next((tensor for part in parts if (tensor := first_tensor(part)) is not None), None)


def _resolve(module: nn.Module, paths: list[str]) -> dict[str, nn.Module]:
    modules = dict(module.named_modules(remove_duplicate=False))
    unknown = [
        Problem("tap", path, "the path of a submodule", did_you_mean(path, modules))
        for path in paths
        if path not in modules
    ]
    if unknown:
        raise InputError(*unknown)
    return {path: modules[path] for path in paths}


def _problems(path: str, captured: tuple[Tensor, int] | None) -> list[Problem]:
    if captured is None:
        return [Problem(f"tap {path}", "no output", "a module that runs in the forward pass")]
    tensor, version = captured
    if _version(tensor) != version:
        return [
            Problem(
                f"tap {path}",
                "an output that the next layer changes in place",
                "an output that stays as it is",
                "Tap the layer that changes it, or build the model with inplace=False.",
            )
        ]
    return []


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
