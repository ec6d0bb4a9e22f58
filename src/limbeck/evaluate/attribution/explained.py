"""Attribution maps and inputs as small images for the report."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from limbeck.evaluate.attribution import maps
from limbeck.evaluate.attribution import maps as words

if TYPE_CHECKING:
    from torch import Tensor

    from limbeck.evaluate.context import EvaluatedModel, Normalization, TextInputs
    from limbeck.export.predictor import Predictor


LARGEST = 96
"""Pixels on the longer side: enough to see, few enough for a page with many images."""

FOR, AGAINST = np.array([0.35, 0.08, 0.0]), np.array([0.62, 0.80, 0.95])
"""Dark brown is evidence for the class, light blue against it: they differ in greyscale, too."""


def shown(pixels: NDArray[np.float64]) -> str:
    """Convert an image `[channels, height, width]` of pixels in [0, 1] to PNG in base64.

    One channel is grey, three are red, green and blue; of any other number the mean is shown.
    """
    grey = len(pixels) not in (1, 3)
    picture = pixels.mean(axis=0, keepdims=True) if grey else pixels
    return _png(np.repeat(picture, 3, axis=0) if len(picture) == 1 else picture)


def drawn(values: NDArray[np.float64]) -> str:
    """Draw a map `[height, width]` as PNG in base64: white is zero, full colour the largest value.

    Example:
        >>> drawn(np.array([[0.0, 1.0], [-1.0, 0.5]]))[:8]
        'iVBORw0K'
    """
    strength = np.abs(values).max()
    share = (values / strength if strength > 0 else values)[None]
    colour = np.where(share > 0, FOR[:, None, None], AGAINST[:, None, None])
    return _png(1 - np.abs(share) * (1 - colour))


def between(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale numbers of unknown range to [0, 1].

    Example:
        >>> between(np.array([[[-1.0, 1.0, 3.0]]]))
        array([[[0. , 0.5, 1. ]]])
    """
    low, high = pixels.min(), pixels.max()
    return (pixels - low) / (high - low) if high > low else np.zeros_like(pixels)


