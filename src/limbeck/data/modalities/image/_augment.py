"""Augmentation of images, with random numbers for each image that do not depend on its batch.

Masks and boxes move with the image, by the same draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from limbeck.core.random import below, random_bits
from limbeck.data.label import UNLABELLED
from limbeck.data.modalities.image._mix import mixing_of
from limbeck.data.modalities.image._transforms import Transforms

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from limbeck.data.label import Spatial
    from limbeck.data.modalities.image import AugmentSpec
    from limbeck.data.modalities.image._preprocess import ImagePreprocess
    from limbeck.data.rows import Batch

# Indices of the draws: changing one would invalidate every cached teacher output.
CROP, SHIFT, MIRROR = 1, 2, 3


@dataclass(frozen=True)
class Moves:
    """The draw of a batch: how each image is moved and mirrored.

    Attributes:
        down: The upper edge of each window in the padded image, int64 `[n]`.
        right: The left edge of each window in the padded image, int64 `[n]`.
        mirrored: Whether each image is mirrored, bool `[n]`; None for none.
        border: The width of the padding, in pixels.
    """

    down: NDArray[np.int64]
    right: NDArray[np.int64]
    mirrored: NDArray[np.bool_] | None
    border: int

    @classmethod
    def draw(cls, index: Tensor, *, seed: int, view: int, spec: AugmentSpec) -> Moves:
        """Draw the moves of some rows of a split."""
        rows, border = index.numpy(), spec.crop + spec.shift
        mirrored = None
        if spec.flip:
            mirrored = random_bits(seed, view, MIRROR, index=rows) >> np.uint64(63) == 1
        return cls(*_corner(rows, seed, view, spec), mirrored, border)

    def pixels(self, planes: Tensor, fill_value: NDArray[Any]) -> Tensor:
        """Move planes `[n, c, h, w]`; what lies beyond an edge is `fill_value`, `[c]`."""
        # numpy copies a window or a mirrored half several times as fast as torch.
        pixels = planes.numpy()
        if self.border:
            pixels = _windows(pixels, self.down, self.right, fill_value, self.border)
        if self.mirrored is not None:
            pixels = pixels if self.border else pixels.copy()
            pixels[self.mirrored] = pixels[self.mirrored][..., ::-1]
        return torch.from_numpy(pixels)

    def boxes(self, boxes: Tensor, classes: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Move boxes `[n, most, 4]`, clipped to the image; one left outside has class -100."""
        height, width = size
        moved = boxes.clone()
        for axis, start, length in ((0, self.right, width), (1, self.down, height)):
            offset = torch.from_numpy(self.border - start).to(boxes.dtype)
            moved[..., axis::2] += offset[:, None, None]
            moved[..., axis::2] = moved[..., axis::2].clamp(0, length)
        if self.mirrored is not None:
            chosen = torch.from_numpy(self.mirrored)
            moved[chosen, :, 0::2] = width - moved[chosen][..., [2, 0]]
        sides = moved[..., 2:] - moved[..., :2]
        outside = (sides <= 0).any(dim=-1) | (classes == UNLABELLED)
        return moved.masked_fill(outside[..., None], 0), classes.masked_fill(outside, UNLABELLED)


class ImageAugmentation:
    """Random crop, shift and horizontal flip per image, each with its own random numbers.

    Cropping from an image padded by p pixels shifts it by up to p pixels, so crop and shift are one
    translation, each part drawn uniformly.

    Args:
        spec: The augmentation settings.
        prepare: The preprocessing of the images: what lies beyond an edge is black, and transforms
            of torchvision get pixels in [0, 1].

    Raises:
        InputError: A transform is unknown, or torchvision is not installed.

    Attributes:
        mixing: Mixup and CutMix of a sample with another row; None for none.
    """

    def __init__(self, spec: AugmentSpec, prepare: ImagePreprocess) -> None:
        self.spec = spec
        self._fill_value = prepare.fill_value()
        self._transforms = Transforms(spec.transforms, prepare.size) if spec.transforms else None
        self._mean, self._std = (
            torch.tensor(one).view(-1, 1, 1) for one in (prepare.mean, prepare.std)
        )
        self._is_scaled = prepare.divide_by != 1
        self.mixing = mixing_of(spec, prepare.size)

    @property
    def views(self) -> int | None:
        """Return the number of variants per image; None if every epoch has new ones."""
        return self.spec.views

    def identity(self) -> dict[str, Any]:
        """Return the settings as plain data."""
        content = self.spec.model_dump(mode="json")
        if self.mixing is None:
            for name in ("mixup", "cutmix", "mix_probability"):
                del content[name]
        if self._transforms is None:
            del content["transforms"]
        else:
            content["torchvision"] = version("torchvision")
        return content

    def __call__(
        self, batch: Batch, index: Tensor, *, seed: int, view: int, spatial: Sequence[Spatial]
    ) -> Batch:
        """Augment the images of a batch, and move its masks and boxes with them.

        Args:
            batch: A batch with `image`, `[n, c, h, w]`.
            index: The images' rows in the split, `[n]`.
            seed: The run's seed.
            view: The variant.
            spatial: The entries that move with the image.
        """
        moves = Moves.draw(index, seed=seed, view=view, spec=self.spec)
        height, width = batch["image"].shape[-2:]
        changed = {"image": moves.pixels(batch["image"], self._fill_value)}
        for one in spatial:
            if one.form == "mask":
                ignored = np.array([UNLABELLED])
                changed[one.name] = moves.pixels(batch[one.name][:, None], ignored)[:, 0]
            else:
                boxes, classes = batch[one.name], batch[one.classes]
                moved = moves.boxes(boxes, classes, (height, width))
                changed[one.name], changed[one.classes] = moved
        batch = {**batch, **changed}
        if self._transforms is None:
            return batch
        scaled = batch["image"] * self._std + self._mean
        if self._is_scaled:  # floats may have any range
            scaled = scaled.clamp(0, 1)
        given = {**batch, "image": scaled}
        changed = self._transforms(given, index, seed=seed, view=view, spatial=spatial)
        changed["image"] = (changed["image"] - self._mean) / self._std
        return {**batch, **changed}


def _corner(
    rows: NDArray[np.int64], seed: int, view: int, spec: AugmentSpec
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw the upper left corner of each image in the padded image."""
    down = right = np.zeros(len(rows), dtype=np.int64)
    for draw, reach in ((CROP, spec.crop), (SHIFT, spec.shift)):
        if reach:
            # The upper half of the bits is the vertical offset, the lower half the horizontal one.
            bits = random_bits(seed, view, draw, index=rows)
            down = down + below(2 * reach + 1, bits)
            right = right + below(2 * reach + 1, bits << np.uint64(32))
    return down, right


def _windows(
    planes: NDArray[Any],
    down: NDArray[np.int64],
    right: NDArray[np.int64],
    fill_value: NDArray[Any],
    border: int,
) -> NDArray[Any]:
    count, channels, height, width = planes.shape
    shape = (count, channels, height + 2 * border, width + 2 * border)
    padded = np.empty(shape, dtype=planes.dtype)
    padded[:] = fill_value[:, None, None]
    padded[:, :, border : border + height, border : border + width] = planes
    # A view of every window of every image, of which one per image is copied.
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(2, 3))
    return windows[np.arange(count), :, down, right]
