"""Checks of a model on one small batch before training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from limbeck.errors import InputError, Problem

if TYPE_CHECKING:
    from torch import Tensor

    from limbeck.tasks.task import Batch, Task

TOLERANCE = 1e-4
"""Largest difference of logits that counts as equal, relative to the largest logit."""


def check_modes(model: nn.Module, task: Task, batch: Batch) -> None:
    """Check that evaluation mode changes no buffer, and that both modes return the same logits.

    Only the root module is set to training mode, on which most nets condition auxiliary outputs:
    the logits must equal those of evaluation mode.

    Args:
        model: The module; its modes and buffers are restored.
        task: The task that runs it.
        batch: Two samples or more, on the device of the model.

    Raises:
        InputError: Buffers change in evaluation mode, or the logits of training mode differ.
    """
    modes = {module: module.training for module in model.modules()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        with torch.no_grad():
            _check_buffers(model.eval(), task, batch, buffers)
            _check_activation(model, task, batch)
            _check_training(model, task, batch)
    finally:
        for module, mode in modes.items():
            module.training = mode
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                if name in buffers and buffer.shape == buffers[name].shape:
                    buffer.copy_(buffers[name])


def _check_buffers(model: nn.Module, task: Task, batch: Batch, buffers: dict[str, Tensor]) -> None:
    task.outputs(model, batch)
    changed = [
        name
        for name, buffer in model.named_buffers()
        if name not in buffers or not _equal(buffer, buffers[name])
    ]
    if changed:
        given = f"buffers that change in evaluation mode: {', '.join(changed[:8])}"
        fix = "Update buffers only `if self.training`."
        raise InputError(Problem("model", given, "a model without state between calls", fix))


def _check_activation(model: nn.Module, task: Task, batch: Batch) -> None:
    """Check that no module adds or leaves out a softmax or sigmoid in one mode."""
    expected = task.outputs(model, batch)["logits"].float()
    steady = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
    for module in model.modules():
        module.training = not isinstance(module, steady)
    found = task.outputs(model, batch)["logits"].float()
    model.eval()
    kinds = {"training": _kind(found), "evaluation": _kind(expected)}
    if kinds["training"] == kinds["evaluation"] and not _close(found, expected):
        if _close(found.sigmoid(), expected):
            kinds["evaluation"] = "sigmoid values"
        elif _close(expected.sigmoid(), found):
            kinds["training"] = "sigmoid values"
    if kinds["training"] != kinds["evaluation"]:
        given = ", ".join(f"{kind} in {mode} mode" for mode, kind in kinds.items())
        fix = "Remove the last activation that depends on `self.training`: return logits."
        raise InputError(Problem("model.output", given, "logits in both modes", fix))


def _kind(values: Tensor) -> str:
    """Return whether rows are probabilities, their logarithms, or logits."""
    if values.ndim < 2 or values.shape[1] < 2 or not values.isfinite().all():
        return "logits"
    ones = values.new_ones(())
    if values.min() >= 0 and torch.allclose(values.sum(1), ones, atol=TOLERANCE):
        return "probabilities"
    if torch.allclose(values.exp().sum(1), ones, atol=TOLERANCE):
        return "log-probabilities"
    return "logits"


def _check_training(model: nn.Module, task: Task, batch: Batch) -> None:
    expected = task.outputs(model, batch)["logits"]
    model.training = True
    first, again = (task.outputs(model, batch)["logits"] for _ in range(2))
    model.training = False
    # With dropout in the root module itself, outputs are random and cannot be compared.
    if _close(first, again) and not _close(first, expected):
        given = "in training mode other logits than in evaluation mode"
        fix = "Is the mean of its heads meant? Then set `output: mean` beside the model's name."
        raise InputError(Problem("model.output", given, "the same logits in both modes", fix))


def _close(one: Tensor, other: Tensor) -> bool:
    scale = max(1.0, float(other.abs().nan_to_num(posinf=0.0).max())) if other.numel() else 1.0
    return one.shape == other.shape and torch.allclose(
        one, other, rtol=0.0, atol=TOLERANCE * scale, equal_nan=True
    )


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.nan_to_num(), other.nan_to_num())
