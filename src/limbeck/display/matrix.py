"""Matrix chart, class by class: a confusion matrix, or the similarity of classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from limbeck.display.svg import WIDTH, Role, element, finite, join, shorten, svg_image, text

_LETTER, _CELL_LEAST, _GAP = 6.2, 25.0, 1.0
_TITLE, _FOOT = 20.0, 6.0


@dataclass(frozen=True)
class Layout:
    """The geometry of the matrix: left and top margins for labels, and the side of a cell."""

    left: float
    top: float
    side: float
    width: float


def busiest(matrix: Sequence[Sequence[float]], limit: int) -> tuple[int, ...]:
    """Return the `limit` classes with the largest off-diagonal sums, in class order.

    Example:
        >>> busiest([[9, 0, 1], [0, 9, 0], [2, 0, 7]], limit=2)
        (0, 2)
    """
    count = len(matrix)
    if count <= limit:
        return tuple(range(count))

    def off_diagonal(i: int) -> float:
        return sum(finite(matrix[i][j] + matrix[j][i] for j in range(count) if j != i))

    return tuple(sorted(sorted(range(count), key=off_diagonal, reverse=True)[:limit]))


def matrix(
    values: Sequence[Sequence[float]],
    labels: Sequence[str],
    role: Role,
    *,
    written: Callable[[float], str],
    tip: Callable[[int, int], str],
    most: float,
    rows: str,
    columns: str,
    title: str,
    description: str,
) -> Markup:
    """Draw a matrix: the diagonal outlined, the other cells shaded relative to `most`.

    Args:
        values: The square matrix, row by row.
        labels: The classes.
        role: The model that the matrix belongs to, which sets the colour.
        written: Formats a cell (an empty string for an empty cell).
        tip: The tooltip of a cell, by row and column.
        most: The value of the darkest shade; two matrices that share it can be compared.
        rows: The label of the rows.
        columns: The label of the columns.
        title: The accessible title of the chart.
        description: The accessible description of the chart.
    """
    layout = _layout(labels)
    cells = [
        _cell(layout, i, j, value, most, written(value), tip(i, j))
        for i, row in enumerate(values)
        for j, value in enumerate(row)
    ]
    return svg_image(
        _frame(layout, labels, rows, columns),
        element("g", *cells, class_=f"role-{role}"),
        width=layout.width,
        height=layout.top + layout.side * len(labels) + _FOOT,
        title=title,
        description=description,
    )


def largest(values: Sequence[Sequence[float]]) -> float:
    """Return the largest value off the diagonal.

    Example:
        >>> largest([[9, 1], [2, 9]])
        2
    """
    others = (v for i, row in enumerate(values) for j, v in enumerate(row) if i != j)
    return max(finite(others), default=0.0)


def needed_width(labels: Sequence[str]) -> float:
    """Compute the width in pixels at which the chart's text is readable."""
    return _layout(labels).width


def _layout(labels: Sequence[str]) -> Layout:
    """Compute square cells that fill the width, but are never smaller than four digits need."""
    longest = min(max((len(label) for label in labels), default=1), 12) * _LETTER
    left = _TITLE + longest + 6
    side = max((WIDTH - left - 2) / max(1, len(labels)), _CELL_LEAST)
    side = min(side, 64.0)
    top = _TITLE + (longest + 6 if longest > side - 4 else 16)
    return Layout(left, top, side, max(WIDTH, left + side * len(labels) + 2))


def _frame(layout: Layout, labels: Sequence[str], rows: str, columns: str) -> Markup:
    """Draw the axis labels and the classes; names too long for a cell are written vertically."""
    vertical = layout.top > _TITLE + 16
    end = layout.top + layout.side * len(labels)
    middle = (layout.top + end) / 2
    parts = [
        text(layout.left, 12, f"{columns} →", kind="axis"),
        _vertical_text(f"← {rows}", 12, middle, anchor="middle", kind="axis"),
    ]
    for index, label in enumerate(labels):
        centre = layout.side * (index + 0.5)
        short = shorten(label, 12.4 * _LETTER, 11)
        x, y = layout.left + centre, layout.top + centre
        parts.append(text(layout.left - 6, y + 4, short, anchor="end", kind="label"))
        y = layout.top - 6
        if vertical:
            parts.append(_vertical_text(short, x + 4, y, kind="label"))
        else:
            parts.append(text(x, y, short, anchor="middle", kind="label"))
    return join(parts)


def _vertical_text(
    content: str, x: float, y: float, *, kind: str, anchor: str | None = None
) -> Markup:
    turn = f"rotate(-90 {x:.1f} {y:.1f})"
    return element(
        "text", content, x=x, y=y, text_anchor=anchor, transform=turn, class_=f"t {kind}"
    )


def _cell(
    layout: Layout, i: int, j: int, value: float, most: float, written: str, tip: str
) -> Markup:
    """Draw one cell: nothing for zero, an outline on the diagonal, a shade elsewhere."""
    x, y = layout.left + j * layout.side, layout.top + i * layout.side
    side = layout.side - _GAP
    box = {"x": x, "y": y, "width": side, "height": side}
    parts = [element("rect", **box, rx=2, class_="cell")]
    if i == j:
        box = {"x": x + 0.75, "y": y + 0.75, "width": side - 1.5, "height": side - 1.5}
        parts.append(element("rect", element("title", tip), **box, rx=2, class_="diagonal"))
    elif value > 0 and most > 0:
        # A shade above 0.55 would reduce the contrast of the text on it below the readable minimum.
        shade = 0.08 + 0.47 * min(1.0, value / most) ** 0.6
        tint = {"class_": "tint", "fill_opacity": shade}
        parts.append(element("rect", element("title", tip), **box, rx=2, **tint))
    if written:
        kind = "label muted" if i == j else "label"
        parts.append(text(x + side / 2, y + side / 2 + 4, written, anchor="middle", kind=kind))
    return join(parts)
