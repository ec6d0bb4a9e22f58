"""Images: resized, normalised by channel, augmented by crop, shift and flip."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from limbeck.data.images import referenced_files
from limbeck.data.modalities.image._preprocess import LARGEST_SIDE, ImagePreprocess
from limbeck.data.modality import Modality, Usage
from limbeck.data.settings import Section, Settings

if TYPE_CHECKING:
    from typing import Self

    from limbeck.data.loaded import Loaded
    from limbeck.data.preprocess import Preprocess
    from limbeck.data.spec import DataSpec
    from limbeck.data.split import Division, Prepared

MOST_VIEWS = 10_000
Level = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]
Deviation = Annotated[float, Field(gt=1e-7, le=1e6, allow_inf_nan=False)]
Move = Annotated[int, Field(ge=0, le=LARGEST_SIDE)]

CODE = """
loaded = ImageOps.exif_transpose(Image.open("image.png")).convert(prepare["mode"])
height, width = prepare["size"]
if loaded.size != (width, height):
    loaded = loaded.resize((width, height), Image.Resampling[prepare["resample"].upper()])
pixels = np.asarray(loaded, dtype=np.float32).reshape(height, width, prepare["channels"])
pixels = pixels / np.float32(255)  # a file has 256 levels
pixels = (pixels - np.float32(prepare["mean"])) / np.float32(prepare["std"])
image = pixels.transpose(2, 0, 1)[None]
"""


class ImageSpec(Section):
    """Image preprocessing settings.

    Attributes:
        size: Height and width after resizing; unchanged if not given (then all must be equal).
        channels: 1 for grey, 3 for colour; inferred from the images if not given.
        mean: The mean per channel, in [0, 1]; computed on the training rows if not given.
        std: The standard deviation per channel; computed on the training rows if not given.
    """

    size: Annotated[int, Field(gt=0, le=LARGEST_SIDE)] | None = None
    channels: Literal[1, 3] | None = None
    mean: tuple[Level, ...] | None = None
    std: tuple[Deviation, ...] | None = None

    @property
    def states_normalization(self) -> bool:
        """Return whether mean and deviation are stated."""
        return bool(self.mean and self.std)

    @property
    def states_size(self) -> bool:
        """Return whether the size is stated."""
        return self.size is not None

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        lengths = {self.channels} if self.channels else {1, 3}
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) not in lengths:
                raise ValueError(f"{name} has {len(values)} numbers; allowed: one per channel")
        if self.mean and self.std and len(self.mean) != len(self.std):
            raise ValueError("mean and std differ in length; allowed: one number per channel each")
        return self


class AugmentSpec(Settings):
    """Augmentation settings of training images, each image with its own random numbers.

    Attributes:
        crop: Pad with this many black pixels on each side, then crop to the original size at
            random.
        flip: Flip half of the images horizontally.
        shift: Move by up to this many pixels in each direction, filling with black.
        views: The number of variants per image, which epochs cycle through. Without it every epoch
            has new variants, and teacher outputs cannot be cached.
    """

    crop: Move = 0
    flip: bool = False
    shift: Move = 0
    views: Annotated[int, Field(gt=0, le=MOST_VIEWS)] | None = None


class ImageKeys(Settings):
    """The keys of images.

    Attributes:
        image: The image preprocessing.
        augment: The augmentation of training images.
    """

    image: ImageSpec | None = None
    augment: AugmentSpec | None = None


class Images(Modality[ImageKeys]):
    """Images, encoded or as arrays."""

    name: ClassVar[str] = "image"
    keys: ClassVar[type[Settings]] = ImageKeys
    preprocess: ClassVar[type[Preprocess]] = ImagePreprocess
    training_only: ClassVar[frozenset[str]] = frozenset({"augment"})
    usage: ClassVar[Usage] = Usage(
        argument="image.png",
        packages="numpy, Pillow",
        imports="from PIL import Image, ImageOps",
        code=CODE,
        inputs=("image",),
    )

    def recognised_by(self, spec: DataSpec) -> str:
        """Return the image column."""
        return spec.columns.image

    def columns(self, spec: DataSpec) -> dict[str, str]:
        """Return the image column."""
        return {spec.columns.image: "data.columns"}

    def prepare(
        self, spec: DataSpec, loaded: Loaded, division: Division, *, workdir: Path
    ) -> Prepared:
        """Build splits of images."""
        from limbeck.data.modalities.image._samples import prepare

        own = self.of(spec)
        return prepare(spec.columns.image, own.image or ImageSpec(), own.augment, loaded, division)

    def files(self, spec: DataSpec, loaded: Loaded) -> dict[str, str]:
        """Hash the image files that rows reference by path."""
        return referenced_files(loaded, spec.columns.image)


modality = Images()
