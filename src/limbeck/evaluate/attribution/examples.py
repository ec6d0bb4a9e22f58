"""Example samples with the attribution maps of both models, for the report."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from limbeck.core.measurement import Result
from limbeck.evaluate.attribution import explained as pictures
from limbeck.evaluate.attribution import maps as words
from limbeck.evaluate.attribution import similarity
from limbeck.evaluate.attribution.explained import Numbers, Words
from limbeck.evaluate.context import TextInputs

Array = NDArray[np.float64]


class ImageExample(Result):
    """An image and its maps as PNG in base64: dark is evidence for the class, blue against it.

    Attributes:
        row: The index of the test sample.
        label: The label.
        explained: The class that the maps explain.
        cosine: The cosine similarity of the two maps, if there are two.
        picture: The image.
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
    """A text's tokens, and the attribution of each to the class, in logits.

    Attributes:
        row: The index of the test sample.
        label: The label.
        explained: The class that the attributions explain.
        cosine: The cosine similarity of the two maps, if there are two.
        tokens: The words, or token ids where no word is known.
        student: The student's attribution of each token.
        teacher: The same of the teacher.
    """

    row: int
    label: str
    explained: str
    cosine: float | None
    tokens: tuple[str, ...]
    student: tuple[float, ...]
    teacher: tuple[float, ...] | None


def most_divergent(maps: Sequence[Array], count: int) -> list[int]:
    """Select samples to show: those with the least similar maps, then those with the most similar.

    With the maps of one model alone, the first samples are selected.

    Args:
        maps: The student's maps, and the teacher's if there are any: `[n, places]` each.
        count: Number of samples.

    Example:
        >>> one = np.eye(3)
        >>> most_divergent([one, np.array([[1.0, 0, 0], [1, 0, 0], [1, 0, 1]])], 2)
        [1, 0]
    """
    if len(maps) < 2:
        return list(range(min(count, len(maps[0]))))
    alike = similarity.cosine(*maps)
    order = [int(row) for row in np.argsort(alike, kind="stable") if np.isfinite(alike[row])]
    if len(order) <= count:
        return order
    return order[: count - count // 2] + order[len(order) - count // 2 :]


def picture(
    material: Numbers, at: int, maps: Sequence[Array], *, row: int, label: str, explained: str
) -> ImageExample:
    """Build an image example; `at` is its index in the material, the student's map is first."""
    drawn = [pictures.drawn(side[at].reshape(material.places)) for side in maps]
    return ImageExample(
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
    texts: TextInputs | None,
    *,
    row: int,
    label: str,
    explained: str,
) -> TextExample:
    """Build a text example; `at` is its index in the material, the student's map is first."""
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
    return float(similarity.cosine(maps[0][at : at + 1], maps[1][at : at + 1])[0])
