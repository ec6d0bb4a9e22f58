"""Paths of submodules: resolution, patterns and suggestions.

A path is a name of `named_modules`, without parallel, compiled and checkpointed wrappers: `layer1`
is the same module before and after `torch.compile` or DistributedDataParallel.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple, TypeAlias

from torch import nn

from limbeck.errors import InputError, Problem, did_you_mean

Side: TypeAlias = Literal["input", "output"]
WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_SUFFIX = re.compile(r"(?P<path>.*?)(?:@(?P<call>\d+))?(?::(?P<side>input|output))?", re.DOTALL)
_WILD = "*?["


class Source(NamedTuple):
    """The input or the output of a module."""

    module: nn.Module
    side: Side


class Tap(NamedTuple):
    """The resolved position of a forward hook.

    Attributes:
        name: The path as given by the user.
        module_path: The modules from the root to the tapped one.
        side: Output or input.
        call: The index of the call, from 0; None is the last one.
    """

    name: str
    module_path: tuple[nn.Module, ...]
    side: Side
    call: int | None

    @property
    def source(self) -> Source:
        """Return the tapped module, and whether its output or its input is captured."""
        return Source(self.module_path[-1], self.side)


def expand(module: nn.Module, pattern: str) -> list[str]:
    """Return the paths that a pattern matches.

    `*` and `?` match any characters within a name, `[abc]` one of them, and `**` any path: `layer*`
    is layer1 and layer2, `layer*.**` everything inside them, and `**.attention` every attention at
    any depth. Suffixes are kept: `layer*:input`.

    Args:
        module: The module.
        pattern: A pattern, or a path, which matches itself.

    Returns:
        The paths, in the order of definition.

    Raises:
        InputError: Nothing matches; the message lists the nearest paths.

    Example:
        >>> net = nn.ModuleDict({"layer1": nn.Sequential(nn.ReLU()), "layer2": nn.ReLU()})
        >>> expand(net, "layer*")
        ['layer1', 'layer2']
        >>> expand(net, "**.0:input")
        ['layer1.0:input']
    """
    if _module_path(module, pattern) is not None:
        return [pattern]
    path, suffix = _split_suffix(pattern)
    found = _matching(path, (name for name, _ in named(module) if name))
    if not found:
        raise InputError(_unknown(module, pattern, "a pattern that matches a submodule's path"))
    return [name + suffix for name in found]


def is_pattern(path: str) -> bool:
    """Return whether a path is a pattern.

    Example:
        >>> is_pattern("layer*"), is_pattern("layer1")
        (True, False)
    """
    return any(mark in path for mark in _WILD)


def select(pattern: str, paths: Iterable[str]) -> list[str]:
    """Return the paths that a pattern matches; see `expand`.

    Example:
        >>> select("layer*", ["layer1", "layer1.0", "layer2"])
        ['layer1', 'layer2']
    """
    path, suffix = _split_suffix(pattern)
    ended = [name.removesuffix(suffix) for name in paths if name.endswith(suffix)]
    return [name + suffix for name in _matching(path, ended)]


def _split_suffix(pattern: str) -> tuple[str, str]:
    """Split the suffix, such as `:input` or `@1`, from a pattern."""
    # `[a:b]` is a character set, so only text after the last bracket is a suffix.
    head, bracket, tail = pattern.rpartition("]")
    match = _SUFFIX.fullmatch(tail)
    path = match["path"] if match else tail
    return head + bracket + path, tail[len(path) :]


def _matching(pattern: str, paths: Iterable[str]) -> list[str]:
    # `*` in `fnmatch` would match dots.
    tokens = re.findall(r"\*\*\.?|\*|\?|\[!?[^\]]+\]|.", pattern, re.DOTALL)
    regex = re.compile("".join(_REGEX.get(token) or _escape(token) for token in tokens))
    return [path for path in paths if regex.fullmatch(path)]


_REGEX = {"**.": r"(?:.+\.)?", "**": ".+", "*": r"[^.]*", "?": r"[^.]"}


def _escape(token: str) -> str:
    """Escape one character, or a set of characters such as `[abc]` or `[!abc]`."""
    if len(token) == 1:
        return re.escape(token)
    negated = token.startswith("[!")
    inside = token[2 if negated else 1 : -1].replace("\\", r"\\").replace("^", r"\^")
    return f"[{'^.' if negated else ''}{inside}]"


def resolve(module: nn.Module, paths: Iterable[str]) -> list[Tap]:
    """Resolve paths and patterns to taps.

    Raises:
        InputError: A path does not exist; the message lists all, each with the nearest existing
            ones.

    Example:
        >>> [tap] = resolve(nn.Sequential(nn.ReLU()), ["0@1:input"])
        >>> tap.source.module, tap.side, tap.call
        (ReLU(), 'input', 1)
    """
    taps: dict[str, Tap] = {}
    problems: list[Problem] = []
    for path in paths:
        try:
            taps |= {tap.name: tap for tap in _resolve(module, path)}
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(*problems)
    return list(taps.values())


def named(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield every submodule with its path, the module itself first, in the order of definition.

    A module with two paths is yielded twice. Of a wrapper and its module, the wrapper is yielded.
    """
    yield "", module
    while (inner := _wrapped(module)) is not None:
        module = inner
    for name, child in module._modules.items():
        for path, part in named(child) if child is not None else ():
            yield (f"{name}.{path}" if path else name), part


def _resolve(module: nn.Module, path: str) -> list[Tap]:
    tap = _tap(module, path)
    if tap is not None:
        return [tap]
    if not is_pattern(path):
        raise InputError(_unknown(module, path, "the path of a submodule"))
    taps = (_tap(module, match) for match in expand(module, path))
    return [tap for tap in taps if tap is not None]


def _tap(module: nn.Module, name: str) -> Tap | None:
    """Resolve a full path, or else the path without its suffix."""
    modules = _module_path(module, name)
    if modules is not None:
        return Tap(name, modules, "output", None)
    match = _SUFFIX.fullmatch(name)
    modules = _module_path(module, match["path"]) if match and match["path"] != name else None
    if match is None or modules is None:
        return None
    call = match["call"]
    side: Side = "input" if match["side"] == "input" else "output"
    return Tap(name, modules, side, None if call is None else int(call))


def _module_path(module: nn.Module, path: str) -> tuple[nn.Module, ...] | None:
    """Return the modules along a path; None if it does not exist.

    Visits only as many modules as the path has names: this runs in every training step.
    """
    modules = [module]
    for name in path.split(".") if path else ():
        while name not in modules[-1]._modules and (inner := _wrapped(modules[-1])) is not None:
            modules.append(inner)
        child = modules[-1]._modules.get(name)
        if child is None:
            return None
        modules.append(child)
    return tuple(modules)


def _wrapped(module: nn.Module) -> nn.Module | None:
    """Return the module inside of a parallel, compiled or checkpointed wrapper."""
    if isinstance(module, nn.parallel.DistributedDataParallel | nn.DataParallel):
        return module._modules["module"]
    return next((module._modules[name] for name in WRAPPERS if name in module._modules), None)


def _unknown(module: nn.Module, name: str, allowed: str) -> Problem:
    base, colon, side = name.rpartition(":")
    if colon and _module_path(module, base.rpartition("@")[0] or base) is not None:
        fix = did_you_mean(side, ("input", "output"))
        return Problem("tap", name, f"{base}:input or {base}:output", fix)
    names = [path for path, _ in named(module) if path]
    return Problem("tap", name, allowed, did_you_mean(name, names))
