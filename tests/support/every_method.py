"""Every compression method, with settings for the tests."""

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
# A test fails if a registered method is missing here.
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
    """Create a method with its settings."""
    family, _, kind = name.partition(".")
    return REGISTRIES[family].load(kind)(**SETTINGS[name])


def of_models() -> list[str]:
    """Return the methods that change a model rather than a file."""
    return [name for name in SETTINGS if not isinstance(method(name), FileMethod)]


def changed(name: str, made: Subject, model: nn.Module) -> list[Change]:
    """Compress a model in place, with a few steps of training if the method needs them."""
    compression = method(name)
    compression.check(model, made.work)
    found = [compression.transform(model, made.work).change]
    if compression.needs_training:
        train(model, made)
        found.append(fixed(model))
    return [change for change in found if change is not None]


def attempt(work: Callable[[], Any]) -> tuple[Any, str]:
    """Return the result and no message, or None and the message of the refusal."""
    try:
        return work(), ""
    except (CompressError, InputError, QuantizeError) as refused:
        return None, str(refused)


def train(model, made: Subject, steps: int = 3) -> None:
    """Train a few steps, and pass the progress to modules that need it."""
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.05)
    progressive = [part for part in model.modules() if callable(getattr(part, "advance", None))]
    for step in range(steps):
        for part in progressive:
            part.advance(step / (steps - 1))
        optimizer.zero_grad()
        made.work.loss(model, made.batch).backward()
        optimizer.step()
    model.eval()
