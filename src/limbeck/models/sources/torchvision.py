"""The models of torchvision: `{source: torchvision, name: resnet18}`, for colour pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limbeck.errors import InputError, Problem, did_you_mean
from limbeck.models.arguments import FITTED, call
from limbeck.models.snippet import with_build
from limbeck.models.source import Fit, Source
from limbeck.optional import require

if TYPE_CHECKING:
    from torch import nn

    from limbeck.models.spec import ModelSpec


def names() -> list[str]:
    """List torchvision's classifiers of pictures."""
    models = require("torchvision.models", extra="vision")
    found: list[str] = models.list_models(module=models)
    return found


def _arguments(spec: ModelSpec, fit: Fit) -> dict[str, Any]:
    problems = [
        Problem(f"model.{name}", spec.arguments[name], "nothing: it follows from the data")
        for name in sorted({*FITTED, "num_classes"} & set(spec.arguments))
    ]
    if fit.channels not in {None, 3}:
        fix = "Set data.image.channels: 3, or take the model from timm."
        problems.append(Problem("model.source", f"{fit.channels} channel", "colour pictures", fix))
    if problems:
        raise InputError(*problems)
    return {"num_classes": fit.classes, **spec.arguments}


def build(spec: ModelSpec, fit: Fit) -> nn.Module:
    """Build a model by torchvision's own `get_model`."""
    models = require("torchvision.models", extra="vision")
    if spec.name not in names():
        fix = did_you_mean(spec.name, names())
        raise InputError(Problem("model.name", spec.name, ", ".join(names()), fix))
    arguments = {"name": spec.name, **_arguments(spec, fit)}
    model: nn.Module = call(models.get_model, arguments, where=f"model ({spec.name})")
    return model


def architecture(spec: ModelSpec, fit: Fit) -> str:
    """Write the call that makes the model; torchvision must be there to run it."""
    text = '"""As torchvision builds it: pip install torchvision."""\n\nimport torchvision'
    return with_build(text, "torchvision.models.get_model", _arguments(spec, fit), spec.name)


source = Source(build=build, architecture=architecture, names=names)
