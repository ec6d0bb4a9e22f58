"""The contract of a method that changes a model: settings that a recipe holds, and the doing."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from limbeck.compress.change import Changed
    from limbeck.compress.files.record import QuantizeRecord


Tolerance: TypeAlias = Annotated[
    float,
    Field(
        gt=0,
        le=10,
        description="The largest error in logits that is accepted, as a share of their size, and "
        "the largest share of samples whose class changes.",
    ),
]
"""How far a smaller file may differ from the float one; beyond it, the stage fails."""


@dataclass(frozen=True)
class Work:
    """What a method may ask for beside the model.

    Attributes:
        batches: Goes through some training samples, unaugmented and in order, as often as it is
            called; on the model's device.
        forward: Runs a model on a batch: logits, `[units, classes]`.
        loss: The task's loss of a model on a batch, a scalar with a gradient.
        validate: How good a model is on the validation samples; higher is better.
        seed: For whatever is drawn by chance.
    """

    batches: Callable[[], Iterator[Mapping[str, Tensor]]]
    forward: Callable[[nn.Module, Mapping[str, Tensor]], Tensor]
    loss: Callable[[nn.Module, Mapping[str, Tensor]], Tensor]
    validate: Callable[[nn.Module], float]
    seed: int


class Method(BaseModel):
    """A way to make a model smaller: its fields are the settings, and `change` does it.

    A method is a file in `compress/pruners`, `compress/factorizers` or `compress/quantizers`, with
    one class named after the file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def needs_training(self) -> bool:
        """Whether it is done in the course of a training, and is nothing without one."""
        return False

    def check(self, model: nn.Module, work: Work) -> None:
        """Find out in a second whether the settings fit a model; before any training.

        Raises:
            InputError: A layer that does not exist, or a setting that the model cannot have.
        """

    @abstractmethod
    def change(self, model: nn.Module, work: Work) -> Changed:
        """Change a model in place, and say what changed.

        Raises:
            InputError: The settings do not fit the model.
            CompressError: Nothing would change.
        """


class FileMethod(BaseModel):
    """A way to make an exported file smaller: its fields are the settings.

    Attributes:
        takes_samples: Whether it looks at training samples.
        tolerance: How far the smaller file may differ from the float one on validation samples.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    takes_samples: ClassVar[bool] = False

    tolerance: Tolerance

    @abstractmethod
    def write(
        self, source: Path, target: Path, *, calibration: Iterable[Mapping[str, Any]]
    ) -> QuantizeRecord:
        """Write a smaller file, whole or not at all.

        Args:
            source: An ONNX file, as `to_onnx` writes it.
            target: Where the smaller one goes.
            calibration: Batches of arrays with the graph's inputs.

        Raises:
            LimbeckError: There is nothing to make smaller, or the target cannot be written to.
        """
