"""The section on cost: time and energy per inference, and the amortisation of training."""

from __future__ import annotations

from collections.abc import Callable

from limbeck.display import format as fmt
from limbeck.display.blocks import Row, Table
from limbeck.evaluate.cost import Cost
from limbeck.evaluate.section import BOTH, SectionContent, student_columns


def section(found: Cost) -> SectionContent:
    """Compare the cost of training with that of inference, and an update with its alternatives."""
    tables = [table for table in (_life_cycle(found), _updates(found)) if table.rows]
    return SectionContent("Cost and break-even", _lead(found), tables=tuple(tables))


def _lead(found: Cost) -> str:
    if not found.break_even:
        return "The break-even point cannot be computed: a part of the cost is unknown."
    points = [
        f"{name} after {fmt.significant(count)} inferences"
        if count is not None
        else f"{name} never, since an inference saves no energy"
        for name, count in found.break_even.items()
    ]
    return f"The energy saved equals the energy spent: {fmt.listing(points)}."


def _life_cycle(found: Cost) -> Table:
    rows = (
        Row("Energy of the training, estimated", _cells(found.training, fmt.joules)),
        Row("CO₂ of the training, estimated", _cells(found.grams, fmt.grams)),
        Row("Inferences per milliwatt hour", _cells(found.inferences_per_mwh, fmt.significant)),
    )
    caption = (
        f"Energy of inference: {found.grid or 'not measured'}. Of the training: seconds of the "
        "stages on one core, at 10 W per core and 475 g CO₂ per kWh (IEA, world average of 2019)."
    )
    return Table("Life-cycle energy", caption, BOTH, rows)


def _cells(values: dict[str, float], written: Callable[[float], str]) -> tuple[str, ...]:
    return tuple(
        written(values[column.label]) if column.label in values else fmt.MISSING for column in BOTH
    )


def _updates(found: Cost) -> Table:
    rows = tuple(
        Row(name.capitalize(), (fmt.size(count),)) for name, count in found.update_sizes.items()
    )
    caption = (
        "Bytes of an over-the-air update: the whole file, the same compressed by zlib, its "
        "difference to the file on the devices (bsdiff, where that file was given), or soft labels "
        "of public samples in half precision, for a distillation on the device."
    )
    return Table("Size of an update", caption, student_columns("bytes"), rows)
