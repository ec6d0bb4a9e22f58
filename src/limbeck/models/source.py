"""What each source of models does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.models.statement import Statement

if TYPE_CHECKING:
    from torch import Tensor, nn

    from limbeck.models.spec import ModelSpec, Normalization


@dataclass(frozen=True)
class Fit:
    """What a model has to fit: the data that goes in, and the classes that come out.

    Attributes:
        classes: How many logits it gives.
        channels: How many channels its pictures have, if the data is pictures.
        vocab_size: How many tokens there are, if the data is texts.
        table_features: How many features a row has, if the data is a table.
        class_names: The names of the data's classes, in the order of its labels.
        normalization: How the data's pixels are normalised, if the data is pictures.
        pad_token: The number of the token that pads texts, if the data is texts.
    """

    classes: int
    channels: int | None = None
    vocab_size: int | None = None
    table_features: int | None = None
    class_names: tuple[str, ...] = ()
    normalization: Normalization | None = None
    pad_token: int | None = None

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


def states_nothing(spec: ModelSpec) -> Statement:
    """Return an empty statement, for sources whose models have no files of their own.

    Example:
        >>> from limbeck.models.spec import ModelSpec
        >>> states_nothing(ModelSpec(source="limbeck", name="digits_cnn")).class_names is None
        True
    """
    return Statement()


@dataclass(frozen=True)
class Source:
    """One source of models: what a file in `models/sources` holds under the name `source`.

    Attributes:
        build: Makes the module, with fresh weights.
        architecture: Writes the text of a file with `build()` that makes the same module without
            limbeck.
        names: Lists the models that the source knows by name; empty if they are the user's.
        states: Reads what the files of the model's weights state about its training.
        check: Raises an `InputError` for a name or an argument that no data could make right;
            builds nothing.
        modules: Finds the user's own modules that the architecture's text imports, by dotted name.
        preload: Imports what building a model needs, before a child process is forked for it.
        convert: Renames the tensors of the library's older checkpoints as the library does.
    """

    build: Callable[[ModelSpec, Fit], nn.Module]
    architecture: Callable[[ModelSpec, Fit], str]
    names: Callable[[], list[str]]
    states: Callable[[ModelSpec], Statement] = states_nothing
    check: Callable[[ModelSpec], None] = lambda _: None
    modules: Callable[[ModelSpec], dict[str, Path]] = lambda _: {}
    preload: Callable[[ModelSpec], object] = lambda _: None
    convert: Callable[[nn.Module, dict[str, Tensor]], dict[str, Tensor]] | None = None
