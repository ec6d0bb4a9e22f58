"""The interface of model sources."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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
        sizes: The dimensions of the inputs by name, as the modality states them: the `channels` of
            images, the `vocab_size` and `pad_token` of texts, the `table_features` of rows, the
            `channels` and `window` of series, the `node_features` and `hops` of graphs.
        class_names: The class names of the data, in the order of its labels.
        normalization: The normalisation of the data's pixels, if the data is images.
        element: What a prediction describes: a sample, or each token, pixel, ... of it.
    """

    classes: int
    sizes: Mapping[str, int] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    normalization: Normalization | None = None
    element: str = "sample"

    @property
    def channels(self) -> int | None:
        """Return the number of channels."""
        return self.sizes.get("channels")

    @property
    def vocab_size(self) -> int | None:
        """Return the size of the vocabulary."""
        return self.sizes.get("vocab_size")

    @property
    def pad_token(self) -> int | None:
        """Return the id of the padding token."""
        return self.sizes.get("pad_token")

    def dimensions(self) -> dict[str, int]:
        """Return the known dimensions, as arguments for a builder.

        Example:
            >>> Fit(classes=10, sizes={"channels": 1}).dimensions()
            {'classes': 10, 'channels': 1}
        """
        sizes = {name: size for name, size in self.sizes.items() if name != "pad_token"}
        return {"classes": self.classes, **sizes}


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
        fitted_for: Returns the tasks that a model can be the teacher of, if it is fitted otherwise
            than by gradient descent: it has no gradient and no features, and cannot be a student.
            Empty for all other models.
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
    fitted_for: Callable[[ModelSpec], tuple[str, ...]] = lambda _: ()
