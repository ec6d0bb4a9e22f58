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
    for label in ("cosine", "rank correlation", "top overlap", "cosine with another sample")
)


def section(found: Attribution) -> SectionContent:
    """Draw the similarity of the attribution maps, with examples."""
    return SectionContent(
        "Attribution similarity",
        f"Maps of {fmt.plural(found.samples, 'test sample')}, for the class predicted by the "
        "teacher. The similarity with the map of another sample is the baseline.",
        tables=tuple(table for table in (_similarity(found), _completeness(found)) if table.rows),
        samples=(*_images(found.images), *_texts(found.texts)),
    )


def _similarity(found: Attribution) -> Table:
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
    return Table("Similarity of the maps", "Means over the samples.", COLUMNS, rows)


def _completeness(found: Attribution) -> Table:
    rows = tuple(
        Row(one.side, (fmt.percent(one.within, 1), fmt.percent(one.largest, 2)))
        for one in found.completeness
    )
    columns = (Column("complete samples", "student"), Column("largest error", "student"))
    caption = (
        "Integrated gradients sum to the difference of the logits; errors are shares of its mean."
    )
    return Table("Completeness of integrated gradients", caption, columns, rows)


def _images(examples: Sequence[ImageExample]) -> Iterator[Sample]:
    for one in examples:
        images = [("sample", one.image), ("student", one.student)]
        if one.teacher is not None:
            images.append(("teacher", one.teacher))
        yield Sample(f"#{one.row}: {one.label}, explained as {one.explained}", tuple(images))


def _texts(examples: Sequence[TextExample]) -> Iterator[Sample]:
    for one in examples:
        for name, weights in (("student", one.student), ("teacher", one.teacher)):
            if weights is not None:
                largest = max(map(abs, weights), default=1.0) or 1.0
                scaled = (weight / largest for weight in weights)
                title = f"#{one.row}: {one.label}, explained as {one.explained}, by the {name}"
                yield Sample(title, words=tuple(zip(one.tokens, scaled, strict=True)))
