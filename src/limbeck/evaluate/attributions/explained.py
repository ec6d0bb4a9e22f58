"""Attribution maps of numeric inputs and of texts, with one interface."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from limbeck.evaluate.attributions import maps, pictures, words

if TYPE_CHECKING:
    from torch import Tensor

    from limbeck.evaluate.sitting import Pixels, Side, Texts
    from limbeck.export.predictor import Predictor

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

    def explain(self, side: Side, classes: Labels, *, steps: int) -> Explained:
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

    def __init__(self, name: str, values: NDArray[np.float32], pixels: Pixels | None) -> None:
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

    def explain(self, side: Side, classes: Labels, *, steps: int) -> Explained:
        """Compute occlusion maps of the exported file, and gradient maps of any torch model."""
        import torch

        inputs = torch.from_numpy(self.values)
        baseline = torch.from_numpy(self._baseline.copy())
        labels = torch.from_numpy(classes)
        covered = maps.occlusion(self._asked(side.predictor), inputs, baseline, labels)
        found = {"occlusion": self._flat(covered, "occlusion")}
        if side.twin is None:
            return Explained(found)
        twin = side.twin
        place = next(twin.model.parameters(), inputs).device
        inputs, baseline, labels = (part.to(place) for part in (inputs, baseline, labels))

        def logits(values: Tensor) -> Tensor:
            return twin.logits({self.name: values})

        integrated, missed = maps.integrated_gradients(
            logits, inputs, baseline, labels, steps=steps
        )
        found["integrated_gradients"] = self._flat(integrated, "integrated_gradients")
        found["saliency"] = self._flat(maps.saliency(logits, inputs, labels), "saliency")
        after = None
        if self._ends is not None:
            black, white = (torch.from_numpy(end).to(inputs)[:, None, None] for end in self._ends)
            moved = maps.nudged(logits, inputs, labels, STEP * (white - black))
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
            return pictures.between(values)
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

    def __init__(self, batch: Mapping[str, NDArray[Any]], texts: Texts | None) -> None:
        self.batch = {name: np.asarray(values, dtype=np.int64) for name, values in batch.items()}
        self.ids = self.batch["input_ids"]
        self._blank, self.there = words.blank(
            self.ids, self.batch["attention_mask"].astype(bool), texts
        )

    def explain(self, side: Side, classes: Labels, *, steps: int) -> Explained:
        """Compute integrated gradients at the torch model's word embeddings; none without them."""
        import torch

        if side.twin is None:
            return Explained({})
        place = next(side.twin.model.parameters(), torch.empty(0)).device
        batch = {name: torch.from_numpy(values).to(place) for name, values in self.batch.items()}
        embedding = words.word_embedding(side.twin, batch)
        if embedding is None:
            return Explained({})
        found, missed = words.token_gradients(
            side.twin,
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


def _ends(pixels: Pixels) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the inputs of black and white, `[channels]` each."""
    mean, std = (np.array(part, dtype=np.float32) for part in (pixels.mean, pixels.std))
    return -mean / std, (1 - mean) / std
