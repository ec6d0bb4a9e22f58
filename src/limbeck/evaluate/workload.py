"""Estimate of an evaluation's duration before it starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from limbeck.evaluate.sitting import Side, Sitting

ROWS = 16
"""Number of samples of the probe."""


@dataclass(frozen=True)
class Workload:
    """The work of an evaluation, per model.

    Attributes:
        predictions: Samples that the exported file predicts.
        gradients: Samples that the torch model runs forward and backward.
        seconds: Time that does not depend on the models.
    """

    predictions: int = 0
    gradients: int = 0
    seconds: float = 0.0


def describe(workload: Workload, sitting: Sitting) -> str:
    """Describe a workload, with its seconds estimated by a measured probe of both models.

    The estimate is rough: it excludes the resampling of intervals and the overhead of libraries.
    """
    counts, seconds = [], workload.seconds
    if workload.predictions:
        counts.append(f"{workload.predictions:,} predictions")
        seconds += workload.predictions * sitting.prediction_seconds
    if workload.gradients:
        counts.append(f"{workload.gradients:,} gradients")
        seconds += workload.gradients * sitting.gradient_seconds
    each = f"{' and '.join(counts)} of each model, " if counts else ""
    return f"{each}about {max(1, round(seconds))} s"


def prediction_seconds(side: Side, sample: Mapping[str, Any]) -> float:
    """Measure the seconds per sample of a prediction in a small batch, on the second run."""
    probe = {name: values[:ROWS] for name, values in sample.items()}
    return _second_time(lambda: side.predictor.predict(probe)) / len(probe["label"])


def gradient_seconds(side: Side, sample: Mapping[str, Any]) -> float:
    """Measure the seconds per sample of a gradient, on the second run; 0 without a torch model."""
    if side.twin is None:
        return 0.0
    import torch

    twin, count = side.twin, len(sample["label"][:ROWS])
    place = next(twin.model.parameters(), torch.empty(0)).device
    batch = {
        name: torch.from_numpy(np.array(sample[name][:ROWS])).to(place) for name in twin.task.inputs
    }
    real = [tensor.requires_grad_() for tensor in batch.values() if tensor.is_floating_point()]

    def gradient() -> None:
        logits = twin.logits(batch)
        if real:
            torch.autograd.grad(logits.sum(), real)

    # Tokens have no gradients: the forward pass then counts as a third of both.
    return _second_time(gradient) / count * (1 if real else 3)


def _second_time(work: Callable[[], object]) -> float:
    """Measure the second run of a call, without the setup of the first."""
    work()
    began = perf_counter()
    work()
    return perf_counter() - began
