"""The section on fairness: gaps between groups, rare classes, and inherited bias."""

from __future__ import annotations

from collections.abc import Sequence

from limbeck.display import format as fmt
from limbeck.display.blocks import Row, Table
from limbeck.evaluate.fairness import Fairness
from limbeck.evaluate.fairness.by_class import ClassRecall
from limbeck.evaluate.fairness.by_group import Attribute
from limbeck.evaluate.section import BOTH, SectionContent, pair


def section(found: Fairness) -> SectionContent:
    """Compare the groups, and rare with frequent classes."""
    tables = [*map(_groups, found.attributes), *map(_gaps, found.attributes)]
    return SectionContent(
        "Fairness",
        "The verdict table compares the student's gaps with its teacher's. Groups and classes of "
        f"fewer than {found.smallest} samples are excluded.",
        tables=(*(table for table in tables if table.rows), _classes(found.classes)),
    )


def _groups(attribute: Attribute) -> Table:
    rows = tuple(
        Row(
            f"{group.name}: {fmt.plural(group.samples, 'sample')}"
            + ("" if group.judged else ", too few"),
            pair(group.student, group.teacher),
        )
        for group in attribute.groups
    )
    caption = "Accuracy of each group, with its 95 % interval."
    return Table(f"Accuracy by {attribute.name}", caption, BOTH, rows)


def _gaps(attribute: Attribute) -> Table:
    rows: list[Row] = []
    for gap in attribute.gaps:
        rows += [
            Row(f"{gap.name}: demographic parity difference", _each(gap.parity_difference)),
            Row(f"{gap.name}: demographic parity ratio", _each(gap.parity_ratio)),
            Row(f"{gap.name}: equalised odds difference", _each(gap.odds_difference)),
        ]
    caption = (
        "Between the groups that differ most: the share predicted as the class (demographic "
        "parity), and the true and false positive rates (equalised odds)."
    )
    return Table(f"Gaps by {attribute.name}", caption, BOTH, tuple(rows))


def _each(values: Sequence[float | None]) -> tuple[str, ...]:
    student, teacher = [*values, None][:2]
    return fmt.number(student), fmt.number(teacher)


def _classes(classes: Sequence[ClassRecall]) -> Table:
    rows = tuple(
        Row(
            f"{one.name}: {fmt.percent(one.frequency, 1)} of the data, "
            f"{fmt.plural(one.samples, 'test sample')}" + ("" if one.judged else ", too few"),
            pair(one.student, one.teacher),
        )
        for one in classes
    )
    return Table("Recall by class", "The rarest class first.", BOTH, rows)
