"""Images: resized, normalised by channel, augmented by crop, shift and flip."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, cast

from pydantic import Field, JsonValue, model_validator

from limbeck.data.images import referenced_files
from limbeck.data.modalities.image._preprocess import LARGEST_SIDE, ImagePreprocess, Side
from limbeck.data.modality import StreamedModality, Usage
from limbeck.data.settings import Section, Settings

if TYPE_CHECKING:
    from typing import Self

    import datasets
    import numpy as np
    from numpy.typing import NDArray

    from limbeck.data.loaded import Loaded
    from limbeck.data.preprocess import Preprocess
    from limbeck.data.rows import Samples
    from limbeck.data.spec import DataSpec
    from limbeck.data.split import Division, Prepared

MOST_VIEWS = 10_000
Level = Annotated[float, Field(ge=-1e6, le=1e6, allow_inf_nan=False)]
Deviation = Annotated[float, Field(gt=1e-7, le=1e6, allow_inf_nan=False)]
Alpha = Annotated[float, Field(ge=1e-3, le=1e3, allow_inf_nan=False)]
Move = Annotated[int, Field(ge=0, le=LARGEST_SIDE)]

CODE = """
loaded = ImageOps.exif_transpose(Image.open("image.png")).convert(prepare["mode"])
height, width = prepare["size"]
side = prepare.get("shorter_side")
full = [int(side * one / min(loaded.size)) for one in loaded.size] if side else [width, height]
if loaded.size != (*full,):
    loaded = loaded.resize(full, Image.Resampling[prepare["resample"].upper()])
left, top = round((full[0] - width) / 2), round((full[1] - height) / 2)
loaded = loaded.crop((left, top, left + width, top + height))
pixels = np.asarray(loaded, dtype=np.float32).reshape(height, width, prepare["channels"])
pixels = pixels / np.float32(255)  # a file has 256 levels
pixels = (pixels - np.float32(prepare["mean"])) / np.float32(prepare["std"])
image = pixels.transpose(2, 0, 1)[None]
"""


class ShorterSide(Settings):
    """The setting `{shorter_side: 256}` of `image.resize`.

    Attributes:
        shorter_side: The length of the shorter side in pixels; the aspect ratio is kept.
    """

    shorter_side: Side


class ImageSpec(Section):
    """Image preprocessing settings.

    Attributes:
        size: The size of the model's input: `[height, width]`, or one number for both; images are
            resized to it. Unchanged if not given (then all must be equal).
        resize: Resize the shorter side to a number of pixels, `{shorter_side: 256}`, which keeps
            the aspect ratio; with `crop: centre`.
        crop: After `resize`, crop `size` from the centre.
        channels: 1 for grey, 3 for colour; inferred from the images if not given.
        mean: The mean per channel, in [0, 1]; computed on the training rows if not given.
        std: The standard deviation per channel; computed on the training rows if not given.
        decode: Decode all images once and keep their pixels in memory, or decode each batch on
            demand; on demand if the pixels of all splits take over 2 GiB and this is not given.
        verify: Before training, also decode each image that is decoded on demand, to report all
            corrupt ones; otherwise only headers are read.
    """

    size: Side | tuple[Side, Side] | None = None
    resize: ShorterSide | None = None
    crop: Literal["centre"] | None = None
    channels: Literal[1, 3] | None = None
    mean: tuple[Level, ...] | None = None
    std: tuple[Deviation, ...] | None = None
    decode: Literal["memory", "on_demand"] | None = None
    verify: bool = False

    @property
    def states_normalization(self) -> bool:
        """Return whether mean and deviation are stated."""
        return bool(self.mean and self.std)

    @property
    def sides(self) -> tuple[int, int] | None:
        """Return the stated height and width."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    @property
    def states_size(self) -> bool:
        """Return whether the size is stated."""
        return self.size is not None

    @model_validator(mode="after")
    def _check_crop(self) -> Self:
        if self.resize is None and self.crop is None:
            return self
        if self.resize is None or self.crop is None or self.sides is None:
            raise ValueError(
                "resize and crop need one another and size; allowed: all three, such as "
                "size: 224, resize: {shorter_side: 256}, crop: centre"
            )
        if max(self.sides) > self.resize.shorter_side:
            raise ValueError(
                f"size {self.size} is larger than the shorter side, {self.resize.shorter_side}; "
                "allowed: a size within it"
            )
        return self

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
        transforms: Transforms of torchvision.transforms.v2 by name, in order, with their arguments:
            `[{random_resized_crop: {scale: [0.5, 1]}}, trivial_augment_wide]`; they follow crop,
            flip and shift. A `size` that is not given is that of the model's input. Masks and boxes
            move too. Pixels are in [0, 1]. Needs the extra `vision`.
        mixup: Mix each image and its label with another training row; the number is alpha, of
            Beta(alpha, alpha), from which the share of each is drawn: 0.2 for ImageNet, 1 for
            distillation. The partner is another row at random, in the same epoch's variant.
        cutmix: Replace a window of each image by that of another row, and mix the labels by area;
            the number is alpha, 1 in the paper. With mixup, each image has one of the two.
        mix_probability: The share of the images that are mixed, each by its own draw.
        views: The number of variants per image, the same for every seed, which epochs cycle
            through. Without it every epoch has new variants, and teacher outputs cannot be cached.
    """

    crop: Move = 0
    flip: bool = False
    shift: Move = 0
    transforms: tuple[str | dict[str, dict[str, JsonValue] | None], ...] = ()
    mixup: Alpha | None = None
    cutmix: Alpha | None = None
    mix_probability: Annotated[float, Field(gt=0, le=1)] = 1.0
    views: Annotated[int, Field(gt=0, le=MOST_VIEWS)] | None = None

    @model_validator(mode="after")
    def _check_mixing(self) -> Self:
        if self.mix_probability != 1 and self.mixup is None and self.cutmix is None:
            raise ValueError("mix_probability is given; allowed: with mixup or cutmix")
        return self


class ImageKeys(Settings):
    """The keys of images.

    Attributes:
        image: The image preprocessing.
        augment: The augmentation of training images.
    """

    image: ImageSpec | None = None
    augment: AugmentSpec | None = None


class Images(StreamedModality[ImageKeys]):
    """Images, encoded or as arrays."""

    name: ClassVar[str] = "image"
    keys: ClassVar[type[Settings]] = ImageKeys
    preprocess: ClassVar[type[Preprocess]] = ImagePreprocess
    training_only: ClassVar[frozenset[str]] = frozenset({"augment"})
    later: ClassVar[frozenset[str]] = frozenset({"resize", "crop", "decode", "verify"})
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

    def samples(
        self,
        spec: DataSpec,
        rows: datasets.Dataset,
        preprocess: Preprocess,
        numbers: NDArray[np.int64],
    ) -> Samples:
        """Return images of a stream, decoded when they are read."""
        from limbeck.data.modalities.image._samples import StreamedImages

        own = cast("ImagePreprocess", preprocess)
        settings = self.of(spec).image or ImageSpec()
        size = None if settings.size else own.size
        return StreamedImages(rows, spec.columns.image, own, numbers, size=size)

    def files(self, spec: DataSpec, loaded: Loaded) -> dict[str, str]:
        """Hash the image files that rows reference by path."""
        return referenced_files(loaded, spec.columns.image)


modality = Images()
