"""What the studies on digits share: the samples, and a mean with its interval over seeds."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from sklearn.datasets import load_digits
from torch import Tensor

TRAINING = 1200
"""Samples that a net learns from; the others are for the end."""


def samples() -> tuple[Tensor, Tensor]:
    """Give all digits, in [0, 1], and their labels."""
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images / 16, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(labels)


def split(seed: int) -> tuple[Tensor, Tensor]:
    """Draw the rows that are learned from, and those that are not."""
    order = torch.randperm(len(samples()[1]), generator=torch.Generator().manual_seed(seed))
    return order[:TRAINING], order[TRAINING:]


def over_seeds(values: NDArray[np.float64], sign: str = "") -> str:
    """Write the mean of one value a seed, and half the width of its 95 % interval."""
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():{sign}.1f} ± {half:.1f}"
