"""The section on cost: time and energy per inference, and the amortisation of training."""

from __future__ import annotations

from collections.abc import Callable

from limbeck.display import format as fmt
from limbeck.display.blocks import Column, Row, Table
from limbeck.evaluate.cost import Cost
from limbeck.evaluate.section import BOTH, SectionContent


def section(found: Cost) -> SectionContent:
    """Compare the cost of training with that of inference, and an update with its alternatives."""
    tables = [table for table in (_life(found), _updates(found)) if table.rows]
    return SectionContent("Cost and break-even", _lead(found), tables=tuple(tables))


def _lead(found: Cost) -> str:
    if not found.break_even:
        return "Whether the training pays for itself cannot be said: a part of it is not known."
    said = [
        f"{name} after {fmt.significant(count)} inferences"
        if count is not None
        else f"{name} never, since an inference saves no energy"
        for name, count in found.break_even.items()
    ]
    return f"When the energy saved equals the energy spent: {fmt.listing(said)}."


def _life(found: Cost) -> Table:
    rows = [
        Row("Energy of the training, estimated", _of(found.training, fmt.joules)),
        Row("CO₂ of the training, estimated", _of(found.grams, fmt.grams)),
        Row("Inferences per milliwatt hour", _of(found.inferences_per_mwh, fmt.significant)),
    ]
    caption = (
        f"Energy of answers: {found.grid or 'not measured'}. Of the training: seconds of the "
        "stages on one core, at 10 W a core and 475 g CO₂ a kWh (IEA, world average of 2019)."
    )
    return Table("Life-cycle energy", caption, BOTH, tuple(rows))


def _of(values: dict[str, float], written: Callable[[float], str]) -> tuple[str, ...]:
    return tuple(
        written(values[column.label]) if column.label in values else fmt.MISSING for column in BOTH
    )


def _updates(found: Cost) -> Table:
    rows = tuple(
        Row(name.capitalize(), (fmt.size(count),)) for name, count in found.update_sizes.items()
    )
    caption = (
        "Bytes to be sent for an update: the file whole, the same packed by zlib, what it differs "
        "in from the file that devices hold (bsdiff, where that file was given), or soft labels of "
        "public samples in half precision, from which the device distils by itself."
    )
    return Table("Size of an update", caption, (Column("bytes", "student"),), rows)
