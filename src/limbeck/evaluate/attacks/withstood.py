"""All attacks on one model, the strong after the weak: which pictures it still answers rightly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from limbeck.evaluate.attacks.gradient import fgsm, pgd
from limbeck.evaluate.attacks.margin import margin_pgd
from limbeck.evaluate.attacks.pixels import Floats, Pictures, PixelModel, Shown
from limbeck.evaluate.attacks.square import square

Right = NDArray[np.bool_]


@dataclass(frozen=True)
class Effort:
    """How hard the attacks try.

    Attributes:
        steps: Steps of every attack that goes in steps.
        restarts: How often the attack on the margin begins, each time towards another class.
        queries: How often the attack without gradients shows a picture.
        seed: For random starts and squares.
    """

    steps: int = 10
    restarts: int = 2
    queries: int = 50
    seed: int = 0


@dataclass(frozen=True)
class Attacked:
    """A model with what attacks need of it.

    Attributes:
        shown: Shows pixels to what ships.
        model: Its twin that takes pixels, or none: then no attack has gradients.
    """

    shown: Shown
    model: PixelModel | None


@dataclass(frozen=True)
class Withstood:
    """What attacks of one size left, `[n]` each: is the answer of what ships still right?

    A picture that was answered wrong before any attack counts as wrong after it.

    Attributes:
        size: The largest change of any pixel.
        fgsm: After FGSM, or none without gradients.
        pgd: After PGD on cross-entropy, or none without gradients.
        transfer: After PGD on the other model, or none.
        gradients: After all of these, the attack on the margin, and whatever a smaller size broke.
        strongest: After these and the attack without gradients.
        pixels: A picture that broke it, where one was found; otherwise the picture itself.
    """

    size: float
    fgsm: Right | None
    pgd: Right | None
    transfer: Right | None
    gradients: Right
    strongest: Right
    pixels: Floats


def pgd_pictures(
    model: PixelModel | None, pictures: Pictures, sizes: tuple[float, ...], effort: Effort
) -> dict[float, Floats]:
    """Make the pictures of PGD at every size; they are shown to both models."""
    if model is None:
        return {}
    return {
        size: pgd(
            model,
            pictures.pixels,
            pictures.labels,
            size=size,
            steps=effort.steps,
            seed=effort.seed,
        )
        for size in sizes
    }


def withstand(
    attacked: Attacked,
    pictures: Pictures,
    sizes: tuple[float, ...],
    *,
    own: Mapping[float, Floats],
    others: Mapping[float, Floats],
    effort: Effort,
) -> list[Withstood]:
    """Attack a model at every size, the smallest first.

    The stronger attacks are spent on what the weaker left, and a picture that a smaller change
    broke is broken at every larger size: the figure is that of the worst of all attacks, picture
    by picture.

    Args:
        attacked: The model.
        pictures: What is changed.
        sizes: The largest change of any pixel, smallest first.
        own: The pictures of `pgd_pictures` made on it, by size; empty without gradients.
        others: Those made on the other model.
        effort: How hard the attacks try.

    Source: Croce & Hein, ICML 2020 (arXiv:2003.01690), for the worst case over several attacks.
    """
    one = _Attack(attacked, pictures, effort)
    return [one.at(size, own.get(size), others.get(size)) for size in sizes]


class _Attack:
    """What is known so far about each picture: is it still right, and what broke it."""

    def __init__(self, attacked: Attacked, pictures: Pictures, effort: Effort) -> None:
        self._attacked = attacked
        self._pictures = pictures
        self._effort = effort
        self._broken_by = pictures.pixels.copy()
        self._clean = self._right(pictures.pixels, pictures.labels)
        self._standing = self._clean.copy()

    def at(self, size: float, own: Floats | None, others: Floats | None) -> Withstood:
        model = self._attacked.model
        weak = None
        if model is not None:
            weak = self._show(fgsm(model, self._pictures.pixels, self._pictures.labels, size=size))
        strong = None if own is None else self._show(own)
        transfer = None if others is None else self._show(others)
        for restart in range(self._effort.restarts if model is not None else 0):
            self._climb(size, restart)
        gradients = self._standing.copy()
        self._ask(size)
        return Withstood(
            size,
            weak,
            strong,
            transfer,
            gradients,
            self._standing.copy(),
            self._broken_by.copy(),
        )

    def _show(self, found: Floats) -> Right:
        """Show changed pictures, all of them, and keep those that broke something."""
        right = self._clean & self._right(found, self._pictures.labels)
        self._keep(np.flatnonzero(self._standing & ~right), found[self._standing & ~right])
        return right

    def _climb(self, size: float, restart: int) -> None:
        rows = np.flatnonzero(self._standing)
        if len(rows) and self._attacked.model is not None:
            some = self._pictures.some(rows)
            found = margin_pgd(
                self._attacked.model,
                some.pixels,
                some.labels,
                size=size,
                steps=self._effort.steps,
                restart=restart,
                seed=self._effort.seed,
            )
            self._show_some(rows, found)

    def _ask(self, size: float) -> None:
        rows = np.flatnonzero(self._standing)
        if len(rows):
            some = self._pictures.some(rows)
            found = square(
                self._attacked.shown,
                some.pixels,
                some.labels,
                size=size,
                queries=self._effort.queries,
                seed=self._effort.seed,
            )
            self._show_some(rows, found)

    def _show_some(self, rows: NDArray[np.int64], found: Floats) -> None:
        wrong = ~self._right(found, self._pictures.labels[rows])
        self._keep(rows[wrong], found[wrong])

    def _keep(self, rows: NDArray[np.int64], found: Floats) -> None:
        self._standing[rows] = False
        self._broken_by[rows] = found

    def _right(self, pixels: Floats, labels: NDArray[np.int64]) -> Right:
        return self._attacked.shown(pixels).argmax(axis=1) == labels
