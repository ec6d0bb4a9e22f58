"""Every way of compressing that there is, with settings to try it with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from four_nets import Subject
from torch import nn

from limbeck.compress.factorizers import FACTORIZERS
from limbeck.compress.masked_weights import fixed
from limbeck.compress.method import Change, CompressError, FileMethod
from limbeck.compress.onnx_weights import QuantizeError
from limbeck.compress.pruners import PRUNERS
from limbeck.compress.quantizers import QUANTIZERS
from limbeck.errors import InputError

REGISTRIES = {"prune": PRUNERS, "factorize": FACTORIZERS, "quantize": QUANTIZERS}
# What a method is tried with; one that is not here is found by the first test.
SETTINGS = {
    "prune.channels": {"ratio": 0.5},
    "prune.heads": {"ratio": 0.5},
    "prune.layers": {"count": 1, "by": "last"},
    "prune.magnitude": {"sparsity": 0.5},
    "prune.movement": {"sparsity": 0.5},
    "prune.semi_structured": {},
    "prune.random": {"sparsity": 0.5},
    "factorize.svd": {"energy": 0.8},
    "quantize.uniform": {"bits": 4},
    "quantize.ternary": {},
    "quantize.binary": {},
    "quantize.int8_static": {},
    "quantize.int8_dynamic": {},
    "quantize.float16": {},
    "quantize.bfloat16": {},
    "quantize.int4_weights": {},
}


def method(name: str) -> Any:
    """Make a method with its settings."""
    family, _, way = name.partition(".")
    return REGISTRIES[family].load(way)(**SETTINGS[name])


def of_models() -> list[str]:
    """Name those that change a model rather than a file."""
    return [name for name in SETTINGS if not isinstance(method(name), FileMethod)]


def changed(name: str, made: Subject, model: nn.Module) -> list[Change]:
    """Change a model in place, through a few steps of training if the method needs them."""
    way = method(name)
    way.check(model, made.work)
    found = [way.transform(model, made.work).change]
    if way.needs_training:
        train(model, made)
        found.append(fixed(model))
    return [change for change in found if change is not None]


def attempt(work: Callable[[], Any]) -> tuple[Any, str]:
    """Give what came of it, or nothing and why it was refused."""
    try:
        return work(), ""
    except (CompressError, InputError, QuantizeError) as refused:
        return None, str(refused)


def train(model, made: Subject, steps: int = 3) -> None:
    """Train a few steps, and tell whatever grows how far they are."""
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.05)
    growing = [part for part in model.modules() if callable(getattr(part, "advance", None))]
    for step in range(steps):
        for part in growing:
            part.advance(step / (steps - 1))
        optimizer.zero_grad()
        made.work.loss(model, made.batch).backward()
        optimizer.step()
    model.eval()
