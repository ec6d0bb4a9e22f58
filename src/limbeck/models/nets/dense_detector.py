"""A small anchor-free detector: residual backbone, feature pyramid, one head for all levels.

It has the structure of FCOS (Tian et al. 2019) without centerness, with strides of 8, 16 and 32.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["dense_detector"]

LOG_ODDS = -4.595
"""The logit of every class before training, of a probability of 0.01 (Lin et al. 2017)."""

DISTANCE = 4.0
"""The distance to each edge before training, in strides: half of an anchor box."""


def _conv(old: int, new: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(old, new, kernel_size=3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(new),
    )


class Block(nn.Module):
    """A residual block with a stride of 2: two 3x3 convolutions, and a 1x1 convolution beside."""

    def __init__(self, old: int, new: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = _conv(old, new, stride=2), _conv(new, new)
        self.shortcut = nn.Sequential(
            nn.Conv2d(old, new, kernel_size=1, stride=2, bias=False), nn.BatchNorm2d(new)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return `[n, new, height / 2, width / 2]`."""
        return F.relu(self.conv2(F.relu(self.conv1(x))) + self.shortcut(x))


class DenseDetector(nn.Module):
    """A backbone of four blocks, a feature pyramid of three levels, and a shared head.

    Args:
        classes: The number of classes.
        channels: The number of image channels.
        width: The channels of the first block; the last two have four times as many.
        depth: The number of convolutions of either branch of the head.
    """

    def __init__(self, classes: int, channels: int, width: int, depth: int) -> None:
        super().__init__()
        widths = (width, 2 * width, 4 * width, 4 * width)
        inner = 2 * width
        self.stem = _conv(channels, width, stride=2)
        self.block1 = Block(width, widths[0])
        self.block2 = Block(widths[0], widths[1])
        self.block3 = Block(widths[1], widths[2])
        self.block4 = Block(widths[2], widths[3])
        self.laterals = nn.ModuleList([nn.Conv2d(one, inner, 1) for one in widths[1:]])
        self.smooth = nn.ModuleList([_conv(inner, inner) for _ in widths[1:]])
        self.class_branch, self.box_branch = (_branch(inner, depth) for _ in range(2))
        self.classes = nn.Conv2d(inner, classes, 3, padding=1)
        self.box = nn.Conv2d(inner, 4, 3, padding=1)
        self.scales = nn.Parameter(torch.ones(3))
        for layer, start in ((self.classes, LOG_ODDS), (self.box, DISTANCE)):
            nn.init.normal_(layer.weight, std=0.01)
            if layer.bias is not None:
                nn.init.constant_(layer.bias, start)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Return `classes [n, points, classes]` and `box [n, points, 4]` of an image."""
        levels = []
        x = self.block1(F.relu(self.stem(image)))
        for block in (self.block2, self.block3, self.block4):
            x = block(x)
            levels.append(x)
        found: list[tuple[Tensor, Tensor]] = []
        above: Tensor | None = None
        for place in (2, 1, 0):
            level = self.laterals[place](levels[place])
            if above is not None:
                level = level + F.interpolate(above, size=level.shape[-2:])
            above = level
            found.append(self._head(F.relu(self.smooth[place](level)), place))
        classes, box = (torch.cat(parts, dim=1) for parts in zip(*reversed(found), strict=True))
        return {"classes": classes, "box": box}

    def _head(self, level: Tensor, place: int) -> tuple[Tensor, Tensor]:
        classes = self.classes(self.class_branch(level))
        box = F.softplus(self.box(self.box_branch(level))) * self.scales[place]
        return _points(classes), _points(box)


def _branch(width: int, depth: int) -> nn.Sequential:
    # Batch statistics would mix the levels, which have different ones.
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Conv2d(width, width, 3, padding=1, bias=False), nn.GroupNorm(8, width)]
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)


def _points(level: Tensor) -> Tensor:
    """Return a level `[n, values, height, width]` as `[n, height · width, values]`."""
    return level.flatten(2).transpose(1, 2)


def dense_detector(
    classes: int, channels: int = 3, *, width: int = 16, depth: int = 2
) -> nn.Module:
    """Build a detector for `object_detection`: 228,090 parameters with 3 classes.

    Args:
        classes: The number of classes.
        channels: The number of image channels.
        width: The channels of the first block, a multiple of 4.
        depth: The number of convolutions of either branch of the head.

    Example:
        >>> net = dense_detector(3)
        >>> {name: tuple(one.shape) for name, one in net(torch.zeros(1, 3, 64, 64)).items()}
        {'classes': (1, 84, 3), 'box': (1, 84, 4)}
    """
    return DenseDetector(classes, channels, width, depth)
