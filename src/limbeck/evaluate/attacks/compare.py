"""Robust accuracy of student and teacher under the same adversarial attacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from limbeck.evaluate.attacks.gradient import deepfool
from limbeck.evaluate.attacks.masking import masking, probe
from limbeck.evaluate.attacks.median import median_of
from limbeck.evaluate.attacks.pixels import Floats, Pictures
from limbeck.evaluate.attacks.rows import Attack, AttackRow, Example, in_255ths
from limbeck.evaluate.attacks.withstood import (
    Attacked,
    Effort,
    Right,
    Withstood,
    pgd_pictures,
    withstand,
)
from limbeck.evaluate.attributions.pictures import shown as drawn
from limbeck.evaluate.bootstrap import Resamples
from limbeck.evaluate.finding import Estimate, Finding, find
from limbeck.evaluate.paired import shares

ATTACKS: tuple[Attack, ...] = ("fgsm", "pgd", "transfer", "gradients", "strongest")
NEAREST = 100
"""Number of images for DeepFool, the slowest attack."""
EXAMPLES = 6
"""Number of adversarial examples shown."""


@dataclass(frozen=True)
class UnderAttack:
    """The results of attacks on student and teacher.

    Attributes:
        rows: Robust accuracy by attack and perturbation size.
        findings: The metric comparisons.
        warnings: The values that are unreliable, and why.
        broken: The result of the largest size on the student.
    """

    rows: tuple[AttackRow, ...]
    findings: tuple[Finding, ...]
    warnings: tuple[str, ...]
    broken: Withstood


def compare_attacks(
    student: Attacked,
    teacher: Attacked | None,
    pictures: Pictures,
    *,
    sizes: tuple[float, ...],
    effort: Effort,
    margin: float,
) -> UnderAttack:
    """Compare robust accuracy at every size, by each model's own gradients and by transfer.

    Args:
        student: The student.
        teacher: The teacher, or None.
        pictures: The images.
        sizes: L-infinity perturbation sizes, in rising order.
        effort: The attack budget.
        margin: The non-inferiority margin of accuracy.

    Raises:
        InputError: foolbox is not installed.
    """
    sides = {"student": student} | ({} if teacher is None else {"teacher": teacher})
    made = {name: pgd_pictures(one.model, pictures, sizes, effort) for name, one in sides.items()}
    withstood = {
        name: withstand(
            one, pictures, sizes, own=made[name], others=_others(made, name), effort=effort
        )
        for name, one in sides.items()
    }
    ours, theirs = withstood["student"], withstood.get("teacher")
    rows = [
        _row(attack, one, theirs[number] if theirs else None)
        for number, one in enumerate(ours)
        for attack in ATTACKS
    ]
    findings = [
        _finding(one, theirs[number] if theirs else None, margin=margin, twin=student.model)
        for number, one in enumerate(ours)
    ]
    warnings = [
        _warning(name, one, pictures, withstood[name], effort) for name, one in sides.items()
    ]
    return UnderAttack(tuple(rows), tuple(findings), tuple(filter(None, warnings)), ours[-1])


FURTHER = (1.0, 1.02, 1.05, 1.1, 1.2, 1.4, 1.7, 2.0, 3.0)
"""Multiples of DeepFool's perturbation that are tried until the exported file errs."""


def compare_deepfool(
    student: Attacked, teacher: Attacked | None, pictures: Pictures, *, draws: int, seed: int
) -> list[Finding]:
    """Compare the median minimal perturbation by DeepFool; empty without the student's torch model.

    Args:
        student: The student.
        teacher: The teacher, or None.
        pictures: The images.
        draws: Number of bootstrap resamples.
        seed: Seed of the choice of images and of the resampling.
    """
    pictures = pictures.drawn(NEAREST, seed)
    resamples = Resamples(len(pictures.labels), draws=draws, seed=seed)
    ours = deepfool_distances(student, pictures)
    if ours is None:
        return []
    theirs = None if teacher is None else deepfool_distances(teacher, pictures)
    beside = resamples.beside(median_of(ours), None if theirs is None else median_of(theirs))
    finding = find(
        "Median distance to a wrong answer by DeepFool",
        unit="number",
        better="higher",
        margin=0.05 * (beside.teacher or beside.student).value,
        how=(
            f"DeepFool looked on each model's twin for the wrong pictures nearest to "
            f"{len(pictures.labels)}, in the L2 norm of pixels from 0 to 1; what ships was shown "
            "them, and pictures further on the same way until it erred. One answered wrong from "
            "the start counts as 0, one that stayed right as the diagonal of the pixel box."
        ),
        **dict(beside),
    )
    return [finding]


