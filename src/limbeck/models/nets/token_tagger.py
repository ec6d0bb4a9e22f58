"""A tagger of token sequences: embeddings, and residual layers over windows of three tokens.

Its structure is that of spaCy's tagger: words and hashed affixes are embedded by the sum of their
vectors, and each layer reads a token with its neighbours.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["token_tagger"]


class Window(nn.Module):
    """A residual layer: a token and its neighbours, one hidden layer, and normalisation."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * width, width)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return `[n, time, width]`; neighbours beyond the sequence are 0."""
        around = F.pad(x * mask, (0, 0, 1, 1))
        window = torch.cat([around[:, :-2], around[:, 1:-1], around[:, 2:]], dim=-1)
        return self.norm(x + self.dropout(F.relu(self.linear(window))))


class TokenTagger(nn.Module):
    """Embeddings, layers over windows, and a linear head.

    Args:
        classes: The number of classes.
        vocab_size: The number of different inputs.
        width: The width of all layers.
        depth: The number of layers; a prediction depends on as many tokens to either side.
        dropout: The share of values that training drops.
    """

    def __init__(
        self, classes: int, vocab_size: int, width: int, depth: int, dropout: float
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab_size, width)
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(dropout)
        self.layers = nn.ModuleList([Window(width, dropout) for _ in range(depth)])
        self.head = nn.Linear(width, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return logits `[n, classes, time]` of sequences.

        Args:
            input_ids: Numbers `[n, time]`, or several for each token, `[n, time, features]`.
            attention_mask: 1 for tokens and 0 for padding, `[n, time]`.
        """
        x = self.embed(input_ids)
        if x.ndim == 4:
            x = x.sum(dim=2)
        x = self.dropout(self.norm(x))
        mask = attention_mask.unsqueeze(-1).to(x.dtype)
        for layer in self.layers:
            x = layer(x, mask)
        return self.head(x).transpose(1, 2)


def token_tagger(
    classes: int, vocab_size: int, *, width: int = 64, depth: int = 4, dropout: float = 0.0
) -> nn.Module:
    """Build a tagger for `token_classification`.

    Args:
        classes: The number of classes.
        vocab_size: The number of different inputs: words, and hashes of their affixes.
        width: The width of all layers.
        depth: The number of layers; a prediction depends on as many tokens to either side.
        dropout: The share of values that training drops.

    Raises:
        ValueError: The width is <= 0, or the depth is < 0.

    Example:
        >>> net = token_tagger(9, vocab_size=100, width=16, depth=2)
        >>> ids, mask = torch.ones(2, 7, 6, dtype=torch.int64), torch.ones(2, 7)
        >>> net(ids, mask).shape, sum(one.numel() for one in net.parameters())
        (torch.Size([2, 9, 7]), 3417)

    Source: Miranda et al. 2022, "Multi hash embeddings in spaCy".
    """
    if width < 1 or depth < 0:
        raise ValueError(f"width {width}, depth {depth}; allowed: width above 0, depth 0 or more")
    return TokenTagger(classes, vocab_size, width, depth, dropout)
