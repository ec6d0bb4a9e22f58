"""Certified accuracy and decision boundary distances of student and teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from limbeck.evaluate.attacks.median import median_of
from limbeck.evaluate.attacks.rows import in_255ths
from limbeck.evaluate.bootstrap import Resamples
from limbeck.evaluate.certified.bounds import NoBoundsError
from limbeck.evaluate.certified.certify import certified_margins
from limbeck.evaluate.certified.distances import boundary_distances
from limbeck.evaluate.certified.rows import CertifiedRow, Distances
from limbeck.evaluate.finding import Finding, find
from limbeck.evaluate.paired import shares

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
"""Quantiles of the distances that are recorded."""
CANDIDATES = 9
"""Number of the likeliest wrong classes considered for a distance."""


@dataclass(frozen=True)
class Certifiable:
    """A model to certify.

    Attributes:
        model: The torch model of pixels.
        right: Whether the exported file classifies each image correctly, `[n]`.
    """

    model: nn.Module
    right: NDArray[np.bool_]


def compare_certified(
    sides: Mapping[str, Certifiable],
    pixels: NDArray[np.float32],
    labels: NDArray[np.int64],
    *,
    sizes: tuple[float, ...],
    margin: float,
) -> tuple[tuple[CertifiedRow, ...], list[Finding], list[str]]:
    """Compute the certified accuracy of both models at every size, by interval bounds.

    Args:
        sides: `student`, and `teacher` if there is one.
        pixels: In [0, 1], `[n, channels, height, width]`.
        labels: `[n]`.
        sizes: L-infinity perturbation sizes.
        margin: The non-inferiority margin.

    Returns:
        The values, the metric comparisons, and why a model has no certificate.
    """
    certified: dict[str, list[NDArray[np.float64]]] = {}
    notes = []
    for name, side in sides.items():
        try:
            certified[name] = [
                (
                    side.right & (certified_margins(side.model, pixels, labels, size=size) > 0)
                ).astype(np.float64)
                for size in sizes
            ]
        except NoBoundsError as error:
            notes.append(f"The {name} has no certified accuracy: {error}.")
    if "student" not in certified:
        return (), [], notes
    rows, findings = [], []
    for number, size in enumerate(sizes):
        theirs = certified["teacher"][number] if "teacher" in certified else None
        beside = shares(certified["student"][number], theirs)
        rows.append(CertifiedRow(size=size, student=beside.student, teacher=beside.teacher))
        findings.append(
            find(
                f"Certified accuracy, any change up to {in_255ths(size)}",
                unit="share",
                better="higher",
                margin=margin,
                how=(
                    "Interval bounds through each model's twin, in exact arithmetic and in "
                    "float32, show that no change of this size alters the answer, and what ships "
                    "answers the picture rightly; a quantised file is not covered by the bounds."
                ),
                **dict(beside),
            )
        )
    return tuple(rows), findings, notes


def compare_distances(
    sides: Mapping[str, Certifiable],
    pixels: NDArray[np.float32],
    labels: NDArray[np.int64],
    *,
    resamples: Resamples,
) -> tuple[Distances, Finding]:
    """Compare the median distance to the decision boundary, by margin and gradient norm.

    Args:
        sides: `student`, and `teacher` if there is one.
        pixels: In [0, 1], `[n, channels, height, width]`.
        labels: `[n]`.
        resamples: The bootstrap resamples of the images.
    """
    # No two images in the box are further apart than its diagonal.
    diagonal = pixels[0].size ** 0.5
    found = {
        name: boundary_distances(side.model, pixels, labels, candidates=CANDIDATES).clip(
            max=diagonal
        )
        for name, side in sides.items()
    }
    ours, theirs = found["student"], found.get("teacher")
    beside = resamples.beside(median_of(ours), None if theirs is None else median_of(theirs))
    distances = Distances(
        levels=LEVELS,
        student=tuple(np.quantile(ours, LEVELS).tolist()),
        teacher=None if theirs is None else tuple(np.quantile(theirs, LEVELS).tolist()),
    )
    finding = find(
        "Median distance to the decision boundary",
        unit="number",
        better="higher",
        margin=0.05 * (beside.teacher or beside.student).value,
        how=(
            "The margin between logits divided by the L2 norm of its gradient, on each model's "
            "twin, in pixels from 0 to 1: exact where the model is linear around the picture, and "
            "0 where the answer is wrong."
        ),
        **dict(beside),
    )
    return distances, finding
