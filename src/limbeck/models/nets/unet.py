"""A U-Net for semantic segmentation, of any width and depth."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["unet"]


def _block(inputs: int, width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (inputs, width):
        layers += [
            nn.Conv2d(channels, width, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),  # not in place: a hook may capture its input
        ]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """An encoder and a decoder of convolutions, joined at every resolution."""

    def __init__(self, classes: int, channels: int, width: int, depth: int) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        self.encoder = nn.ModuleList(
            _block(before, after)
            for before, after in zip([channels, *widths], widths, strict=False)
        )
        self.decoder = nn.ModuleList(
            _block(low + high, low) for low, high in zip(widths[-2::-1], widths[:0:-1], strict=True)
        )
        self.head = nn.Conv2d(width, classes, kernel_size=1)

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits `[n, classes, height, width]` of images `[n, channels, ...]`."""
        x, skipped = image, []
        for level, block in enumerate(self.encoder):
            x = block(x if level == 0 else F.max_pool2d(x, 2))
            skipped.append(x)
        skipped.pop()
        for block in self.decoder:
            skip = skipped.pop()
            # Of odd sizes, twice the half is not the whole.
            x = F.interpolate(x, size=skip.shape[-2:], mode="nearest")
            x = block(torch.cat([skip, x], dim=1))
        return self.head(x)


def unet(classes: int, channels: int = 3, *, width: int = 16, depth: int = 3) -> nn.Module:
    """Build a U-Net: `depth` times, the resolution is halved and the width doubled.

    Args:
        classes: The number of classes.
        channels: The number of image channels.
        width: The channels at full resolution.
        depth: How often the resolution is halved.

    Example:
        >>> net = unet(11, width=8)
        >>> net(torch.zeros(1, 3, 45, 60)).shape
        torch.Size([1, 11, 45, 60])

    Source: Ronneberger et al. 2015, "U-Net: convolutional networks for biomedical image
    segmentation"; here with batch normalisation, padding, and resizing in place of transposed
    convolutions.
    """
    return UNet(classes, channels, width, depth)
