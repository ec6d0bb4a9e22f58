"""ResNets for 32x32 images (He et al. 2016, section 4.2).

With `shortcut="conv"` (option B, a 1x1 convolution where the shape changes) and the widths below
they are the nets of the usual CIFAR-100 distillation benchmark (Tian et al. 2020). With
`shortcut="pad"` (option A, as in the paper: every second pixel, new channels zero) they have the
shapes and names of the CIFAR-10 weights of Yerlan Idelbayev's pytorch_resnet_cifar10.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "resnet8",
    "resnet8x4",
    "resnet20",
    "resnet32",
    "resnet32x4",
    "resnet44",
    "resnet56",
    "resnet110",
]


class Pad(nn.Module):
    """The option A shortcut: every second pixel; new channels are zero, half before, half after."""

    def __init__(self, old: int, new: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = (new - old) // 2
        self.after = new - old - self.before

    def forward(self, x: Tensor) -> Tensor:
        """Return `[n, new, height / stride, width / stride]`."""
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, self.before, self.after))


def _shortcut(kind: str, old: int, new: int, stride: int) -> nn.Module:
    if old == new and stride == 1:
        return nn.Identity()
    if kind == "pad":
        return Pad(old, new, stride)
    return nn.Sequential(
        nn.Conv2d(old, new, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(new)
    )


class Block(nn.Module):
    """A basic residual block: two 3x3 convolutions and a shortcut."""

    def __init__(self, old: int, new: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(old, new, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(new)
        self.conv2 = nn.Conv2d(new, new, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(new)
        self.shortcut = _shortcut(shortcut, old, new, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Add the output of the convolutions to the shortcut."""
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """A ResNet: 3x3 convolution, three groups of blocks, global average pooling, linear layer."""

    def __init__(
        self,
        widths: tuple[int, int, int, int],
        blocks: int,
        classes: int,
        channels: int,
        shortcut: str,
    ) -> None:
        super().__init__()
        if shortcut not in {"conv", "pad"}:
            raise ValueError(f"shortcut: got {shortcut!r}; allowed: conv, pad")
        self.conv1 = nn.Conv2d(channels, widths[0], kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        groups = [
            nn.Sequential(
                Block(old, new, stride, shortcut),
                *(Block(new, new, 1, shortcut) for _ in range(blocks - 1)),
            )
            for old, new, stride in zip(widths, widths[1:], (1, 2, 2), strict=False)
        ]
        self.layer1, self.layer2, self.layer3 = groups
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(widths[3], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits `[n, classes]` of images `[n, channels, height, width]`."""
        x = F.relu(self.bn1(self.conv1(image)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(self.pool(x).flatten(1))


NARROW, WIDE = (16, 16, 32, 64), (32, 64, 128, 256)


def resnet8(classes: int, channels: int = 3, *, shortcut: str = "conv") -> nn.Module:
    """Build ResNet-8: 83,892 parameters with 100 classes; 75,290 with 10 and option A.

    Args:
        classes: The number of logits.
        channels: The number of image channels.
        shortcut: `conv` (option B, a 1x1 convolution) or `pad` (option A, no parameters).

    Example:
        >>> sum(parameter.numel() for parameter in resnet8(10, shortcut="pad").parameters())
        75290
    """
    return CifarResNet(NARROW, 1, classes, channels, shortcut)


def resnet20(classes: int, channels: int = 3, *, shortcut: str = "conv") -> nn.Module:
    """Build ResNet-20: 278,324 parameters with 100 classes.

    Args:
        classes: The number of logits.
        channels: The number of image channels.
        shortcut: `conv` (option B, a 1x1 convolution) or `pad` (option A, no parameters).

    Example:
        >>> sum(parameter.numel() for parameter in resnet20(100).parameters())
        278324
    """
    return CifarResNet(NARROW, 3, classes, channels, shortcut)


def resnet32(classes: int, channels: int = 3, *, shortcut: str = "conv") -> nn.Module:
    """Build ResNet-32: 472,756 parameters with 100 classes."""
    return CifarResNet(NARROW, 5, classes, channels, shortcut)


def resnet44(classes: int, channels: int = 3, *, shortcut: str = "conv") -> nn.Module:
    """Build ResNet-44: 667,188 parameters with 100 classes."""
    return CifarResNet(NARROW, 7, classes, channels, shortcut)


def resnet56(classes: int, channels: int = 3, *, shortcut: str = "conv") -> nn.Module:
    """Build ResNet-56: 861,620 parameters with 100 classes."""
    return CifarResNet(NARROW, 9, classes, channels, shortcut)


def resnet110(classes: int, channels: int = 3, *, shortcut: str = "conv") -> nn.Module:
    """Build ResNet-110: 1,736,564 parameters with 100 classes."""
    return CifarResNet(NARROW, 18, classes, channels, shortcut)


def resnet8x4(classes: int, channels: int = 3, *, shortcut: str = "conv") -> nn.Module:
    """Build ResNet-8 four times as wide: 1,233,540 parameters with 100 classes."""
    return CifarResNet(WIDE, 1, classes, channels, shortcut)


def resnet32x4(classes: int, channels: int = 3, *, shortcut: str = "conv") -> nn.Module:
    """Build ResNet-32 four times as wide: 7,433,860 parameters with 100 classes."""
    return CifarResNet(WIDE, 5, classes, channels, shortcut)
