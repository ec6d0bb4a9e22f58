"""Samples to explain, numeric or texts, and the attribution maps of one model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from limbeck.evaluate.attribution import maps
from limbeck.evaluate.attribution.examples import (
    Example,
    ImageExample,
    TextExample,
    between,
    drawn,
    shown,
)

if TYPE_CHECKING:
    from torch import Tensor

    from limbeck.evaluate.context import EvaluatedModel, Normalization, TextInputs
    from limbeck.export.predictor import Predictor


Array = NDArray[np.float64]
Labels = NDArray[np.int64]
Mask = NDArray[np.bool_]
STEP = 2 / 255
"""Step per pixel of the test of saliency stability."""


@dataclass(frozen=True)
class Explained:
    """The attribution maps of one model.

    Attributes:
        maps: By method, `[n, positions]`.
        missed: Completeness errors of integrated gradients, `[n]`; None without them.
        after_step: The saliency maps after a small step, `[n, positions]`; None without pixels.
    """

    maps: Mapping[str, Array]
    missed: Array | None = None
    after_step: Array | None = None


class Numbers:
    """Numeric inputs: images, or rows of a table.

    The mask `valid` of positions that count, `[n, positions]`, is true everywhere.

    Args:
        name: The model's name of the input.
        values: `[n, channels, ...]`, or `[n, numbers]`.
        pixels: The normalization of pixels; the baseline is then black, and else zero.
    """

    def __init__(
        self, name: str, values: NDArray[np.float32], pixels: Normalization | None
    ) -> None:
        self.name = name
        self.values = values.astype(np.float32)
        self.positions = values.shape[2:] if values.ndim > 2 else values.shape[1:]
        self.valid = np.ones((len(values), int(np.prod(self.positions))), dtype=bool)
        self._black_white: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None
        black = np.zeros(1, dtype=np.float32)
        if pixels is not None:
            mean, std = (np.array(part, dtype=np.float32) for part in (pixels.mean, pixels.std))
            black = -mean / std
            self._black_white = black, (1 - mean) / std
        shape = (1, -1, *(1,) * (values.ndim - 2))
        self._baseline = np.broadcast_to(black.reshape(shape), (1, *values.shape[1:]))

    def explain(self, model: EvaluatedModel, classes: Labels, *, steps: int) -> Explained:
        """Compute occlusion maps of the exported file, and gradient maps of any torch model."""
        import torch

        inputs = torch.from_numpy(self.values)
        baseline = torch.from_numpy(self._baseline.copy())
        labels = torch.from_numpy(classes)

        def exported(values: Tensor) -> Tensor:
            logits = model.predictor.predict({self.name: values.numpy()})["logits"]
            return torch.from_numpy(np.asarray(logits))

        # An occlusion window covers all channels at once, hence the mean.
        occluded = maps.occlusion(exported, inputs, baseline, labels)
        found = {"occlusion": _reduced(occluded, np.mean)}
        if model.torch_model is None:
            return Explained(found)
        torch_model = model.torch_model
        device = next(torch_model.model.parameters(), inputs).device
        inputs, baseline, labels = (part.to(device) for part in (inputs, baseline, labels))

        def logits(values: Tensor) -> Tensor:
            return torch_model.logits({self.name: values})

        integrated, missed = maps.integrated_gradients(
            logits, inputs, baseline, labels, steps=steps
        )
        found["integrated_gradients"] = _reduced(integrated, np.sum)
        found["saliency"] = _reduced(maps.saliency(logits, inputs, labels), np.max)
        if self._black_white is None:
            return Explained(found, missed)
        black, white = (
            torch.from_numpy(value).to(inputs)[:, None, None] for value in self._black_white
        )
        moved = maps.perturbed(logits, inputs, labels, STEP * (white - black))
        moved = moved.clamp(min=black, max=white)
        return Explained(found, missed, _reduced(maps.saliency(logits, moved, labels), np.max))

    def without(self, predictor: Predictor, removed: Mask) -> NDArray[np.float32]:
        """Predict with the baseline at the removed positions, in all channels."""
        mask = removed.reshape(-1, *self.positions)
        mask = mask[:, None] if self.values.ndim > 2 else mask
        return predictor.predict({self.name: np.where(mask, self._baseline, self.values)})["logits"]

    def example(
        self, at: int, attributions: Sequence[Array], example: Example
    ) -> ImageExample | None:
        """Build an image example; None if the inputs are not images."""
        if len(self.positions) != 2:
            return None
        pixels = self.values[at].astype(np.float64)
        if self._black_white is None:
            pixels = between(pixels)
        else:
            black, white = (end.astype(np.float64)[:, None, None] for end in self._black_white)
            pixels = (pixels - black) / (white - black)
        student, *teacher = (drawn(one.reshape(self.positions)) for one in attributions)
        return ImageExample(
            **dict(example),
            image=shown(pixels),
            student=student,
            teacher=teacher[0] if teacher else None,
        )


def _reduced(found: Array, over_channels: Callable[..., Array]) -> Array:
    """Reduce maps `[n, channels, ...]` to `[n, positions]`; a row of numbers has no channels."""
    return (found if found.ndim < 3 else over_channels(found, axis=1)).reshape(len(found), -1)


class Words:
    """Text inputs; the mask `valid` of positions that count, `[n, tokens]`, excludes padding.

    Args:
        batch: `input_ids` and `attention_mask`, `[n, tokens]`.
        texts: Encodes an empty text; None, if that is not possible.
    """

    def __init__(self, batch: Mapping[str, NDArray[Any]], texts: TextInputs | None) -> None:
        self.batch = {name: np.asarray(values, dtype=np.int64) for name, values in batch.items()}
        self.ids = self.batch["input_ids"]
        self._texts = texts
        self._blank, self.valid = maps.blank(
            self.ids, self.batch["attention_mask"].astype(bool), texts
        )

    def explain(self, model: EvaluatedModel, classes: Labels, *, steps: int) -> Explained:
        """Compute integrated gradients at the torch model's word embeddings; none without them."""
        import torch

        if model.torch_model is None:
            return Explained({})
        device = next(model.torch_model.model.parameters(), torch.empty(0)).device
        batch = {name: torch.from_numpy(values).to(device) for name, values in self.batch.items()}
        embedding = maps.word_embedding(model.torch_model, batch)
        if embedding is None:
            return Explained({})
        found, missed = maps.token_gradients(
            model.torch_model,
            embedding,
            batch,
            torch.from_numpy(self._blank).to(device),
            torch.from_numpy(classes).to(device),
            steps=steps,
        )
        return Explained({"integrated_gradients": found}, missed)

    def without(self, predictor: Predictor, removed: Mask) -> NDArray[np.float32]:
        """Predict with padding at the removed positions."""
        ids = np.where(removed, self._blank, self.ids)
        return predictor.predict({**self.batch, "input_ids": ids})["logits"]

    def example(self, at: int, attributions: Sequence[Array], example: Example) -> TextExample:
        """Build a text example."""
        mask = self.valid[at]
        ids = [int(number) for number in self.ids[at][mask]]
        tokens = [f"#{number}" for number in ids]
        if self._texts is not None:
            tokens = maps.readable(self._texts.raw[example.row], ids, self._texts)
        student, *teacher = (tuple(float(value) for value in one[mask]) for one in attributions)
        return TextExample(
            **dict(example),
            tokens=tuple(tokens),
            student=student,
            teacher=teacher[0] if teacher else None,
        )


Material = Numbers | Words
"""Samples to explain."""
