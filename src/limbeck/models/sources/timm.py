"""timm models: `{source: timm, name: resnet18}`, with fresh or loaded weights."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.core.imports import require
from limbeck.errors import InputError, Problem, did_you_mean
from limbeck.models.arguments import call, check_names, with_build
from limbeck.models.checkpoint import find
from limbeck.models.source import Fit, Source
from limbeck.models.statement import Statement, beside, of_timm, read_json

if TYPE_CHECKING:
    from torch import Tensor, nn

    from limbeck.models.spec import ModelSpec


def names() -> list[str]:
    """Return the names of timm's models."""
    return require("timm", extra="vision").list_models()


def _arguments(spec: ModelSpec, fit: Fit) -> dict[str, object]:
    check(spec)
    return {"num_classes": fit.classes, "in_chans": fit.channels or 3, **spec.arguments}


def check(spec: ModelSpec) -> None:
    """Check the name, and that no argument follows from the data."""
    timm = require("timm", extra="vision")
    if not timm.is_model(spec.name):
        allowed, hint = f"one of timm's {len(names())} models", did_you_mean(spec.name, names())
        raise InputError(Problem("model.name", spec.name, allowed, hint))
    # timm's builders accept `**kwargs`: unknown arguments raise when the model is built.
    check_names(spec.arguments, None, where="model")


def build(spec: ModelSpec, fit: Fit) -> nn.Module:
    """Build a model by timm's `create_model`."""
    arguments = {"model_name": spec.name, **_arguments(spec, fit)}
    timm = require("timm", extra="vision")
    model = call(timm.create_model, arguments, where=f"model ({spec.name})")
    config = getattr(model, "pretrained_cfg", None) or {}
    if spec.arguments.get("pretrained") and config.get("num_classes") != fit.classes:
        # timm drops the head of its weights if the number of classes differs.
        model.fresh_parameters = _head_names(config)
    return model


def _head_names(config: Mapping[str, object]) -> tuple[str, ...]:
    heads = config.get("classifier") or "classifier"
    names = heads if isinstance(heads, list | tuple) else [heads]
    return tuple(f"{name}.weight" for name in names)


def architecture(spec: ModelSpec, fit: Fit) -> str:
    """Return source text that builds the model; running it requires timm."""
    text = '"""As timm builds it: pip install timm."""\n\nimport timm'
    # The weights are beside the file: the initial ones are not downloaded again.
    arguments = {**_arguments(spec, fit), "pretrained": False}
    return with_build(text, "timm.create_model", arguments, spec.name)


def states(spec: ModelSpec) -> Statement:
    """Read timm's `pretrained_cfg` if the weights are timm's own.

    They are if a config.json with a `pretrained_cfg` is beside them, if the file has timm's name,
    if its head has the same number of classes, and with `pretrained: true`.
    """
    file = None if spec.checkpoint is None else find(spec.checkpoint)
    if file is not None:
        found = beside(file)
        found = found if found.origin else _folder(file.with_name("config.json"))
        if found.origin:
            return found
    timm = require("timm", extra="vision")
    if not timm.is_model(spec.name):
        return Statement()
    config = timm.get_pretrained_cfg(spec.name)
    config = {} if config is None else config.to_dict()
    own = bool(spec.arguments.get("pretrained")) if file is None else _is_timms(file, config)
    if not own:
        return Statement()
    found = of_timm(config, f"timm's pretrained_cfg of {spec.name}")
    of_imagenet = config.get("num_classes") == 1000 and str(config.get("tag", "")).endswith("in1k")
    if found.class_names or not of_imagenet:
        return found
    info = timm.data.ImageNetInfo()
    class_names = tuple(info.index_to_description(index) for index in range(1000))
    return replace(found, class_names=class_names)


def _folder(path: Path) -> Statement:
    content = read_json(path)
    return of_timm(content, str(path)) if "pretrained_cfg" in content else Statement()


def _is_timms(file: Path, config: Mapping[str, object]) -> bool:
    if file.name == str(config.get("url", "")).rsplit("/", 1)[-1]:
        return True
    if file.suffix != ".safetensors":
        return False
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as tensors:
            shape = tensors.get_slice(_head_names(config)[0]).get_shape()
    except (SafetensorError, OSError):
        return False
    # Few other data sets have exactly ImageNet's number of classes.
    return bool(shape[0] == config.get("num_classes") and shape[0] >= 1000)


def convert(model: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename and reshape the tensors of an original checkpoint by the architecture's own filter."""
    own = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if own is None:
        return tensors
    # Each filter expects the names of the checkpoints known to its authors.
    try:
        return dict(own(dict(tensors), model))
    except Exception:
        return tensors


source = Source(
    build=build,
    architecture=architecture,
    names=names,
    states=states,
    preload=lambda _: require("timm", extra="vision"),
    convert=convert,
    check=check,
)
