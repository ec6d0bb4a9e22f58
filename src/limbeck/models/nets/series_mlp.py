"""A linear forecast with a multilayer perceptron for the rest, for windows of time series."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["series_mlp"]


class SeriesMLP(nn.Module):
    """A linear layer over the window, plus hidden layers of equal width with ReLU."""

    def __init__(self, classes: int, inputs: int, width: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, classes)
        layers: list[nn.Module] = []
        for before in [inputs, *[width] * depth][:depth]:
            layers += [nn.Linear(before, width), nn.ReLU(), nn.Dropout(dropout)]
        self.hidden = nn.Sequential(*layers)
        self.head = nn.Linear(width, classes) if depth else None

    def forward(self, series: Tensor) -> Tensor:
        """Return the forecast `[n, classes]` of windows `[n, window, channels]`."""
        flat = series.flatten(1)
        forecast = self.linear(flat)
        return forecast if self.head is None else forecast + self.head(self.hidden(flat))


def series_mlp(
    classes: int,
    channels: int,
    window: int,
    *,
    width: int = 64,
    depth: int = 2,
    dropout: float = 0.0,
) -> nn.Module:
    """Build the net; with depth 0 it is a linear forecast.

    Args:
        classes: The number of values of a forecast: steps times targets times quantiles.
        channels: The number of series.
        window: The number of past steps.
        width: The width of every hidden layer.
        depth: The number of hidden layers.
        dropout: The share of hidden values that training drops.

    Raises:
        ValueError: The width is <= 0, or the depth is < 0.

    Example:
        >>> sum(parameter.numel() for parameter in series_mlp(72, 7, 96, depth=0).parameters())
        48456

    Source: Zeng et al. 2023, "Are transformers effective for time series forecasting?" (the linear
    part).
    """
    if width < 1 or depth < 0:
        raise ValueError(f"width {width}, depth {depth}; allowed: width above 0, depth 0 or more")
    return SeriesMLP(classes, channels * window, width, depth, dropout)
