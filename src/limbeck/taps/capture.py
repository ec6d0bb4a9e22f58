"""Capture what modules take in and put out while a `with` block lasts."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType

from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.taps.compiled import listen_inside, region_of
from limbeck.taps.hooks import Remove, listen
from limbeck.taps.paths import Tap, resolve
from limbeck.taps.record import Record, Source, sources


class Taps:
    """Capture the outputs or inputs of some submodules while a `with` block lasts.

    A path is what `named_modules` writes, or a pattern (`expand`). `path:input` is the first
    tensor that the module is given, `path:output` or the path alone what it puts out; of a tuple,
    a list or a mapping (as transformers return them) the first tensor. A module that runs more
    than once, under one path or several, keeps its last call; `path@0` is its first call, `path@1`
    its second.

    Modules may be wrapped by DistributedDataParallel or `torch.compile`, before or after the first
    tap, and may be checkpointed with use_reentrant=False. Hooks exist only inside the block, and
    nothing is held after it.

    Args:
        module: The module to listen to.
        paths: Paths or patterns of submodules.

    Raises:
        InputError: A path does not exist; all such paths at once, each with the nearest that do.
            Or a module around the tap was compiled in place.

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
        self._taps = resolve(module, wanted) if wanted else []
        self._sources = _by_region(self._taps)
        self._record = Record([one for group in self._sources.values() for one in group])
        self._removers: list[Remove] = []

    def __enter__(self) -> Taps:
        for region, group in self._sources.items():
            if region is None:
                self._removers += [listen(source, self._record) for source in group]
            else:
                self._removers.append(listen_inside(region, group, self._record))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        while self._removers:
            self._removers.pop()()
        self._record.clear()

    def take(self) -> dict[str, Tensor]:
        """Give what was captured since the last time, in the order asked for, and let go of it.

        Raises:
            InputError: A module did not run, or not as often as was asked, or the tensor was
                changed in place after it was captured.
        """
        problems = [problem for tap in self._taps for problem in self._record.problems(tap)]
        if not problems:
            captured = {tap.name: self._record.get(tap) for tap in self._taps}
        self._record.clear()
        if problems:
            raise InputError(*problems)
        return captured


def _by_region(taps: list[Tap]) -> dict[nn.Module | None, list[Source]]:
    """Divide what is listened to by the compiled module that it lies in, if any."""
    regions: dict[nn.Module | None, list[Tap]] = {}
    for tap in taps:
        regions.setdefault(region_of(tap), []).append(tap)
    return {region: sources(group) for region, group in regions.items()}
