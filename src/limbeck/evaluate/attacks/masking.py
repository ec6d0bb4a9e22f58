"""Gradient masking checks: whether the robust accuracy under gradient attacks is reliable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from limbeck.evaluate.attacks.gradient import pgd, zero_gradients
from limbeck.evaluate.attacks.pixels import Pictures, PixelModel, Shown
from limbeck.evaluate.attacks.rows import in_255ths
from limbeck.evaluate.attacks.withstood import Effort, Right, Withstood
from limbeck.evaluate.paired import paired_difference

GAP = 0.05
"""Gain of a stronger attack, at 95 %, above which the weaker one counts as masked."""
ZERO = 0.05
"""Share of images with zero gradient above which gradients count as masked."""
UNBOUNDED = 0.1
"""Accuracy above which an unbounded attack counts as failed."""


@dataclass(frozen=True)
class Probed:
    """The probes of a model for gradient masking, `[n]` each.

    Attributes:
        zero: Whether cross-entropy has zero gradient on the image.
        unbounded: Whether the prediction is still correct after unbounded PGD.
    """

    zero: Right
    unbounded: Right


def probe(
    model: PixelModel, shown: Shown, pictures: Pictures, withstood: Withstood, effort: Effort
) -> Probed:
    """Test each image for a zero gradient, and apply unbounded PGD where PGD has failed so far.

    Args:
        model: The torch model of pixels.
        shown: The exported file.
        pictures: The images.
        withstood: The result at the largest size.
        effort: The attack budget, for PGD's steps.
    """
    unbounded = np.zeros(len(pictures.labels), dtype=np.bool_)
    if withstood.pgd is not None and withstood.pgd.any():
        left = pictures.some(np.flatnonzero(withstood.pgd))
        found = pgd(model, left.pixels, left.labels, size=1, steps=effort.steps, seed=effort.seed)
        unbounded[withstood.pgd] = shown(found).argmax(axis=1) == left.labels
    return Probed(zero_gradients(model, pictures.pixels, pictures.labels), unbounded)


def masking(withstood: Sequence[Withstood], probed: Probed) -> tuple[str, ...]:
    """Return the signs of gradient masking, as clauses; empty if there are none.

    The signs are: images with zero gradient; a stronger attack of the same size, transferred
    images, or an attack without gradients succeed clearly more often than PGD; unbounded PGD fails.

    Args:
        withstood: The result at each size.
        probed: The probes.

    Source: Athalye et al., ICML 2018 (arXiv:1802.00420), section 3.1; Carlini et al. 2019
        (arXiv:1902.06705).
    """
    return tuple(_signs(withstood, probed))


def _signs(withstood: Sequence[Withstood], probed: Probed) -> Iterator[str]:
    zero, unbounded = probed.zero.mean(), probed.unbounded.mean()
    if zero > ZERO:
        yield f"on {zero:.0%} of the pictures cross-entropy has no gradient at all in float32"
    for weaker, stronger, by_size in (
        (
            "under PGD",
            "under the strongest attack",
            [(one.size, one.pgd, one.strongest) for one in withstood],
        ),
        (
            "under PGD",
            "on pictures made against the other model",
            [(one.size, one.pgd, one.transfer) for one in withstood],
        ),
        (
            "under all attacks with gradients",
            "once random squares are tried",
            [(one.size, one.gradients, one.strongest) for one in withstood],
        ),
    ):
        fooled = [
            (size, weak, strong)
            for size, weak, strong in by_size
            if weak is not None and strong is not None and _beaten(weak, strong)
        ]
        if fooled:
            size, weak, strong = max(fooled, key=lambda one: one[1].mean() - one[2].mean())
            yield (
                f"accuracy at {in_255ths(size)} is {weak.mean():.0%} {weaker} and "
                f"{strong.mean():.0%} {stronger}"
            )
    if unbounded > UNBOUNDED:
        yield f"accuracy is {unbounded:.0%} under PGD even if it may change every pixel at will"


def _beaten(weak: Right, strong: Right) -> bool:
    gap = paired_difference(weak.astype(np.float64), strong.astype(np.float64))
    return gap.interval is not None and gap.interval.low > GAP
