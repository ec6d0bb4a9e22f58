"""The section on fidelity: agreement of student and teacher, and their disagreements."""

from __future__ import annotations

from collections.abc import Sequence

from limbeck.display import format as fmt
from limbeck.display.blocks import Column, Row, Table
from limbeck.evaluate.fidelity import Fidelity
from limbeck.evaluate.fidelity.error_overlap import Disagreement, Overlap
from limbeck.evaluate.fidelity.slices import Slice
from limbeck.evaluate.section import SectionContent, between, signed


def section(found: Fidelity) -> SectionContent:
    """Draw agreement per slice, shared errors and the disagreements."""
    tables = [_slices(found.slices)]
    if found.overlap is not None:
        tables.append(_errors(found.overlap))
    tables.append(_disagreements(found.disagreements))
    return SectionContent(
        "Does it answer as its teacher does?",
        _lead(found.overlap),
        tables=tuple(table for table in tables if table.rows),
    )


def _lead(overlap: Overlap | None) -> str:
    if overlap is None or overlap.shared is None:
        return "Accuracy, agreement and divergence, in every class and group."
    chance = ""
    if overlap.shared_if_independent is not None:
        chance = f", where chance alone would give {fmt.percent(overlap.shared_if_independent, 1)}"
    return (
        f"Of the student's errors {between(overlap.shared)} are its teacher's as well{chance}: "
        "what it got wrong by itself is the rest."
    )


def _slices(slices: Sequence[Slice]) -> Table:
    columns = (
        Column("student", "student"),
        Column("teacher", "teacher"),
        Column("difference", "student"),
        Column("same answer", "student"),
        Column("KL, nats", "student"),
    )
    rows = tuple(
        Row(
            f"{one.attribute} {one.name}: {fmt.plural(one.samples, 'sample')}",
            (
                between(one.student),
                between(one.teacher),
                fmt.MISSING if one.difference is None else signed(one.difference.value, "share"),
                fmt.MISSING if one.agreement is None else fmt.percent(one.agreement.value, 1),
                fmt.MISSING if one.kl is None else fmt.number(one.kl.value),
            ),
        )
        for one in slices
    )
    return Table("Class by class, group by group", "Accuracy, with 95 % intervals.", columns, rows)


def _errors(overlap: Overlap) -> Table:
    rows = (
        Row("Both right", (fmt.integer(overlap.both_right),)),
        Row("Only the student right", (fmt.integer(overlap.only_student),)),
        Row("Only the teacher right", (fmt.integer(overlap.only_teacher),)),
        Row("Both wrong, the same answer", (fmt.integer(overlap.same_error),)),
        Row("Both wrong, each its own", (fmt.integer(overlap.other_error),)),
    )
    return Table("Errors", "Test samples.", (Column("samples", "student"),), rows)


def _disagreements(disagreements: Sequence[Disagreement]) -> Table:
    columns = tuple(
        Column(label, "student") for label in ("samples", "teacher right", "student right")
    )
    rows = tuple(
        Row(
            f"{one.teacher}, and the student {one.student}",
            tuple(
                fmt.integer(count) for count in (one.count, one.teacher_right, one.student_right)
            ),
        )
        for one in disagreements
    )
    caption = "What the teacher answers and the student instead, the most frequent first."
    return Table("Most frequent disagreements", caption, columns, rows)
