"""A convolutional net with early exits for small images (BranchyNet)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["early_exit_cnn"]


def _convolution(channels: int, width: int, stride: int = 1) -> list[nn.Module]:
    return [
        nn.Conv2d(channels, width, kernel_size=3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),  # not in place: a hook may capture its input
    ]


def _block(channels: int, width: int, depth: int, *, pool: bool) -> nn.Sequential:
    layers = _convolution(channels, width)
    for _ in range(depth - 1):
        layers += _convolution(width, width)
    return nn.Sequential(*layers, *([nn.MaxPool2d(2)] if pool else []))


def _head(width: int, classes: int, *, early: bool) -> nn.Sequential:
    # Features of early layers are local: a convolution before the pooling.
    first = _convolution(width, 2 * width, stride=2) if early else []
    last = nn.Linear(2 * width if early else width, classes)
    return nn.Sequential(*first, nn.AdaptiveAvgPool2d(1), nn.Flatten(1), last)


class EarlyExitCNN(nn.Module):
    """Blocks of 3x3 convolutions, each followed by an exit; downsampling by 2 between blocks.

    In training mode it returns the logits of all exits. In evaluation mode a sample leaves at the
    first exit whose largest probability reaches the threshold, and later blocks are not computed if
    every sample of the batch has left; ONNX has an `If` there. A sample's logits do not depend on
    the others of its batch.

    Attributes:
        exit_thresholds: The threshold of each exit but the last; empty for no early exit.
        exit_rates: The share of samples that leave at each exit, as measured.
    """

    def __init__(self, classes: int, channels: int, width: int, blocks: int, depth: int) -> None:
        super().__init__()
        if blocks < 2 or depth < 1:
            raise ValueError(f"blocks, depth: got {blocks}, {depth}; allowed: at least 2 and 1")
        self.exit_thresholds: tuple[float, ...] = ()
        self.exit_rates: tuple[float, ...] = ()
        widths = [width * 2**place for place in range(blocks)]
        last = blocks - 1
        self.blocks = nn.ModuleList(
            _block(widths[place - 1] if place else channels, one, depth, pool=place < last)
            for place, one in enumerate(widths)
        )
        self.exits = nn.ModuleList(
            _head(one, classes, early=place < last) for place, one in enumerate(widths)
        )

    def forward(self, image: Tensor) -> Tensor | dict[str, Tensor]:
        """Return the logits `[n, classes]` of images `[n, channels, height, width]`.

        In training mode, `logits` of the last exit and `aux0`, `aux1`, ... of the others.
        """
        if not self.training:
            return self._from(image, 0)
        *early, last = self.exit_logits(image)
        return {"logits": last, **{f"aux{place}": one for place, one in enumerate(early)}}

    def exit_logits(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the logits `[n, classes]` of every exit, the last exit last."""
        found, x = [], image
        for block, head in zip(self.blocks, self.exits, strict=True):
            x = block(x)
            found.append(head(x))
        return tuple(found)

    def _from(self, x: Tensor, place: int) -> Tensor:
        """Return the logits from the features before a block."""
        x = self.blocks[place](x)
        if place == len(self.blocks) - 1:
            return self.exits[place](x)
        if place >= len(self.exit_thresholds):
            return self._from(x, place + 1)
        logits = self.exits[place](x)
        leaves = logits.softmax(1).amax(1, keepdim=True) >= self.exit_thresholds[place]

        def leave(x: Tensor, logits: Tensor, leaves: Tensor) -> Tensor:
            return logits.clone()  # a branch of `cond` may not return its input

        def stay(x: Tensor, logits: Tensor, leaves: Tensor) -> Tensor:
            return torch.where(leaves, logits, self._from(x, place + 1))

        inputs = (x, logits, leaves)
        if torch.compiler.is_exporting():
            return torch.cond(leaves.all(), leave, stay, inputs)
        return logits if bool(leaves.all()) else stay(*inputs)


def early_exit_cnn(
    classes: int, channels: int = 1, *, width: int = 16, blocks: int = 3, depth: int = 2
) -> nn.Module:
    """Build the net; with width 16, 3 blocks of 2 convolutions and 10 classes: 96,878 parameters.

    Args:
        classes: The number of logits.
        channels: The number of image channels.
        width: The channels of the first block; each next one has twice as many.
        blocks: The number of blocks, each with an exit; at least 2.
        depth: The number of convolutions of a block.

    Example:
        >>> sum(parameter.numel() for parameter in early_exit_cnn(10).parameters())
        96878

    Source: Teerapittayanon, McDanel and Kung 2016, "BranchyNet".
    """
    return EarlyExitCNN(classes, channels, width, blocks, depth)
