"""User-defined models: `{source: python, name: "nets/mine.py:build"}`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from limbeck.core.imports import file_of, find, local_modules
from limbeck.errors import InputError, Problem
from limbeck.models.arguments import call, check, has_var_keyword, with_build
from limbeck.models.normal_form import PLAIN, SINGLE
from limbeck.models.source import Fit, Source

if TYPE_CHECKING:
    from torch import nn

    from limbeck.models.spec import ModelSpec


# Names in a user's code that parametrize a weight: it is saved as a plain tensor.
PARAMETRIZING = ("parametriz", "weight_norm", "spectral_norm", "orthogonal")


def _arguments(builder: Callable[..., Any], spec: ModelSpec, fit: Fit) -> dict[str, object]:
    """Merge the recipe's arguments with the data dimensions that the builder accepts."""
    known = fit.dimensions()
    if not has_var_keyword(builder):
        parameters = inspect.signature(builder).parameters
        known = {name: value for name, value in known.items() if name in parameters}
    return {**known, **spec.arguments}


def build(spec: ModelSpec, fit: Fit) -> nn.Module:
    """Call the user's builder; its parameters may have the names of a `Fit`, such as `classes`."""
    from torch import nn

    builder = find(spec.name, where="model.name")
    check(builder, spec.arguments, where=f"model ({spec.name})", fitted=fit.dimensions())
    model = call(builder, _arguments(builder, spec, fit), where=f"model ({spec.name})")
    if not isinstance(model, nn.Module):
        given = f"{type(model).__name__} from {spec.name}"
        raise InputError(Problem("model.name", given, "a callable that returns a torch.nn.Module"))
    return model


def architecture(spec: ModelSpec, fit: Fit) -> str:
    """Return the user's file, or an import of the user's module, with `build()` at its end."""
    builder = find(spec.name, where="model.name")
    module, _, attribute = spec.name.rpartition(":")
    path = file_of(spec.name)
    text = path.read_text(encoding="utf-8") if path else f"from {module} import {attribute}"
    written = with_build(text, attribute, _arguments(builder, spec, fit)) + SINGLE
    return written + PLAIN if any(word in written for word in PARAMETRIZING) else written


source = Source(
    build=build,
    architecture=architecture,
    names=list,  # none: the models are the user's
    modules=lambda spec: local_modules(spec.name),
)
