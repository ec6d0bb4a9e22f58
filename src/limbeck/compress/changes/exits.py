"""Thresholds of early exits, as a structural change."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn


def apply(model: nn.Module, *, thresholds: Iterable[float], rates: Iterable[float]) -> None:
    """Set the thresholds at which samples leave a model, and the measured share at each exit.

    Args:
        model: Modified in place; a model with early exits.
        thresholds: The least probability of the top class at each exit but the last.
        rates: The share of samples that leave at each exit.

    Example:
        >>> net = nn.Linear(2, 2)
        >>> apply(net, thresholds=[0.9], rates=[0.6, 0.4])
        >>> net.exit_thresholds
        (0.9,)
    """
    # Plain attributes, not buffers: an exported graph has branches only where there are thresholds.
    model.exit_thresholds = tuple(thresholds)  # type: ignore[assignment]
    model.exit_rates = tuple(rates)  # type: ignore[assignment]
