"""A multilayer perceptron for table rows."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["tabular_mlp"]


def _block(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(before, after), nn.ReLU())


class TabularMLP(nn.Module):
    """Hidden layers of equal width, each linear with ReLU, then a linear layer."""

    def __init__(self, classes: int, in_features: int, width: int, depth: int) -> None:
        super().__init__()
        widths = [in_features, *[width] * depth]
        blocks = [_block(widths[number], width) for number in range(depth)]
        self.blocks = nn.Sequential(*blocks)
        self.linear = nn.Linear(widths[-1], classes)

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits `[n, classes]` of rows `[n, in_features]`."""
        return self.linear(self.blocks(features))


def tabular_mlp(classes: int, table_features: int, *, width: int = 32, depth: int = 2) -> nn.Module:
    """Build the net; with 100 features, 2 classes and the defaults it has 4,354 parameters.

    Args:
        classes: The number of logits.
        table_features: The number of features per row.
        width: The width of every hidden layer.
        depth: The number of hidden layers; 0 is logistic regression.

    Raises:
        ValueError: The width is <= 0, or the depth is < 0.

    Example:
        >>> sum(parameter.numel() for parameter in tabular_mlp(2, 100).parameters())
        4354
    """
    if width < 1 or depth < 0:
        raise ValueError(f"width {width}, depth {depth}; allowed: width above 0, depth 0 or more")
    return TabularMLP(classes, table_features, width, depth)
