"""The models of timm: `{source: timm, name: resnet18}`, with fresh weights or those of a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limbeck.errors import InputError, Problem, did_you_mean
from limbeck.models.arguments import call, check_names
from limbeck.models.snippet import with_build
from limbeck.models.source import Fit, Source
from limbeck.optional import require

if TYPE_CHECKING:
    from torch import nn

    from limbeck.models.spec import ModelSpec


def names() -> list[str]:
    """List timm's models."""
    found: list[str] = require("timm", extra="vision").list_models()
    return found


def _arguments(spec: ModelSpec, fit: Fit) -> dict[str, Any]:
    # timm's builders take `**kwargs`: what none of them knows is refused when the model is built.
    check_names(spec.arguments, None, where="model")
    return {"num_classes": fit.classes, "in_chans": fit.channels or 3, **spec.arguments}


def build(spec: ModelSpec, fit: Fit) -> nn.Module:
    """Build a model by timm's own `create_model`.

    Raises:
        InputError: timm has no such model, or refuses an argument.
    """
    timm = require("timm", extra="vision")
    if not timm.is_model(spec.name):
        allowed = f"one of timm's {len(names())} models"
        raise InputError(
            Problem("model.name", spec.name, allowed, did_you_mean(spec.name, names()))
        )
    arguments = {"model_name": spec.name, **_arguments(spec, fit)}
    model: nn.Module = call(timm.create_model, arguments, where=f"model ({spec.name})")
    return model


def architecture(spec: ModelSpec, fit: Fit) -> str:
    """Write the call that makes the model; timm must be there to run it."""
    text = '"""As timm builds it: pip install timm."""\n\nimport timm'
    # The weights lie beside the file: what the model was begun from is not fetched again.
    arguments = {**_arguments(spec, fit), "pretrained": False}
    return with_build(text, "timm.create_model", arguments, spec.name)


source = Source(build=build, architecture=architecture, names=names)
