"""The tensors captured in a forward pass, by module and call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn

from limbeck.errors import Problem
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
