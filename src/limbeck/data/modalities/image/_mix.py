"""Mixup and CutMix: each training image mixed with another row, drawn by seed, index and view.

The partner is a row of the data set and not of the batch. A sample is therefore the same in every
batch, order and process, a cached teacher answers the mixed image, and no gradient depends on how
a step is divided into micro-batches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from limbeck.core.random import below, random_bits
from limbeck.data.rows import MixableLabels
from limbeck.errors import InputError, Problem

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from limbeck.data.modalities.image import AugmentSpec
    from limbeck.data.rows import Batch, RowLabels

# Indices of the draws, beside those of `_augment` and `_transforms`.
PARTNER, CHOSEN, KIND, SHARE, CENTRE = 5, 6, 7, 8, 9
MANTISSA = 53


@dataclass(frozen=True)
class ImageMix:
    """The draw of a batch: the partner of each image, and how the two are mixed.

    Attributes:
        partner: The partner's row in the split, int64 `[n]`; the own row if it is not mixed.
        share: The share of the own label, float32 `[n]`: that of its pixels.
        windows: For CutMix, the rows and columns that are the partner's, as upper, lower, left and
            right edge, int64 `[n, 4]`; an empty window for the other images.
        blended: Whether an image is a sum of both (mixup), bool `[n]`.
    """

    partner: Tensor
    share: Tensor
    windows: Tensor
    blended: Tensor

    def inputs(self, own: Batch, partner: Batch) -> Batch:
        """Return the mixed `image`, `[n, c, h, w]`, of augmented images and their partners'."""
        image, other = own["image"], partner["image"]
        height, width = image.shape[-2:]
        top, bottom, left, right = self.windows[:, :, None].unbind(1)
        down, across = torch.arange(height), torch.arange(width)
        inside = ((down >= top) & (down < bottom))[:, :, None]
        inside = inside & ((across >= left) & (across < right))[:, None, :]
        pasted = torch.where(inside[:, None], other, image)
        share = self.share.to(image.dtype)[:, None, None, None]
        blended = image * share + other * (1 - share)
        return {"image": torch.where(self.blended[:, None, None, None], blended, pasted)}


@dataclass(frozen=True)
class ImageMixing:
    r"""Mixup and CutMix of some settings.

    Mixup is $\lambda a + (1 - \lambda) b$ with $\lambda \sim \mathrm{Beta}(\alpha, \alpha)$; CutMix
    replaces a window of $a$ by that of $b$, whose sides are $\sqrt{1 - \lambda}$ of the image's, at
    a uniform centre, clipped; $\lambda$ is then the share of $a$ that is left. Labels are mixed
    with the same $\lambda$.

    Attributes:
        mixup: Alpha of mixup; None for none.
        cutmix: Alpha of CutMix; None for none. With both, each image has either with probability ½.
        probability: The share of the images that are mixed.
        size: The height and width of the images.

    Source: Zhang et al. 2018, "mixup"; Yun et al. 2019, "CutMix".
    """

    mixup: float | None
    cutmix: float | None
    probability: float
    size: tuple[int, int]

    def draw(self, index: Tensor, *, rows: int, seed: int, view: int) -> ImageMix:
        """Draw how some rows of a split are mixed.

        Args:
            index: The rows, int64 `[n]`.
            rows: The number of rows in the split.
            seed: The run's seed.
            view: The variant.
        """
        own = index.numpy()

        def bits(draw: int) -> NDArray[np.uint64]:
            return random_bits(seed, view, draw, index=own)

        chosen = uniform(bits(CHOSEN)) < self.probability
        cuts = np.full(len(own), self.mixup is None)
        if self.mixup is not None and self.cutmix is not None:
            cuts = bits(KIND) >> np.uint64(63) == 1
        share, numbers = np.ones(len(own)), uniform(bits(SHARE))
        for alpha, drawn in ((self.mixup, chosen & ~cuts), (self.cutmix, chosen & cuts)):
            if alpha is not None:
                share[drawn] = beta_quantile(alpha, numbers[drawn])
        windows = self._windows(share, chosen & cuts, bits(CENTRE))
        height, width = self.size
        areas = (windows[:, 1] - windows[:, 0]) * (windows[:, 3] - windows[:, 2])
        share = np.where(cuts, 1 - areas / (height * width), share)
        partner = np.where(share < 1, below(rows, bits(PARTNER)), own)
        return ImageMix(
            torch.from_numpy(partner),
            torch.from_numpy(share.astype(np.float32)),
            torch.from_numpy(windows),
            torch.from_numpy(chosen & ~cuts),
        )

    def _windows(
        self, share: NDArray[np.float64], cuts: NDArray[np.bool_], bits: NDArray[np.uint64]
    ) -> NDArray[np.int64]:
        """Return the window of each cut image, clipped to it: its centre may be anywhere."""
        edges = []
        half = 0.5 * np.sqrt(1 - share)
        for length, drawn in zip(self.size, (bits, bits << np.uint64(32)), strict=True):
            centre, reach = below(length, drawn), (half * length).astype(np.int64)
            edges += [np.maximum(centre - reach, 0), np.minimum(centre + reach, length)]
        return np.where(cuts[:, None], np.stack(edges, axis=1), 0)


def uniform(bits: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Convert random bits to numbers in (0, 1).

    Example:
        >>> bool(0 < uniform(np.zeros(1, dtype=np.uint64))[0] < 1e-15)
        True
    """
    return ((bits >> np.uint64(64 - MANTISSA)).astype(np.float64) + 0.5) * 2.0**-MANTISSA


def beta_quantile(alpha: float, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the quantiles of the distribution Beta(alpha, alpha).

    Example:
        >>> beta_quantile(1.0, np.array([0.25])).tolist()
        [0.25]
    """
    from scipy.special import betaincinv

    found: NDArray[np.float64] = betaincinv(alpha, alpha, numbers)
    return found


def mixing_of(spec: AugmentSpec, size: tuple[int, int]) -> ImageMixing | None:
    """Return the mixing of some settings; None if they state none."""
    if spec.mixup is None and spec.cutmix is None:
        return None
    return ImageMixing(spec.mixup, spec.cutmix, spec.mix_probability, size)


def check_mixable(spec: AugmentSpec, labels: RowLabels) -> None:
    """Check that labels can be mixed.

    Raises:
        InputError: They are masks, boxes or numbers.
    """
    given = [name for name in ("mixup", "cutmix") if getattr(spec, name) is not None]
    if not given or (isinstance(labels, MixableLabels) and labels.mixable):
        return
    kinds = {"mask": "masks", "boxes": "boxes"}
    found = [kinds[one.form] for one in labels.spatial] or ["numeric targets"]
    allowed = "for one class per image, and for independent labels of 0 and 1"
    fix = "Their mixture is not defined: leave it out; crop, flip and transforms apply."
    raise InputError(
        *(Problem(f"data.augment.{name}", f"with {found[0]}", allowed, fix) for name in given)
    )
