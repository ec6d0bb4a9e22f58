"""Checks of a model on one small batch before training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from limbeck.core.modules import modes_restored
from limbeck.errors import InputError, Problem
from limbeck.tasks.task import primary_output

if TYPE_CHECKING:
    from torch import Tensor

    from limbeck.tasks.task import Batch, Task

TOLERANCE = 1e-4
"""Largest difference of logits that counts as equal, relative to the largest logit."""


def check_modes(model: nn.Module, task: Task, batch: Batch) -> None:
    """Check that evaluation mode changes no buffer, and that both modes return the same logits.

    For the second check only the root module is set to training mode, on which most nets condition
    auxiliary outputs. The model's modes and buffers are restored.

    Args:
        model: The module.
        task: The task that runs it.
        batch: Two samples or more, on the device of the model.

    Raises:
        InputError: Buffers change in evaluation mode, or the logits of training mode differ.
    """
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        with modes_restored(model), torch.no_grad():
            _check_buffers(model.eval(), task, batch, buffers)
            _check_activation(model, task, batch)
            _check_training(model, task, batch)
    finally:
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
    expected = primary_output(task, model, batch).float()
    excluded = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
    for module in model.modules():
        module.training = not isinstance(module, excluded)
    actual = primary_output(task, model, batch).float()
    model.eval()
    kinds = {"training": _kind(actual), "evaluation": _kind(expected)}
    if kinds["training"] == kinds["evaluation"] and not _close(actual, expected):
        if _close(actual.sigmoid(), expected):
            kinds["evaluation"] = "sigmoid values"
        elif _close(expected.sigmoid(), actual):
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
    expected = primary_output(task, model, batch)
    model.training = True
    first, second = (primary_output(task, model, batch) for _ in range(2))
    model.training = False
    # With dropout in the root module itself, outputs are random and cannot be compared.
    if _close(first, second) and not _close(first, expected):
        given = "in training mode other logits than in evaluation mode"
        fix = "For the mean of its heads, set `output: mean` beside the model's name."
        raise InputError(Problem("model.output", given, "the same logits in both modes", fix))


def _close(actual: Tensor, expected: Tensor) -> bool:
    largest = float(expected.abs().nan_to_num(posinf=0.0).max()) if expected.numel() else 1.0
    tolerance = TOLERANCE * max(1.0, largest)
    same_shape = actual.shape == expected.shape
    return same_shape and torch.allclose(actual, expected, 0.0, tolerance, equal_nan=True)


def _equal(left: Tensor, right: Tensor) -> bool:
    return left.shape == right.shape and torch.equal(left.nan_to_num(), right.nan_to_num())
