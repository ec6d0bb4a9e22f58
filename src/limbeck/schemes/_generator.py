"""Generators of model inputs from noise: a trained one, and random inputs as its control."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Bounds = tuple[Tensor, Tensor]
"""The least and the greatest value of an input: per channel, or per feature."""


class Generator(nn.Module):
    """A generator of model inputs from Gaussian noise: convolutions for images, else two layers.

    Images grow from a quarter of their size by nearest neighbours and convolutions, as in DCGAN.
    Outputs are inside the bounds by a sigmoid; without bounds they are standardised, as normalised
    inputs are, by a last batch normalisation without parameters.

    Args:
        shape: The shape of one input: `[channels, height, width]` or `[features]`.
        bounds: The least and the greatest value of an input, per channel or feature.
        latent: The size of the noise.
        width: The channels before the output, or the hidden features.

    Example:
        >>> generator = Generator((1, 8, 8), latent=16, width=8)
        >>> generator(torch.randn(4, 16)).shape
        torch.Size([4, 1, 8, 8])

    Source: Radford, Metz and Chintala 2016 (arXiv 1511.06434), as changed by Fang et al. 2019
        (arXiv 1912.11006): upsampling in place of transposed convolutions.
    """

    def __init__(
        self, shape: Sequence[int], *, bounds: Bounds | None = None, latent: int, width: int
    ) -> None:
        super().__init__()
        self._shape, self.latent = tuple(shape), latent
        if len(shape) == 3:
            channels, *self._size = shape
            self._start = [max(1, math.ceil(side / 4)) for side in self._size]
            self.project = nn.Linear(latent, 2 * width * math.prod(self._start))
            self.coarse = _convolution(2 * width, 2 * width)
            self.fine = _convolution(2 * width, width)
            self.output: nn.Module = nn.Conv2d(width, channels, 3, padding=1)
            self.first = nn.BatchNorm2d(2 * width)
        else:
            [features] = shape
            self.project = nn.Linear(latent, width)
            self.fine = nn.Sequential(nn.BatchNorm1d(width), nn.LeakyReLU(0.2))
            self.output = nn.Linear(width, features)
        if bounds is None:
            norm = nn.BatchNorm2d if len(shape) == 3 else nn.BatchNorm1d
            self.standardize = norm(shape[0], affine=False)
        self.bounds = _Bounds(bounds, len(shape))

    def forward(self, latent: Tensor) -> Tensor:
        """Generate inputs `[n, *shape]` from noise `[n, latent]`."""
        hidden = self.project(latent)
        if len(self._shape) == 3:
            hidden = self.first(hidden.unflatten(1, (-1, *self._start)))
            middle = [2 * side for side in self._start]
            hidden = self.coarse(F.interpolate(hidden, size=middle))
            hidden = self.fine(F.interpolate(hidden, size=self._size))
        else:
            hidden = self.fine(hidden)
        values: Tensor = self.output(hidden)
        if not self.bounds.known:
            standardized: Tensor = self.standardize(values)
            return standardized
        return self.bounds(values.sigmoid())


class RandomInputs(nn.Module):
    """Random inputs: uniform between the bounds, or Gaussian without; nothing is trained.

    Args:
        shape: The shape of one input.
        bounds: The least and the greatest value of an input, per channel or feature.
    """

    def __init__(self, shape: Sequence[int], *, bounds: Bounds | None = None) -> None:
        super().__init__()
        self._shape, self.latent = tuple(shape), math.prod(shape)
        self.bounds = _Bounds(bounds, len(shape))

    def forward(self, latent: Tensor) -> Tensor:
        """Convert Gaussian noise `[n, numbers]` to inputs `[n, *shape]`."""
        values = latent.unflatten(1, self._shape)
        if not self.bounds.known:
            return values
        return self.bounds(torch.special.ndtr(values))


class _Bounds(nn.Module):
    """The linear map from [0, 1] to the range of an input."""

    least: Tensor
    greatest: Tensor

    def __init__(self, bounds: Bounds | None, axes: int) -> None:
        super().__init__()
        self.known = bounds is not None
        for name, values in zip(("least", "greatest"), bounds or (), strict=False):
            self.register_buffer(name, values.float().view(-1, *[1] * (axes - 1)))

    def forward(self, share: Tensor) -> Tensor:
        return self.least + share * (self.greatest - self.least)


def _convolution(channels: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.LeakyReLU(0.2),
    )
