"""The interface of compression methods, and the structural changes that they record.

A recipe builds a dense model; the recorded changes of all stages, applied in order to a freshly
built one, produce the structure of the saved weights.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from limbeck.compress.changes import CHANGES
from limbeck.errors import LimbeckError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from limbeck.compress.onnx_weights import QuantizeRecord


Change: TypeAlias = Mapping[str, Any]
"""A structural change: its kind and settings as plain JSON: `{"kind": "factors", "ranks": {"fc":
8}}`.
"""


class CompressError(LimbeckError):
    """Compression found nothing to compress, or would have changed nothing."""


class NothingGainedError(CompressError):
    """Nothing changes with these weights, but may with others, such as after training."""


@dataclass(frozen=True)
class TransformResult:
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


Tolerance: TypeAlias = Annotated[
    float,
    Field(
        gt=0,
        le=10,
        description="The largest error in logits that is accepted, as a share of their size, and "
        "the largest share of samples whose class changes.",
    ),
]
"""Allowed difference of a compressed file from the float one; beyond it, the stage fails."""


@dataclass(frozen=True)
class CalibrationContext:
    """The inputs of a compression method beside the model.

    Attributes:
        batches: Iterates over some training samples, unaugmented and in order, on the model's
            device; repeatable.
        forward: Runs a model on a batch: logits, `[elements, classes]`.
        loss: The task's loss of a model on a batch, a scalar with a gradient.
        validate: Score of a model on the validation samples; higher is better.
        seed: Seed of random draws.
        axes: The names of each input's axes, where samples are not the first axis of each.
    """

    batches: Callable[[], Iterator[Mapping[str, Tensor]]]
    forward: Callable[[nn.Module, Mapping[str, Tensor]], Tensor]
    loss: Callable[[nn.Module, Mapping[str, Tensor]], Tensor]
    validate: Callable[[nn.Module], float]
    seed: int
    axes: Mapping[str, tuple[str | None, ...]] = field(default_factory=dict)


class Method(BaseModel):
    """A model compression method: its fields are the settings, and `transform` applies it.

    A method is a file in `compress/pruners`, `compress/factorizers` or `compress/quantizers`, with
    one class named after the file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def needs_training(self) -> bool:
        """Return whether the method is applied during training, and has no effect without one."""
        return False

    def check(self, model: nn.Module, work: CalibrationContext) -> None:
        """Check that the settings fit a model, in about a second and before any training.

        Raises:
            InputError: A layer does not exist, or a setting does not fit the model.
            CompressError: The model has nothing to compress.
        """

    @abstractmethod
    def transform(self, model: nn.Module, work: CalibrationContext) -> TransformResult:
        """Compress a model in place, and return the result.

        Raises:
            InputError: The settings do not fit the model, or a target cannot be met.
            CompressError: Nothing would change, or the model's code fails after the change.
        """


class FileMethod(BaseModel):
    """A compression method for an exported file: its fields are the settings.

    Attributes:
        takes_samples: Whether it needs calibration samples.
        layers: Types of layers whose weights it compresses in the file of any of limbeck's nets.
        tolerance: Allowed difference from the float file on validation samples.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    takes_samples: ClassVar[bool] = False
    layers: ClassVar[tuple[type[nn.Module], ...]] = ()

    tolerance: Tolerance

    @abstractmethod
    def write(
        self, source: Path, target: Path, *, calibration: Iterable[Mapping[str, Any]]
    ) -> QuantizeRecord:
        """Write a compressed file, atomically.

        Args:
            source: An ONNX file written by `to_onnx`.
            target: Path of the compressed file.
            calibration: Batches of arrays with the graph's inputs.

        Raises:
            LimbeckError: There is nothing to compress, or the target cannot be written.
        """
