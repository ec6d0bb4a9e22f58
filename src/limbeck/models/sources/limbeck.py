"""Reference nets: `{source: limbeck, name: resnet20}`."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.errors import check_choice
from limbeck.models import nets
from limbeck.models.arguments import call, check, with_build
from limbeck.models.source import Fit, Source

if TYPE_CHECKING:
    from torch import nn

    from limbeck.models.spec import ModelSpec


UNNEEDED = frozenset({"vocab_size", "hops"})
"""Dimensions of the data that a net need not take; any other shows that it is for other data."""


@cache
def _files() -> dict[str, Path]:
    """Return the file of each net: the names in its `__all__`, read without importing torch."""
    found: dict[str, Path] = {}
    for path in sorted(Path(nets.__path__[0]).glob("[!_]*.py")):
        for statement in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__":
                found.update(dict.fromkeys(ast.literal_eval(statement.value), path))
    return found


def names() -> list[str]:
    """Return the names of the nets."""
    return sorted(_files())


def file_of_net(name: str) -> Path:
    """Return the file that holds a net."""
    check_choice(name, names(), where="model.name")
    return _files()[name]


def _arguments(spec: ModelSpec, fit: Fit) -> dict[str, object]:
    taken = inspect.signature(_builder(spec.name)).parameters
    known = {
        key: value for key, value in fit.dimensions().items() if key in taken or key not in UNNEEDED
    }
    return {**known, **spec.arguments}


def _builder(name: str) -> Callable[..., nn.Module]:
    module = importlib.import_module(f"limbeck.models.nets.{file_of_net(name).stem}")
    return getattr(module, name)


def check_spec(spec: ModelSpec) -> None:
    """Check the net's name and its arguments; those that are not keyword-only follow from data."""
    builder = _builder(spec.name)
    fitted = [
        name
        for name, one in inspect.signature(builder).parameters.items()
        if one.kind is one.POSITIONAL_OR_KEYWORD
    ]
    check(builder, spec.arguments, where=f"model ({spec.name})", fitted=fitted)


def build(spec: ModelSpec, fit: Fit) -> nn.Module:
    """Build a net by its name."""
    check_spec(spec)
    return call(_builder(spec.name), _arguments(spec, fit), where=f"model ({spec.name})")


def architecture(spec: ModelSpec, fit: Fit) -> str:
    """Return the net's source file, with `build()` at its end."""
    text = file_of_net(spec.name).read_text(encoding="utf-8")
    return with_build(text, spec.name, _arguments(spec, fit))


source = Source(build=build, architecture=architecture, names=names, check=check_spec)
