"""Preprocessing of images, and what preprocess.json states about it.

The file is enough to reproduce it with numpy and PIL: open with PIL, `ImageOps.exif_transpose`,
`convert(mode)`, `resize((size[1], size[0]), resample)` if the size differs; then as float32
`(pixels / divide_by - mean) / std` for each channel, channels first. With `shorter_side` the
shorter side is resized to it, the longer one to `int(shorter_side * longer / shorter)`, and `size`
is cropped from the centre: the upper edge is at `round((height - size[0]) / 2)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from limbeck.data.images import FORMATS, MOST_PIXELS, open_image, size_of, upright
from limbeck.data.preprocess import (
    Bounds,
    Comparison,
    Divisor,
    HuggingFace,
    Named,
    Preprocess,
    Statistics,
    Target,
)
from limbeck.errors import InputError, Problem

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

LARGEST_SIDE = 4096
"""The largest height or width in pixels: larger images fill the memory with a single batch."""
Side = Annotated[int, Field(gt=0, le=LARGEST_SIDE)]
LOADING = """
import torch
from transformers import AutoModelForImageClassification

model = AutoModelForImageClassification.from_pretrained(".").eval()
outputs = model(pixel_values=torch.from_numpy(image))
"""


@dataclass(frozen=True)
class ImagePreprocess(Preprocess):
    """Image preprocessing: from an image to model inputs.

    Attributes:
        size: Height and width.
        channels: 1 for grey, 3 for colour.
        divide_by: The divisor that scales pixels to [0, 1].
        mean: The mean per channel, subtracted next.
        std: The standard deviation per channel, the divisor.
        classes: The class names, in the order of the model's outputs.
        targets: A regression's targets, in the order of the model's outputs.
        shorter_side: The length of the shorter side after resizing, of which `size` is cropped from
            the centre; None to resize to `size`.
    """

    size: tuple[Side, Side]
    channels: Annotated[int, Field(ge=1, le=3)]
    divide_by: Divisor
    mean: tuple[float, ...]
    std: tuple[Divisor, ...]
    kind: Literal["image"] = "image"
    resample: Literal["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"] = "bilinear"
    classes: tuple[str, ...] = ()
    targets: tuple[Target, ...] = ()
    shorter_side: Side | None = None

    sample_axes: ClassVar[tuple[int, ...]] = (0, 2, 3)
    huggingface: ClassVar[HuggingFace | None] = HuggingFace(
        "image-classification", "ImageClassification", repr("image.png"), LOADING
    )

    @property
    def statistics(self) -> Statistics:
        """Return the mean and deviation per channel."""
        return Statistics(self.mean, self.std)

    def image_processor(self) -> dict[str, Any]:
        """Return the arguments of an image processor of transformers."""
        names = ("size", "channels", "mean", "std", "resample", "shorter_side")
        return {name: getattr(self, name) for name in names}

    @property
    def _mode(self) -> str:
        return "L" if self.channels == 1 else "RGB"

    def model_inputs(self) -> dict[str, int]:
        """Return the input dimensions of a model, as arguments for `limbeck.models.build.build`."""
        return {"channels": self.channels}

    def pixels(self, image: Image.Image | NDArray[Any]) -> NDArray[Any]:
        """Convert an image to pixels `[channels, height, width]`, not yet scaled.

        Raises:
            ValueError: An array is in colour but grey is required; or the image is so long that
                its resized pixels are too many.

        Example:
            >>> prepare = ImagePreprocess((4, 4), 3, 255.0, (0.0,) * 3, (1.0,) * 3)
            >>> prepare.pixels(np.zeros((1, 8, 8), dtype=np.uint8)).shape
            (3, 4, 4)
        """
        if isinstance(image, np.ndarray):
            return self._array(image)
        array = np.asarray(self._resize(upright(image).convert(self._mode)))
        return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)

    def _array(self, array: NDArray[Any]) -> NDArray[Any]:
        from PIL import Image

        if len(array) == 3 and self.channels == 1:
            raise ValueError("the array has 3 channels; data.image.channels allows 1")
        if array.shape[1:] != self.size or self.shorter_side is not None:
            planes = [self._resize(Image.fromarray(np.ascontiguousarray(plane))) for plane in array]
            array = np.stack([np.asarray(plane) for plane in planes])
        return np.repeat(array, self.channels, axis=0) if len(array) < self.channels else array

    def _resize(self, image: Image.Image, resample: str = "") -> Image.Image:
        from PIL import Image

        height, width = self.resized(image.height, image.width)
        if height * width > MOST_PIXELS:
            raise ValueError(f"the image becomes {height}x{width} by data.image.resize")
        if image.size != (width, height):
            method = Image.Resampling[(resample or self.resample).upper()]
            image = image.resize((width, height), method)
        if (height, width) == self.size:
            return image
        top, left = self._corner(height, width)
        return image.crop((left, top, left + self.size[1], top + self.size[0]))

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width of an image after resizing, before the crop.

        Example:
            >>> prepare = ImagePreprocess((4, 4), 1, 1.0, (0.0,), (1.0,), shorter_side=6)
            >>> prepare.resized(10, 21)
            (6, 12)
        """
        side = self.shorter_side
        if side is None:
            return self.size
        if height <= width:
            return side, int(side * width / height)
        return int(side * height / width), side

    def _corner(self, height: int, width: int) -> tuple[int, int]:
        """Return the upper and left edge of the crop, as torchvision's `CenterCrop`."""
        return round((height - self.size[0]) / 2), round((width - self.size[1]) / 2)

    def normalise(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """Normalise pixels `[n, channels, height, width]` to model inputs, in float32.

        Example:
            >>> prepare = ImagePreprocess((1, 1), 1, 16.0, (0.25,), (0.5,))
            >>> prepare.normalise(np.full((1, 1, 1, 1), 8, dtype=np.uint8)).item()
            0.5
        """
        # A copy, so that the next steps may work in place.
        inputs = pixels.astype(np.float32)
        inputs /= np.float32(self.divide_by)
        inputs -= np.array(self.mean, dtype=np.float32)[:, None, None]
        inputs /= np.array(self.std, dtype=np.float32)[:, None, None]
        return inputs

    @property
    def bounds(self) -> Bounds:
        """Return the model inputs of a black and of a white pixel, `[channels]` each."""
        ends = np.array([0.0, self.divide_by]).reshape(2, 1, 1, 1)
        least, greatest = self.normalise(np.broadcast_to(ends, (2, self.channels, 1, 1)))
        return least.reshape(-1), greatest.reshape(-1)

    def fill_value(self) -> NDArray[np.float32]:
        """Return the value of a black pixel, `[channels]`: the fill value beyond an edge."""
        return self.normalise(np.zeros((1, self.channels, 1, 1))).reshape(-1)

    def __call__(
        self, images: Sequence[Image.Image | NDArray[Any]]
    ) -> dict[str, NDArray[np.float32]]:
        """Convert images to model inputs: `{"image": [n, channels, height, width]}`.

        An array of the model's own size is what `read` returned, and is not resized again.
        """
        shape = (self.channels, *self.size)
        pixels = [
            image if isinstance(image, np.ndarray) and image.shape == shape else self.pixels(image)
            for image in images
        ]
        return {"image": self.normalise(np.stack(pixels))}

    def read(self, image: object, *, where: str) -> NDArray[Any]:
        """Convert an image as a user has it to pixels `[channels, height, width]`.

        A path, encoded bytes and a PIL image have 256 levels. An array has the scale of the
        training: whole numbers up to `divide_by`, or floats if that is 1.

        Raises:
            InputError: The image cannot be decoded, or an array has another scale.

        Example:
            >>> prepare = ImagePreprocess((4, 4), 3, 255.0, (0.0,) * 3, (1.0,) * 3)
            >>> prepare.read(np.zeros((8, 8), dtype=np.uint8), where="image").shape
            (3, 4, 4)
        """
        opened = open_image(image, where=where)
        height, width = self.resized(*size_of(opened))
        if height * width > MOST_PIXELS:
            allowed = f"at most {MOST_PIXELS:,} pixels after resizing"
            raise InputError(Problem(where, f"an image that becomes {height}x{width}", allowed))
        if not isinstance(opened, np.ndarray):
            pixels = self.pixels(opened)
            return pixels if self.divide_by == 255 else pixels * np.float32(self.divide_by / 255)
        if len(opened) > self.channels:
            given, fix = f"an array of {len(opened)} channels", "Convert it to grey."
            raise InputError(Problem(where, given, "1 channel, as in training", fix))
        return self.pixels(self._to_scale(opened, where))

    def opened(self, value: Any, *, where: str) -> tuple[Any, tuple[int, int]]:
        """Open an image, and return its height and width as well.

        Example:
            >>> prepare = ImagePreprocess((4, 4), 3, 255.0, (0.0,) * 3, (1.0,) * 3)
            >>> prepare.opened(np.zeros((3, 8, 6), dtype=np.uint8), where="image")[1]
            (8, 6)
        """
        opened = open_image(value, where=where)
        return opened, size_of(opened)

    def _to_scale(self, array: NDArray[Any], where: str) -> NDArray[Any]:
        """Return an array in the type of the training; raise if its values have another scale."""
        if array.size == 0 or not np.isfinite(array).all():
            given = "no pixels" if array.size == 0 else "NaN or infinity"
            raise InputError(Problem(where, given, "an image of finite numbers"))
        floats, largest = array.dtype.kind == "f", float(array.max())
        if self.divide_by == 1:
            if not floats:
                fix = "Scale the values as for the training."
                raise InputError(Problem(where, "whole numbers", "floats, as in training", fix))
            return array
        if largest > self.divide_by or (floats and 0 < largest <= 1):
            allowed = f"values from 0 to {self.divide_by:g}, as in training"
            raise InputError(Problem(where, f"values up to {largest:.6g}", allowed))
        whole = floats and array.min() >= 0 and (array == np.rint(array)).all()
        return array.astype(np.uint8) if whole else array

    def save(self, folder: Path) -> list[Path]:
        """Write preprocess.json; return the paths written."""
        return [self._write(folder, mode=self._mode, layout="NCHW")]

    def place_mask(self, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize a mask `[height, width]` as its image, by the nearest pixel.

        Example:
            >>> prepare = ImagePreprocess((2, 2), 1, 255.0, (0.0,), (1.0,))
            >>> prepare.place_mask(np.kron([[0, 1], [2, 3]], np.ones((3, 3))).astype(np.uint8))
            array([[0, 1],
                   [2, 3]], dtype=uint8)
        """
        from PIL import Image

        return np.asarray(self._resize(Image.fromarray(mask), "nearest"))

    def place_boxes(
        self, boxes: NDArray[np.float32], stored_size: tuple[int, int]
    ) -> NDArray[np.float32]:
        """Scale boxes `[n, 4]`, x and y of two corners in pixels of the image as stored.

        Boxes are clipped to the image; one that is cropped away has no area.

        Example:
            >>> prepare = ImagePreprocess((4, 4), 1, 255.0, (0.0,), (1.0,), shorter_side=4)
            >>> prepare.place_boxes(np.array([[0, 0, 10, 8]]), (8, 16))
            array([[0., 0., 3., 4.]], dtype=float32)
        """
        scale, corner = self._placing(stored_size)
        limits = np.tile([self.size[1], self.size[0]], 2)
        return np.clip(boxes * scale - corner, 0, limits).astype(np.float32)

    def restore_boxes(
        self, boxes: NDArray[np.float32], stored_size: tuple[int, int]
    ) -> NDArray[np.float32]:
        """Convert boxes in pixels of the model's input to those of the image as stored.

        Example:
            >>> prepare = ImagePreprocess((4, 4), 1, 255.0, (0.0,), (1.0,), shorter_side=4)
            >>> prepare.restore_boxes(np.array([[0, 0, 3, 4]]), (8, 16))
            array([[ 4.,  0., 10.,  8.]], dtype=float32)
        """
        scale, corner = self._placing(stored_size)
        return ((boxes + corner) / scale).astype(np.float32)

    def _placing(self, stored_size: tuple[int, int]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the scale and the cropped corner of x and y, for both corners of a box."""
        height, width = self.resized(*stored_size)
        top, left = self._corner(height, width)
        scale = np.array([width / stored_size[1], height / stored_size[0]])
        return np.tile(scale, 2), np.tile([left, top], 2)

    def named(self, argument: str, *, row_files: Sequence[str]) -> list[Named]:
        """Return the image of a path, or all images of a folder and its subfolders."""
        path = Path(argument)
        if path.is_file():
            return [(str(path), str(path))]
        if not path.is_dir():
            raise InputError(Problem(argument, "no such file", "an image, or a folder of images"))
        from PIL import Image

        known = {end for end, kind in Image.registered_extensions().items() if kind in FORMATS}
        found = sorted(
            one for one in path.rglob("*") if one.suffix.lower() in known and one.is_file()
        )
        if not found:
            raise InputError(Problem(argument, "no image in it", "a folder of images"))
        return [(str(one), str(one)) for one in found]

    def of_cell(self, cell: Any, folder: Path) -> Any:
        """Return an image; a relative path starts at the folder of the file of rows."""
        return str(folder / cell) if isinstance(cell, str) else cell

    def compare(self, comparison: Comparison) -> None:
        """Compare size and interpolation with those of a trained model's images."""
        if comparison.trained:
            return
        found, section = comparison.found, comparison.section
        stated = section is not None and section.states_size
        own, size = found.size, f"{self.size[0]} x {self.size[1]}"
        if own is not None and own != self.size:
            if stated:
                comparison.note(
                    f"it was trained on images of {own[0]} x {own[1]} ({found.origin}); "
                    f"data.image.size makes them {size}."
                )
            else:
                comparison.refuse(
                    comparison.where,
                    f"images of {size}",
                    f"{own[0]} x {own[1]}, on which the model was trained ({found.origin})",
                    f"Set data.image.size: {_size(own)}; or data.image.size: {_size(self.size)}, "
                    "to keep the size of the data.",
                )
        if stated and found.interpolation and found.interpolation != self.resample:
            comparison.note(
                f"its images were resized with {found.interpolation} interpolation "
                f"({found.origin}), the data's with {self.resample}."
            )


def _size(size: tuple[int, int]) -> str:
    """Return a size as a recipe states it: one number if it is square."""
    return str(size[0]) if size[0] == size[1] else f"[{size[0]}, {size[1]}]"
