"""What compressing did to a model, written down so that it can be done again.

A recipe builds a dense model; the changes of every stage since, in order, give it the structure
that the saved weights have.
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
"""A kind and its settings, plain JSON: `{"kind": "factors", "ranks": {"fc": 8}}`."""


class CompressError(LimbeckError):
    """There was nothing to compress, or it would have changed nothing."""


class NothingGainedError(CompressError):
    """With these weights nothing would change; with others, as after a training, it might."""


@dataclass(frozen=True)
class Changed:
    """What a method did to a model.

    Attributes:
        change: The change of structure; None if only the values of weights changed.
        what: One line for the report: what was done, in figures.
        notes: What was left alone and why, and whatever else a reader should know.
    """

    change: Change | None
    what: str
    notes: tuple[str, ...] = ()


def apply(model: nn.Module, changes: Iterable[Change]) -> None:
    """Give a freshly built model the structure that it had after these changes, in place."""
    for change in changes:
        settings = dict(change)
        CHANGES.load(settings.pop("kind"))(model, **settings)
