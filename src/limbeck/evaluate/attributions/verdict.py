"""Metric comparisons of attributions: similarity, deletion score, stability."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from limbeck.evaluate.attributions import alignment, removal
from limbeck.evaluate.attributions.compare import Alignment, mean
from limbeck.evaluate.attributions.explained import Explained, Material
from limbeck.evaluate.bootstrap import Resamples
from limbeck.evaluate.finding import Finding, Unit, find

if TYPE_CHECKING:
    from limbeck.evaluate.sitting import Sitting

Array = NDArray[np.float64]
Labels = NDArray[np.int64]
METHODS = {
    "integrated_gradients": "integrated gradients",
    "saliency": "saliency",
    "occlusion": "occlusion",
}
"""Names of the methods, the most informative first."""
MARGIN = 0.05


def aligned(alignments: Sequence[Alignment], share: float) -> list[Finding]:
    """Build the comparisons of attribution similarity, which have no reference value."""
    source = {"occlusion": "of the files that ship"}
    return [
        find(
            f"Likeness of the maps of student and teacher, {METHODS[each.method]}",
            unit="number",
            better="higher",
            student=each.cosine,
            margin=MARGIN,
            how=f"Mean cosine of the maps {source.get(each.method, 'of the models in torch')} for "
            f"the class that the teacher answers, of {each.samples} samples; with the teacher's "
            f"map of another sample it is {each.elsewhere:.2f}, and of the strongest "
            f"{100 * share:.0f} % of the places {100 * each.overlap.value:.0f} % are the same.",
        )
        for each in alignments
    ]


def removed(
    sitting: Sitting,
    material: Material,
    maps: Sequence[Array],
    classes: Labels,
    method: str,
    share: float,
    resamples: Resamples,
) -> Finding:
    """Compare deletion scores on the exported files, relative to random positions."""
    random = np.random.default_rng(sitting.seed).random(material.there.shape)
    anywhere = removal.strongest(random, material.there, share=share)
    falls = []
    for (_, side), found in zip(sitting.sides(), maps, strict=True):
        marked = removal.strongest(found, material.there, share=share)

        def answer(mask: NDArray[np.bool_], asked: Any = side.predictor) -> NDArray[np.float32]:
            return material.without(asked, mask)

        falls.append(
            removal.fall(answer, marked, classes) - removal.fall(answer, anywhere, classes)
        )
    made = "" if method == "occlusion" else ", made with gradients in torch"
    return _compared(
        "Weight of the places that a map marks",
        falls,
        resamples,
        unit="share",
        how=f"How much further the probability of the class falls, in the files that ship, without "
        f"the strongest {100 * share:.0f} % of the places than without as many drawn by chance; "
        f"the map is each model's own {METHODS[method]}{made}.",
    )


def steady(explained: Sequence[Explained], resamples: Resamples) -> list[Finding]:
    """Compare the stability of each model's saliency under a small step against the class."""
    kept = [
        np.nan_to_num(alignment.cosine(side.maps["saliency"], side.after_step))
        for side in explained
        if side.after_step is not None
    ]
    if len(kept) < len(explained):
        return []
    how = (
        "Mean cosine of saliency maps before and after one step of 2/255 a pixel against the "
        "class, both of the models in torch; a map that is zero everywhere counts as 0."
    )
    return [
        _compared(
            "Steadiness of saliency under a small step", kept, resamples, unit="number", how=how
        )
    ]


def _compared(
    name: str, values: Sequence[Array], resamples: Resamples, *, unit: Unit, how: str
) -> Finding:
    student, *teacher = values
    return find(
        name,
        unit=unit,
        better="higher",
        student=mean(student, resamples),
        teacher=mean(teacher[0], resamples) if teacher else None,
        difference=mean(student - teacher[0], resamples) if teacher else None,
        margin=MARGIN,
        how=how,
    )
