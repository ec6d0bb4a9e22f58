"""The section on attribution: similarity of the attribution maps of student and teacher."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from limbeck.display import format as fmt
from limbeck.display.blocks import Column, Row, Table
from limbeck.evaluate.attribution import Attribution
from limbeck.evaluate.attribution.examples import ImageExample, TextExample
from limbeck.evaluate.section import Sample, SectionContent

COLUMNS = tuple(
    Column(label, "student")
    for label in ("cosine", "rank correlation", "strongest in common", "with another sample")
)


def section(found: Attribution) -> SectionContent:
    """Draw the similarity of the attribution maps, with examples."""
    tables = [table for table in (_alike(found), _complete(found)) if table.rows]
    return SectionContent(
        "Does it look where its teacher looks?",
        f"Maps of {fmt.plural(found.samples, 'test sample')}, for the class that the teacher "
        "answers. Likeness is worth what it exceeds that with the map of another sample.",
        tables=tuple(tables),
        samples=(*_pictures(found.images), *_texts(found.texts)),
    )


def _alike(found: Attribution) -> Table:
    rows = tuple(
        Row(
            one.method,
            (
                fmt.number(one.cosine.value),
                fmt.number(one.spearman.value),
                fmt.percent(one.overlap.value, 1),
                fmt.number(one.elsewhere),
            ),
        )
        for one in found.alignments
    )
    return Table("How alike the maps are", "Means over the samples.", COLUMNS, rows)


def _complete(found: Attribution) -> Table:
    rows = tuple(
        Row(one.side, (fmt.percent(one.within, 1), fmt.percent(one.largest, 2)))
        for one in found.completeness
    )
    columns = (Column("samples that add up", "student"), Column("largest miss", "student"))
    caption = (
        "Integrated gradients have to add up to the difference that they share out; what they miss "
        "is a share of its mean."
    )
    return Table("Can the maps be trusted?", caption, columns, rows)


def _pictures(examples: Sequence[ImageExample]) -> Iterator[Sample]:
    for one in examples:
        shown = [("sample", one.picture), ("student", one.student)]
        if one.teacher is not None:
            shown.append(("teacher", one.teacher))
        yield Sample(f"#{one.row}: {one.label}, explained as {one.explained}", tuple(shown))


def _texts(examples: Sequence[TextExample]) -> Iterator[Sample]:
    for one in examples:
        sides = [("student", one.student)]
        if one.teacher is not None:
            sides.append(("teacher", one.teacher))
        for name, weights in sides:
            most = max(map(abs, weights), default=1.0) or 1.0
            words = tuple(
                (token, weight / most) for token, weight in zip(one.tokens, weights, strict=True)
            )
            title = f"#{one.row}: {one.label}, explained as {one.explained}, by the {name}"
            yield Sample(title, words=words)
