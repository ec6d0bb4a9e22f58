"""What each source of models does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from limbeck.models.spec import ModelSpec


@dataclass(frozen=True)
class Fit:
    """What a model has to fit: the data that goes in, and the classes that come out.

    Attributes:
        classes: How many logits it gives.
        channels: How many channels its pictures have, if the data is pictures.
        vocab_size: How many tokens there are, if the data is texts.
        table_features: How many features a row has, if the data is a table.
    """

    classes: int
    channels: int | None = None
    vocab_size: int | None = None
    table_features: int | None = None

    def given(self) -> dict[str, int]:
        """Give what is known, as arguments for a builder.

        Example:
            >>> Fit(classes=10, channels=1).given()
            {'classes': 10, 'channels': 1}
        """
        known = {
            "classes": self.classes,
            "channels": self.channels,
            "vocab_size": self.vocab_size,
            "table_features": self.table_features,
        }
        return {name: value for name, value in known.items() if value is not None}


@dataclass(frozen=True)
class Source:
    """One source of models: what a file in `models/sources` holds under the name `source`.

    Attributes:
        build: Makes the module, with fresh weights.
        architecture: Writes the text of a file with `build()` that makes the same module without
            limbeck.
        names: Lists the models that the source knows by name; empty if they are the user's.
    """

    build: Callable[[ModelSpec, Fit], nn.Module]
    architecture: Callable[[ModelSpec, Fit], str]
    names: Callable[[], list[str]]
