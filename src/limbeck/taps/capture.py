"""Feature capture by forward hooks within a `with` block."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from types import TracebackType

from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.taps.hooks import Record, attach, attach_inside, compiled_parent
from limbeck.taps.paths import Tap, resolve


class Taps:
    """A context manager that captures the outputs or inputs of submodules by forward hooks.

    A path is a name of `named_modules`, or a pattern (`expand`). `path:input` is the first tensor
    of the module's input, `path:output` or the path alone its output; of a tuple, list or mapping
    (as in transformers) the first tensor. If a module runs more than once, under one path or
    several, the last call is kept; `path@0` is its first call, `path@1` its second.

    Modules may be wrapped by DistributedDataParallel or `torch.compile`, before or after the first
    tap, and may be checkpointed with use_reentrant=False. Hooks and tensors exist only inside the
    block.

    Args:
        module: The module with the submodules.
        paths: Paths or patterns of submodules.

    Raises:
        InputError: A path does not exist; the message lists all, each with the nearest existing
            ones. Or a module around the tap was compiled in place.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> with Taps(net, ["1", "0:input"]) as taps:
        ...     _ = net(torch.zeros(5, 4))
        ...     {path: tuple(tensor.shape) for path, tensor in taps.take().items()}
        {'1': (5, 3), '0:input': (5, 4)}
        >>> Taps(nn.ModuleDict({"stem": nn.ReLU()}), ["sten"])
        Traceback (most recent call last):
        ...
        limbeck.errors.InputError: tap: got 'sten'; ... did you mean "stem"?
    """

    def __init__(self, module: nn.Module, paths: Iterable[str]) -> None:
        wanted = list(dict.fromkeys(paths))
        groups: dict[nn.Module | None, list[Tap]] = {}
        taps = resolve(module, wanted) if wanted else []
        for tap in taps:
            groups.setdefault(compiled_parent(tap), []).append(tap)
        self._records = {region: Record(group) for region, group in groups.items()}
        records = {tap: record for record in self._records.values() for tap in record.taps}
        self._taps = [(tap, records[tap]) for tap in taps]
        self._stack = ExitStack()

    def __enter__(self) -> Taps:
        with ExitStack() as stack:
            for region, record in self._records.items():
                stack.callback(record.clear)
                if region is not None:
                    stack.callback(attach_inside(region, record))
                    continue
                for source in record.sources:
                    stack.callback(attach(source, record))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def take(self) -> dict[str, Tensor]:
        """Return and release the tensors captured since the last call, in the order of the paths.

        Raises:
            InputError: A module did not run, or not often enough, or the tensor was changed in
                place after capture.
        """
        problems = [problem for tap, record in self._taps for problem in record.problems(tap)]
        captured = {} if problems else {tap.name: record.get(tap) for tap, record in self._taps}
        for record in self._records.values():
            record.clear()
        if problems:
            raise InputError(*problems)
        return captured
