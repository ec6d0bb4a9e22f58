"""A few samples to be looked at, with the maps of both models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from limbeck.evaluate.attributions import alignment, pictures, words
from limbeck.evaluate.attributions.explained import Numbers, Words
from limbeck.evaluate.interval import Result
from limbeck.evaluate.sitting import Texts

Array = NDArray[np.float64]


class PictureExample(Result):
    """A picture and its maps as PNG in base64: dark speaks for the class, light blue against it.

    Attributes:
        row: Which test sample it is.
        label: The right answer.
        explained: The class that the maps speak for or against.
        cosine: How alike the two maps are, if there are two.
        picture: The picture.
        student: The student's map.
        teacher: The teacher's.
    """

    row: int
    label: str
    explained: str
    cosine: float | None
    picture: str
    student: str
    teacher: str | None


class TextExample(Result):
    """A text's tokens, and how much each spoke for the class, in logits.

    Attributes:
        row: Which test sample it is.
        label: The right answer.
        explained: The class that the tokens speak for or against.
        cosine: How alike the two maps are, if there are two.
        tokens: The words, or numbers of tokens where no word is known.
        student: What the student made of each token.
        teacher: The same of the teacher.
    """

    row: int
    label: str
    explained: str
    cosine: float | None
    tokens: tuple[str, ...]
    student: tuple[float, ...]
    teacher: tuple[float, ...] | None


def telling(maps: Sequence[Array], count: int) -> list[int]:
    """Choose samples to show: those whose maps are least alike, then those most alike.

    With the maps of one model alone, the first samples are shown.

    Args:
        maps: The student's maps, and the teacher's if there are any: `[n, places]` each.
        count: How many samples.

    Example:
        >>> one = np.eye(3)
        >>> telling([one, np.array([[1.0, 0, 0], [1, 0, 0], [1, 0, 1]])], 2)
        [1, 0]
    """
    if len(maps) < 2:
        return list(range(min(count, len(maps[0]))))
    alike = alignment.cosine(*maps)
    order = [int(row) for row in np.argsort(alike, kind="stable") if np.isfinite(alike[row])]
    if len(order) <= count:
        return order
    return order[: count - count // 2] + order[len(order) - count // 2 :]


def picture(
    material: Numbers, at: int, maps: Sequence[Array], *, row: int, label: str, explained: str
) -> PictureExample:
    """Show a sample of pictures; `at` is its place in the material, the student's map is first."""
    drawn = [pictures.drawn(side[at].reshape(material.places)) for side in maps]
    return PictureExample(
        row=row,
        label=label,
        explained=explained,
        cosine=_cosine(maps, at),
        picture=pictures.shown(material.pixels(at)),
        student=drawn[0],
        teacher=drawn[1] if len(drawn) > 1 else None,
    )


def text(
    material: Words,
    at: int,
    maps: Sequence[Array],
    texts: Texts | None,
    *,
    row: int,
    label: str,
    explained: str,
) -> TextExample:
    """Show a text; `at` is its place in the material, the student's map is first."""
    where = material.there[at]
    ids = [int(number) for number in material.ids[at][where]]
    tokens = [f"#{number}" for number in ids]
    if texts is not None:
        tokens = words.readable(texts.raw[row], ids, texts)
    spoke = [tuple(float(value) for value in side[at][where]) for side in maps]
    return TextExample(
        row=row,
        label=label,
        explained=explained,
        cosine=_cosine(maps, at),
        tokens=tuple(tokens),
        student=spoke[0],
        teacher=spoke[1] if len(spoke) > 1 else None,
    )


def _cosine(maps: Sequence[Array], at: int) -> float | None:
    if len(maps) < 2:
        return None
    return float(alignment.cosine(maps[0][at : at + 1], maps[1][at : at + 1])[0])