def _png(colours: NDArray[np.float64]) -> str:
    from PIL import Image

    bytes_ = (np.clip(colours, 0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0)
    picture = Image.fromarray(np.ascontiguousarray(bytes_))
    picture.thumbnail((LARGEST, LARGEST))
    file = io.BytesIO()
    picture.save(file, format="PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


Array = NDArray[np.float64]
Labels = NDArray[np.int64]
STEP = 2 / 255
"""Step per pixel of the test of saliency stability."""


@dataclass(frozen=True)
class Explained:
    """The attribution maps of one model.

    Attributes:
        maps: By method, `[n, places]`.
        missed: Completeness errors of integrated gradients, `[n]`; None without them.
        after_step: The saliency maps after a small step, `[n, places]`; None without pixels.
    """

    maps: Mapping[str, Array]
    missed: Array | None = None
    after_step: Array | None = None


class Material(Protocol):
    """The interface of samples to explain.

    Attributes:
        there: The positions of each input, `[n, places]`; the others are padding.
    """

    there: NDArray[np.bool_]

    def explain(self, side: EvaluatedModel, classes: Labels, *, steps: int) -> Explained:
        """Compute a model's maps for the logits of some classes."""
        ...

    def without(self, predictor: Predictor, marked: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Predict the inputs without the marked positions: logits, `[n, classes]`."""
        ...


class Numbers:
    """Numeric inputs: images, or rows of a table.

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
        self.places = values.shape[2:] if values.ndim > 2 else values.shape[1:]
        self.there = np.ones((len(values), int(np.prod(self.places))), dtype=bool)
        self._ends = None if pixels is None else _ends(pixels)
        black = np.zeros(1) if self._ends is None else self._ends[0]
        shape = (1, -1, *(1,) * (values.ndim - 2))
        self._baseline = np.broadcast_to(
            black.astype(np.float32).reshape(shape), (1, *values.shape[1:])
        )

    def explain(self, side: EvaluatedModel, classes: Labels, *, steps: int) -> Explained:
        """Compute occlusion maps of the exported file, and gradient maps of any torch model."""
        import torch

        inputs = torch.from_numpy(self.values)
        baseline = torch.from_numpy(self._baseline.copy())
        labels = torch.from_numpy(classes)
        covered = maps.occlusion(self._asked(side.predictor), inputs, baseline, labels)
        found = {"occlusion": self._flat(covered, "occlusion")}
        if side.torch_model is None:
            return Explained(found)
        torch_model = side.torch_model
        place = next(torch_model.model.parameters(), inputs).device
        inputs, baseline, labels = (part.to(place) for part in (inputs, baseline, labels))

        def logits(values: Tensor) -> Tensor:
            return torch_model.logits({self.name: values})

        integrated, missed = maps.integrated_gradients(
            logits, inputs, baseline, labels, steps=steps
        )
        found["integrated_gradients"] = self._flat(integrated, "integrated_gradients")
        found["saliency"] = self._flat(maps.saliency(logits, inputs, labels), "saliency")
        after = None
        if self._ends is not None:
            black, white = (torch.from_numpy(end).to(inputs)[:, None, None] for end in self._ends)
            moved = maps.perturbed(logits, inputs, labels, STEP * (white - black))
            moved = moved.clamp(min=black, max=white)
            after = self._flat(maps.saliency(logits, moved, labels), "saliency")
        return Explained(found, missed, after)

    def without(self, predictor: Predictor, marked: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Predict with the baseline at the marked positions, in all channels."""
        mask = marked.reshape(-1, *self.places)
        mask = mask[:, None] if self.values.ndim > 2 else mask
        return predictor.predict({self.name: np.where(mask, self._baseline, self.values)})["logits"]

    def pixels(self, at: int) -> Array:
        """Return one image as pixels in [0, 1], `[channels, height, width]`."""
        values = self.values[at].astype(np.float64)
        if self._ends is None:
            return between(values)
        black, white = (end.astype(np.float64)[:, None, None] for end in self._ends)
        return (values - black) / (white - black)

    def _asked(self, predictor: Predictor) -> maps.Logits:
        import torch

        return lambda values: torch.from_numpy(
            np.asarray(predictor.predict({self.name: values.numpy()})["logits"])
        )

    def _flat(self, found: Array, how: str) -> Array:
        return maps.flat(found, how).reshape(len(found), -1)


class Words:
    """Text inputs.

    Args:
        batch: `input_ids` and `attention_mask`, `[n, tokens]`.
        texts: Encodes an empty text; None, if that is not possible.
    """

    def __init__(self, batch: Mapping[str, NDArray[Any]], texts: TextInputs | None) -> None:
        self.batch = {name: np.asarray(values, dtype=np.int64) for name, values in batch.items()}
        self.ids = self.batch["input_ids"]
        self._blank, self.there = words.blank(
            self.ids, self.batch["attention_mask"].astype(bool), texts
        )

    def explain(self, side: EvaluatedModel, classes: Labels, *, steps: int) -> Explained:
        """Compute integrated gradients at the torch model's word embeddings; none without them."""
        import torch

        if side.torch_model is None:
            return Explained({})
        place = next(side.torch_model.model.parameters(), torch.empty(0)).device
        batch = {name: torch.from_numpy(values).to(place) for name, values in self.batch.items()}
        embedding = words.word_embedding(side.torch_model, batch)
        if embedding is None:
            return Explained({})
        found, missed = words.token_gradients(
            side.torch_model,
            embedding,
            batch,
            torch.from_numpy(self._blank).to(place),
            torch.from_numpy(classes).to(place),
            steps=steps,
        )
        return Explained({"integrated_gradients": found}, missed)

    def without(self, predictor: Predictor, marked: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Predict with padding at the marked positions."""
        ids = np.where(marked, self._blank, self.ids)
        return predictor.predict({**self.batch, "input_ids": ids})["logits"]


def _ends(pixels: Normalization) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the inputs of black and white, `[channels]` each."""
    mean, std = (np.array(part, dtype=np.float32) for part in (pixels.mean, pixels.std))
    return -mean / std, (1 - mean) / std
