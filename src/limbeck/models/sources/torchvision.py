"""torchvision models: `{source: torchvision, name: resnet18}`, for colour images."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from limbeck.core.imports import require
from limbeck.errors import InputError, Problem, check_choice
from limbeck.models.arguments import call, check_names, with_build
from limbeck.models.checkpoint import find
from limbeck.models.source import Fit, Source
from limbeck.models.statement import Statement, beside, names_of, normalization_of, size_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from limbeck.models.spec import ModelSpec


def names() -> list[str]:
    """Return the names of torchvision's image classifiers."""
    models = require("torchvision.models", extra="vision")
    return models.list_models(module=models)


def _arguments(spec: ModelSpec, fit: Fit) -> dict[str, object]:
    check(spec)
    if fit.channels not in {None, 3}:
        fix = "Set data.image.channels: 3, or take the model from timm."
        raise InputError(Problem("model.source", f"{fit.channels} channel", "3 channels", fix))
    return {"num_classes": fit.classes, **spec.arguments}


def check(spec: ModelSpec) -> None:
    """Check the name, and that no argument follows from the data."""
    check_choice(spec.name, names(), where="model.name")
    check_names(spec.arguments, None, where="model")


def build(spec: ModelSpec, fit: Fit) -> nn.Module:
    """Build a model by torchvision's `get_model`."""
    arguments = {"name": spec.name, **_arguments(spec, fit)}
    get_model = require("torchvision.models", extra="vision").get_model
    return call(get_model, arguments, where=f"model ({spec.name})")


def architecture(spec: ModelSpec, fit: Fit) -> str:
    """Return source text that builds the model; running it requires torchvision."""
    text = '"""As torchvision builds it: pip install torchvision."""\n\nimport torchvision'
    return with_build(text, "torchvision.models.get_model", _arguments(spec, fit), spec.name)


def states(spec: ModelSpec) -> Statement:
    """Read the transforms and categories of torchvision's own weights, by their file name."""
    if spec.checkpoint is None:
        return Statement()
    file = find(spec.checkpoint)
    found = beside(file)
    if found.origin or spec.name not in names():
        return found
    models = require("torchvision.models", extra="vision")
    for weights in models.get_model_weights(spec.name):
        if weights.url.rsplit("/", 1)[-1].rsplit(".", 1)[0] == file.stem:
            prepare = weights.transforms()
            return Statement(
                origin=f"torchvision's {weights}",
                class_names=_distinct(weights.meta.get("categories")),
                normalization=normalization_of(prepare.mean, prepare.std),
                size=size_of(prepare.crop_size * 2),
                interpolation=prepare.interpolation.value,
            )
    return Statement()


def _distinct(names: Sequence[str] | None) -> tuple[str, ...] | None:
    """Number the duplicate class names of ImageNet, such as crane, so that all differ."""
    seen: dict[str, int] = {}
    found = []
    for name in names or ():
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return names_of(found)


def convert(_model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of torchvision's DenseNet files: `norm.1` became `norm1` in 2018."""
    old = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\.")
    return {old.sub(r"\1\2.", name): tensor for name, tensor in tensors.items()}


source = Source(
    build=build,
    architecture=architecture,
    names=names,
    states=states,
    preload=lambda _: require("torchvision.models", extra="vision"),
    convert=convert,
    check=check,
)
