"""Models of pixels in [0, 1], the unit of attacks and corruptions."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from limbeck.evaluate.context import EvaluatedModel, EvaluationContext, Normalization, TorchModel
from limbeck.evaluate.robustness.corruptions import predict_logits
from limbeck.export.predictor import Predictor

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]
Logits = Callable[[Floats], Floats]
"""Computes the exported file's logits `[n, classes]` of `[n, channels, height, width]` pixels."""

BATCH = 100
"""Batch size in images."""

TOLERANCE = 1e-3
"""Tolerance by which a pixel may lie outside [0, 1], for rounding."""


@dataclass(frozen=True)
class Images:
    """Samples as pixels.

    Attributes:
        pixels: In [0, 1], `[n, channels, height, width]`.
        labels: `[n]`.
        name: The models' name of the input.
        scale: The normalization from pixels to inputs.
    """

    pixels: Floats
    labels: Labels
    name: str
    scale: Normalization

    def some(self, rows: NDArray[np.int64]) -> Images:
        """Return the given rows."""
        return Images(self.pixels[rows], self.labels[rows], self.name, self.scale)

    def drawn(self, count: int, seed: int) -> Images:
        """Return at most `count` of them, drawn by the seed and in order."""
        order = np.random.default_rng(seed).permutation(len(self.labels))
        return self.some(np.sort(order[:count]))

    def inputs(self, pixels: Floats) -> dict[str, Floats]:
        """Convert pixels to the models' inputs."""
        mean, std = _constants(self.scale)
        return {self.name: (pixels - mean) / std}

    def logits(self, predictor: Predictor) -> Logits:
        """Return the function from pixels to the exported file's logits."""
        return lambda pixels: predict_logits(predictor, self.inputs(pixels))

    def model(self, torch_model: TorchModel) -> PixelModel:
        """Return the torch model as a function of pixels."""
        return PixelModel(torch_model, self.name, self.scale)

    def target(self, model: EvaluatedModel) -> AttackTarget:
        """Return an evaluated model as an attack target."""
        torch_model = None if model.torch_model is None else self.model(model.torch_model)
        return AttackTarget(self.logits(model.predictor), torch_model)


class PixelModel(nn.Module):
    """A torch model of pixels, with the normalization inside, so that gradients include it.

    Args:
        torch_model: The model.
        name: The name of its input.
        scale: The normalization from pixels to its input.
    """

    def __init__(self, torch_model: TorchModel, name: str, scale: Normalization) -> None:
        super().__init__()
        # A copy, in the memory layout in which convolutions are fastest on a CPU.
        self.model = copy.deepcopy(torch_model.model).to(memory_format=torch.channels_last)
        self._task = torch_model.task
        self._name = name
        weight = next(torch_model.model.parameters(), torch.empty(0))
        mean, std = (torch.from_numpy(c).to(weight.device) for c in _constants(scale))
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        """Compute the logits `[n, classes]` of pixels `[n, channels, height, width]`."""
        inputs = (pixels - self.get_buffer("mean")) / self.get_buffer("std")
        return self._task.outputs(self.model, {self._name: inputs})["logits"]

    @property
    def device(self) -> torch.device:
        """Return the model's device."""
        return self.get_buffer("mean").device


@dataclass(frozen=True)
class AttackTarget:
    """A model as an attack target.

    Attributes:
        logits: Computes the exported file's logits from pixels.
        model: The torch model of pixels, or None: no attack then has gradients.
    """

    logits: Logits
    model: PixelModel | None

    def correct(self, pixels: Floats, labels: Labels) -> NDArray[np.bool_]:
        """Return whether the exported file classifies each image correctly, `[n]`."""
        return self.logits(pixels).argmax(axis=1) == labels


def images_of(context: EvaluationContext) -> Images | str:
    """Return the images of a context's sample as pixels, or the reason why there are none."""
    if context.normalization is None:
        return "The samples are not images"
    sample = context.sample
    names = [name for name, values in sample.items() if values.ndim == 4]
    if len(names) != 1 or sample["labels"].ndim != 1:
        return "The samples are not one image with one class each"
    mean, std = _constants(context.normalization)
    pixels = sample[names[0]].astype(np.float32) * std + mean
    if pixels.min() < -TOLERANCE or pixels.max() > 1 + TOLERANCE:
        return (
            f"With the given mean and standard deviation, pixels range from {pixels.min():.3g} to "
            f"{pixels.max():.3g}, not from 0 to 1"
        )
    labels = sample["labels"].astype(np.int64)
    return Images(np.clip(pixels, 0, 1), labels, names[0], context.normalization)


def by_batches(
    function: Callable[[Tensor, Tensor], Tensor],
    model: nn.Module,
    pixels: NDArray[Any],
    labels: Labels,
    *,
    batch: int = BATCH,
) -> NDArray[Any]:
    """Apply a function of images and labels on the model's device, in batches."""
    device = next(model.parameters(), torch.empty(0)).device
    parts = [
        function(
            torch.tensor(pixels[first : first + batch], device=device),
            torch.tensor(labels[first : first + batch], device=device),
        )
        for first in range(0, len(pixels), batch)
    ]
    return np.concatenate([part.detach().cpu().numpy() for part in parts])


def _constants(scale: Normalization) -> tuple[Floats, Floats]:
    mean, std = (np.asarray(c, dtype=np.float32).reshape(-1, 1, 1) for c in (scale.mean, scale.std))
    return mean, std
