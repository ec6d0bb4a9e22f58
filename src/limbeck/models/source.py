"""The interface of model sources."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.models.statement import Statement, of_checkpoint

if TYPE_CHECKING:
    from torch import Tensor, nn

    from limbeck.models.spec import ModelSpec, Normalization


@dataclass(frozen=True)
class Fit:
    """The data dimensions that a model is built for.

    Attributes:
        classes: The number of logits.
        channels: The number of image channels, if the data is images.
        vocab_size: The vocabulary size, if the data is texts.
        table_features: The number of features per row, if the data is a table.
        class_names: The class names of the data, in the order of its labels.
        normalization: The normalisation of the data's pixels, if the data is images.
        pad_token: The id of the padding token, if the data is texts.
    """

    classes: int
    channels: int | None = None
    vocab_size: int | None = None
    table_features: int | None = None
    class_names: tuple[str, ...] = ()
    normalization: Normalization | None = None
    pad_token: int | None = None

    def dimensions(self) -> dict[str, int]:
        """Return the known dimensions, as arguments for a builder.

        Example:
            >>> Fit(classes=10, channels=1).dimensions()
            {'classes': 10, 'channels': 1}
        """
        names = ("classes", "channels", "vocab_size", "table_features")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


@dataclass(frozen=True)
class Source:
    """A source of models: the object named `source` in a module of `models/sources`.

    Attributes:
        build: Builds the module, with fresh weights.
        architecture: Returns the source text of a file with `build()` that builds the same module
            without limbeck.
        names: Returns the model names of the source; empty for the user's own models.
        states: Reads the metadata that the model's weight files state about its training.
        check: Raises an `InputError` for a name or an argument that is invalid for any data; builds
            nothing.
        modules: Returns the user's own modules that the architecture's text imports, by dotted
            name.
        preload: Imports the modules for building a model, before a child process is forked for it.
        convert: Renames the tensors of the library's older checkpoints as the library does.
    """

    build: Callable[[ModelSpec, Fit], nn.Module]
    architecture: Callable[[ModelSpec, Fit], str]
    names: Callable[[], list[str]]
    states: Callable[[ModelSpec], Statement] = of_checkpoint
    check: Callable[[ModelSpec], None] = lambda _: None
    modules: Callable[[ModelSpec], dict[str, Path]] = lambda _: {}
    preload: Callable[[ModelSpec], object] = lambda _: None
    convert: Callable[[nn.Module, dict[str, Tensor]], dict[str, Tensor]] = lambda _, tensors: (
        tensors
    )
