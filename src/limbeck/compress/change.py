"""Records of structural changes, which can be applied again to a freshly built model.

A recipe builds a dense model; the recorded changes of all stages, applied in order, produce the
structure of the saved weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from limbeck.compress.changes import CHANGES
from limbeck.errors import LimbeckError

if TYPE_CHECKING:
    from torch import nn

Change: TypeAlias = Mapping[str, Any]
"""A structural change: its kind and settings as plain JSON: `{"kind": "factors", "ranks": {"fc":
8}}`.
"""


class CompressError(LimbeckError):
    """Compression found nothing to compress, or would have changed nothing."""


class NothingGainedError(CompressError):
    """Nothing changes with these weights, but may with others, such as after training."""


@dataclass(frozen=True)
class Changed:
    """The result of a compression method.

    Attributes:
        change: The structural change; None if only weight values changed.
        what: One-line summary for the report, with figures.
        notes: Skipped layers with the reason, and other remarks for the report.
    """

    change: Change | None
    what: str
    notes: tuple[str, ...] = ()


def apply(model: nn.Module, changes: Iterable[Change]) -> None:
    """Apply recorded structural changes to a freshly built model, in place."""
    for change in changes:
        settings = dict(change)
        CHANGES.load(settings.pop("kind"))(model, **settings)
