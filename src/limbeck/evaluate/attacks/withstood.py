"""Worst-case robust accuracy of one model: all attacks, from the weakest to the strongest."""

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
    """The attack budget.

    Attributes:
        steps: Steps of every iterative attack.
        restarts: Restarts of PGD on the margin, each with another target class.
        queries: Queries per image of the attack without gradients.
        seed: Seed of random starts and squares.
    """

    steps: int = 10
    restarts: int = 2
    queries: int = 50
    seed: int = 0


@dataclass(frozen=True)
class Attacked:
    """A model as an attack target.

    Attributes:
        shown: Computes the exported file's logits from pixels.
        model: The torch model of pixels, or None: no attack then has gradients.
    """

    shown: Shown
    model: PixelModel | None


@dataclass(frozen=True)
class Withstood:
    """The result of attacks of one size, `[n]` each: whether the exported file is still correct.

    An image that was misclassified before any attack counts as wrong after it.

    Attributes:
        size: The L-infinity perturbation size.
        fgsm: After FGSM, or None without gradients.
        pgd: After PGD on cross-entropy, or None without gradients.
        transfer: After PGD on the other model, or None.
        gradients: After all of these, PGD on the margin, and whatever a smaller size broke.
        strongest: After these and the attack without gradients.
        pixels: The adversarial image, where one was found; otherwise the original.
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
    """Compute PGD's images at every size; both models are tested on them."""
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
    """Apply all attacks to a model at every size, the smallest first.

    Stronger attacks run only on images that the weaker ones left, and an image broken at a
    smaller size is broken at every larger one: the result is the worst case over all attacks.

    Args:
        attacked: The attack target.
        pictures: The images.
        sizes: L-infinity perturbation sizes, smallest first.
        own: The images of `pgd_pictures` made on it, by size; empty without gradients.
        others: Those made on the other model.
        effort: The attack budget.

    Source: Croce & Hein, ICML 2020 (arXiv:2003.01690), for the worst case over several attacks.
    """
    one = _Attack(attacked, pictures, effort)
    return [one.at(size, own.get(size), others.get(size)) for size in sizes]


class _Attack:
    """The state of the attacks: per image, whether it is still correct, and what broke it."""

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
        """Predict all perturbed images, and keep those that are misclassified."""
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
