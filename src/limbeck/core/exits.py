"""Models with early exits: their protocol, and a check of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from limbeck.errors import InputError, Problem

if TYPE_CHECKING:
    from torch import Tensor, nn


@runtime_checkable
class HasExits(Protocol):
    """A classifier with early exits: heads on inner layers, at which a sample may leave.

    In training mode it returns the logits of the last exit as `logits`, and those of the others as
    fields whose names begin with `aux`. In evaluation mode it returns one tensor of logits: of each
    sample those of the first exit whose largest probability is at least its threshold, else of the
    last one. Without thresholds no sample leaves early.

    Attributes:
        exit_thresholds: The threshold of each exit but the last; empty for none.
        exit_rates: The share of samples that leave at each exit, measured; empty without
            thresholds.
    """

    exit_thresholds: tuple[float, ...]
    exit_rates: tuple[float, ...]

    def exit_logits(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the logits `[n, classes]` of all exits, the last exit last."""
        ...


def check_exits(model: nn.Module, *, where: str) -> HasExits:
    """Return a model as one with early exits.

    Raises:
        InputError: It has none.
    """
    if not isinstance(model, HasExits):
        fix = (
            "Use the net early_exit_cnn, or give your model exit_logits, exit_thresholds and "
            "exit_rates (docs/compression.md)."
        )
        given = f"{type(model).__name__}, without early exits"
        raise InputError(Problem(where, given, "a model with early exits", fix))
    return model
