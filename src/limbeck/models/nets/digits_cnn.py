"""A small convolutional net for small images, such as 8x8 digits or 28x28 Fashion-MNIST."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["digits_cnn"]


def _block(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),  # not in place: a hook may capture its input
    )


class DigitsCNN(nn.Module):
    """Three 3x3 convolutions with downsampling by 2, global average pooling, a linear layer."""

    def __init__(self, classes: int, channels: int, width: int) -> None:
        super().__init__()
        self.block1 = _block(channels, width)
        self.pool1 = nn.MaxPool2d(2)
        self.block2 = _block(width, 2 * width)
        self.pool2 = nn.MaxPool2d(2)
        self.block3 = _block(2 * width, 4 * width)
        self.pool3 = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(4 * width, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits `[n, classes]` of images `[n, channels, height, width]`."""
        x = self.pool1(self.block1(image))
        x = self.pool2(self.block2(x))
        return self.linear(self.pool3(self.block3(x)).flatten(1))


def digits_cnn(classes: int, channels: int = 1, *, width: int = 8) -> nn.Module:
    """Build the net; with width 8, 1 channel and 10 classes it has 6,274 parameters.

    Args:
        classes: The number of logits.
        channels: The number of image channels.
        width: The channels of the first convolution; the next have twice and four times as many.

    Example:
        >>> sum(parameter.numel() for parameter in digits_cnn(10).parameters())
        6274
    """
    return DigitsCNN(classes, channels, width)