def deepfool_distances(attacked: Attacked, pictures: Pictures) -> NDArray[np.float64] | None:
    """Measure DeepFool's minimal perturbation that fools the exported file, `[n]`, or return None.

    DeepFool's image lies just beyond the torch model's decision boundary; a quantised file's lies
    slightly elsewhere. The perturbation is therefore scaled up in steps until the file errs. In the
    L2 norm of pixels; 0 if the file errs at once, the diagonal of the pixel box if it never does.
    """
    if attacked.model is None:
        return None
    found = deepfool(attacked.model, pictures.pixels, pictures.labels)
    way = found - pictures.pixels
    distance = np.full(len(found), way[0].size ** 0.5)
    for step in reversed(FURTHER):
        reached = np.clip(pictures.pixels + np.float32(step) * way, 0, 1).astype(np.float32)
        change = (reached - pictures.pixels).astype(np.float64).reshape(len(found), -1)
        wrong = ~_right(attacked, reached, pictures)
        distance[wrong] = np.linalg.norm(change, axis=1)[wrong]
    distance[~_right(attacked, pictures.pixels, pictures)] = 0.0
    return distance


def examples(
    student: Attacked, pictures: Pictures, broken: Withstood, classes: tuple[str, ...]
) -> tuple[Example, ...]:
    """Return images that the student classified correctly until they were perturbed."""
    clean = _right(student, pictures.pixels, pictures)
    rows = np.flatnonzero(clean & ~broken.strongest)[:EXAMPLES]
    if len(rows) == 0:
        return ()
    changed = broken.pixels[rows]
    answers = student.shown(changed).argmax(axis=1)
    return tuple(
        Example(
            label=classes[pictures.labels[row]],
            answer=classes[answer],
            size=float(np.abs(after - pictures.pixels[row]).max()),
            before=drawn(pictures.pixels[row].astype(np.float64)),
            after=drawn(after.astype(np.float64)),
        )
        for row, after, answer in zip(rows, changed, answers, strict=True)
    )


def _others(made: Mapping[str, Mapping[float, Floats]], name: str) -> Mapping[float, Floats]:
    return next((pictures for other, pictures in made.items() if other != name), {})


def _right(attacked: Attacked, pixels: Floats, pictures: Pictures) -> Right:
    return attacked.shown(pixels).argmax(axis=1) == pictures.labels


def _by_attack(withstood: Withstood) -> dict[Attack, Right | None]:
    return {
        "fgsm": withstood.fgsm,
        "pgd": withstood.pgd,
        "transfer": withstood.transfer,
        "gradients": withstood.gradients,
        "strongest": withstood.strongest,
    }


def _row(attack: Attack, student: Withstood, teacher: Withstood | None) -> AttackRow:
    ours = _by_attack(student)[attack]
    theirs = None if teacher is None else _by_attack(teacher)[attack]
    return AttackRow(attack=attack, size=student.size, student=_share(ours), teacher=_share(theirs))


def _share(right: Right | None) -> Estimate | None:
    return None if right is None else shares(right.astype(np.float64), None).student


def _finding(
    student: Withstood, teacher: Withstood | None, *, margin: float, twin: object | None
) -> Finding:
    theirs = None if teacher is None else teacher.strongest.astype(np.float64)
    beside = shares(student.strongest.astype(np.float64), theirs)
    made = (
        "FGSM, PGD and PGD on the margin were made on each model's twin, pictures of the one were "
        "tried on the other, and squares at random on what ships"
        if twin is not None
        else "The student has no twin: it was tried with the teacher's pictures and random squares"
    )
    return find(
        f"Accuracy under the strongest attack, {in_255ths(student.size)}",
        unit="share",
        better="higher",
        margin=margin,
        how=f"{made}; a picture counts if what ships answers it rightly after each of them.",
        **dict(beside),
    )


def _warning(
    name: str,
    attacked: Attacked,
    pictures: Pictures,
    withstood: Sequence[Withstood],
    effort: Effort,
) -> str:
    if attacked.model is None:
        return ""
    probed = probe(attacked.model, attacked.shown, pictures, withstood[-1], effort)
    signs = masking(withstood, probed)
    if not signs:
        return ""
    return (
        f"The {name}'s gradients are masked: what FGSM and PGD leave of its accuracy is no "
        f"robustness. Signs: {'; '.join(signs)}. Believe the figure of the strongest attack only."
    )
