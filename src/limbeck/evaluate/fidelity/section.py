"""The section on fidelity: agreement of student and teacher, and their disagreements."""

from __future__ import annotations

from collections.abc import Sequence

from limbeck.display import format as fmt
from limbeck.display.blocks import Row, Table
from limbeck.evaluate.comparison import signed
from limbeck.evaluate.fidelity import Fidelity, Slice
from limbeck.evaluate.fidelity.error_overlap import Disagreement, Overlap
from limbeck.evaluate.section import BOTH, SectionContent, between, student_columns


def section(found: Fidelity) -> SectionContent:
    """Draw agreement per slice, shared errors and the disagreements."""
    tables = [_slices(found.slices), _disagreements(found.disagreements)]
    lead = "Accuracy, agreement and divergence, in every class and group."
    if found.overlap is not None:
        tables.insert(1, _errors(found.overlap))
        if found.overlap.shared is not None:
            lead = (
                f"Of the student's errors {between(found.overlap.shared)} are also its teacher's; "
                f"with independent errors {fmt.percent(found.overlap.shared_if_independent, 1)} "
                "would be."
            )
    return SectionContent("Fidelity", lead, tables=tuple(table for table in tables if table.rows))


def _slices(slices: Sequence[Slice]) -> Table:
    columns = (*BOTH, *student_columns("difference", "agreement", "KL, nats"))
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
    return Table("By class and group", "Accuracy, with 95 % intervals.", columns, rows)


def _errors(overlap: Overlap) -> Table:
    counts = {
        "Both correct": overlap.both_right,
        "Only the student correct": overlap.only_student,
        "Only the teacher correct": overlap.only_teacher,
        "Both wrong, same class": overlap.same_error,
        "Both wrong, different classes": overlap.other_error,
    }
    rows = tuple(Row(name, (fmt.integer(count),)) for name, count in counts.items())
    return Table("Error overlap", "Test samples.", student_columns("samples"), rows)


def _disagreements(disagreements: Sequence[Disagreement]) -> Table:
    rows = tuple(
        Row(
            f"teacher {one.teacher}, student {one.student}",
            tuple(map(fmt.integer, (one.count, one.teacher_right, one.student_right))),
        )
        for one in disagreements
    )
    caption = "The predictions of teacher and student where they differ, the most frequent first."
    columns = student_columns("samples", "teacher correct", "student correct")
    return Table("Most frequent disagreements", caption, columns, rows)
