"""The layout of stored soft targets: one fixed-size record per sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from limbeck.errors import InputError, Problem
from limbeck.targets.answer import Targets
from limbeck.targets.categorical import DenseTargets, SampledTargets, TopKTargets
from limbeck.targets.head import HeadTargets
from limbeck.targets.values import BernoulliTargets, ValueTargets

if TYPE_CHECKING:
    from numpy.typing import NDArray

Precision = Literal["float32", "float16"]
FORMS: tuple[type[Targets], ...] = (
    *(DenseTargets, TopKTargets, SampledTargets, HeadTargets),
    *(ValueTargets, BernoulliTargets),
)
_CONSTANT = {"weight", "bias"}  # of a head: equal for all elements
_FINITE = (DenseTargets, HeadTargets, ValueTargets, BernoulliTargets)  # others may rule classes out


@dataclass(frozen=True)
class OutputLayout:
    """The layout of one output's targets.

    Attributes:
        form: The name of the class of the targets.
        elements: The number of elements per sample.
        rows: The shape of each stored tensor per element, and whether it holds integers, by name.
        settings: The attributes that are not tensors.
        constants: The tensors that are equal for all elements; they are not stored.
    """

    form: str
    elements: int
    rows: Mapping[str, tuple[tuple[int, ...], bool]]
    settings: Mapping[str, Any]
    constants: Mapping[str, Tensor] = field(default_factory=dict, compare=False)

    def fits(self, larger: OutputLayout) -> bool:
        """Return whether records of another layout hold these targets: all but the elements agree.

        Sequences of a batch are as long as its longest one.
        """
        return (
            self.elements <= larger.elements and replace(self, elements=larger.elements) == larger
        )

    def plain(self) -> dict[str, Any]:
        """Return what defines the layout, as plain data."""
        rows = {
            name: [*shape, "int" if whole else "float"]
            for name, (shape, whole) in self.rows.items()
        }
        settings = {name: value for name, value in self.settings.items() if value is not None}
        return {"form": self.form, "elements": self.elements, **rows, **settings}


@dataclass(frozen=True)
class Layout:
    """The layout of the targets of all outputs.

    Attributes:
        outputs: The layout per output, by name.
        precision: The dtype of stored real numbers; `float16` halves their size, at three digits.

    Example:
        >>> layout = Layout.of({"logits": DenseTargets(torch.zeros(2, 3))}, samples=2)
        >>> layout.dtype.itemsize
        12
    """

    outputs: Mapping[str, OutputLayout]
    precision: Precision = "float32"

    @classmethod
    def of(
        cls, targets: Mapping[str, Targets], *, samples: int, precision: Precision = "float32"
    ) -> Layout:
        """Read the layout of the targets of a batch.

        Args:
            targets: The targets by output.
            samples: The number of samples in the batch, above 0.
            precision: The dtype of stored real numbers.

        Raises:
            InputError: The number of elements per sample is not constant, or no class is drawn.
        """
        outputs = {name: _layout_of(name, one, samples) for name, one in targets.items()}
        return cls(outputs, precision)

    @property
    def dtype(self) -> np.dtype[np.void]:
        """Return the dtype of a sample's record."""
        return np.dtype(
            [
                (
                    name,
                    [
                        (key, self._dtype(whole), (one.elements, *shape))
                        for key, (shape, whole) in one.rows.items()
                    ],
                )
                for name, one in self.outputs.items()
            ]
        )

    def _dtype(self, whole: bool) -> str:
        return "int32" if whole else self.precision

    def plain(self) -> dict[str, Any]:
        """Return what defines the layout, as plain data."""
        return {name: one.plain() for name, one in self.outputs.items()}

    def pack(self, targets: Mapping[str, Targets], *, samples: int) -> NDArray[np.void]:
        """Convert the targets of a batch to records, `[samples]`.

        A batch of shorter sequences than the layout's has fewer elements; the last one is repeated,
        as a valid target of an element without weight.

        Raises:
            InputError: Another layout, or numbers that the precision cannot represent.
        """
        found = {name: _layout_of(name, one, samples) for name, one in targets.items()}
        records = np.zeros(samples, self.dtype)
        for name, expected in self.outputs.items():
            if name not in found or not found[name].fits(expected):
                given = found[name].plain() if name in found else f"outputs {', '.join(found)}"
                allowed = f"{name}: {expected.plain()}, as in the first batch"
                raise InputError(Problem("teacher", str(given), allowed))
            for key, (_, whole) in expected.rows.items():
                rows = getattr(targets[name], key).detach().cpu()
                rows = rows if whole else rows.float()
                kept = rows.reshape(samples, found[name].elements, *rows.shape[1:]).numpy()
                place = records[name][key]
                with np.errstate(over="ignore"):  # infinite numbers are refused below
                    # Drawn classes may be fewer than the draws: the rest has a count of 0.
                    place[tuple(map(slice, kept.shape))] = kept
                    place[:, kept.shape[1] :] = place[:, kept.shape[1] - 1, None]
                self._check(name, expected.form, place)
        return records

    def _check(self, output: str, form: str, stored: NDArray[Any]) -> None:
        if stored.dtype.kind != "f":
            return
        whole = form in {one.__name__ for one in _FINITE}
        bad = ~np.isfinite(stored) if whole else np.isnan(stored) | np.isposinf(stored)
        if bad.any():
            row = int(np.flatnonzero(bad.reshape(len(stored), -1).any(axis=1))[0])
            given = f"{output}: NaN or infinity for row {row} of the batch"
            raise InputError(Problem("teacher", given, f"numbers that {self.precision} holds"))

    def unpack(self, records: NDArray[np.void]) -> dict[str, Targets]:
        """Convert records to targets, float32, with elements ordered by sample."""
        targets: dict[str, Targets] = {}
        for name, one in self.outputs.items():
            form = next(form for form in FORMS if form.__name__ == one.form)
            values: dict[str, Any] = {**one.settings, **one.constants}
            for key, (shape, whole) in one.rows.items():
                rows = records[name][key].reshape(-1, *shape)
                values[key] = torch.from_numpy(rows.astype("int64" if whole else "float32"))
            targets[name] = form(**values)
        return targets


def _layout_of(name: str, targets: Targets, samples: int) -> OutputLayout:
    elements, rest = divmod(targets.elements, samples)
    if rest or not elements:
        allowed = f"the same number of elements for each of {samples} samples"
        raise InputError(Problem("teacher", f"{name}: {targets.elements} elements", allowed))
    rows, settings, constants = {}, {}, {}
    for one in fields(targets):
        value = getattr(targets, one.name)
        if not isinstance(value, Tensor):
            settings[one.name] = value
        elif isinstance(targets, HeadTargets) and one.name in _CONSTANT:
            constants[one.name] = value
        else:
            width = tuple(value.shape[1:])
            if isinstance(targets, SampledTargets):  # as wide as if all draws were distinct
                width = (int(targets.counts[0].sum()),)
            rows[one.name] = (width, not value.is_floating_point())
    return OutputLayout(type(targets).__name__, elements, rows, settings, constants)
