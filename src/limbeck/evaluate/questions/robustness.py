"""Robustness: adversarial attacks, corruptions, certified accuracy, boundary distances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from limbeck.errors import InputError, Problem, check_choice
from limbeck.evaluate.attacks.rows import AttackRow, Example
from limbeck.evaluate.bootstrap import Resamples
from limbeck.evaluate.certified.rows import CertifiedRow, Distances
from limbeck.evaluate.corruption.compare import (
    CorruptedRow,
    Damage,
    compare_corruptions,
    compare_variance,
)
from limbeck.evaluate.corruption.pictures import PICTURES, SEVERITIES, corrupt_pictures
from limbeck.evaluate.corruption.texts import TEXTS, corrupt_texts
from limbeck.evaluate.finding import Finding
from limbeck.evaluate.interval import Result
from limbeck.evaluate.workload import Workload
from limbeck.numbers import is_positive, is_whole
from limbeck.optional import available

if TYPE_CHECKING:
    from limbeck.evaluate.attacks.pixels import Pictures
    from limbeck.evaluate.attacks.withstood import Attacked, Effort
    from limbeck.evaluate.certified.compare import Certifiable
    from limbeck.evaluate.sitting import Side, Sitting, Texts

PARTS = ("attacks", "corruption", "certified", "distances")
"""All parts of the evaluation."""
NOISE_DRAWS = 5
"""Number of noise draws for the prediction variance."""
BOUNDS = 13
"""Cost of certificates per image, in gradients: measured on residual networks."""
NO_GRADIENTS = (
    "The {} has no twin in torch: it was attacked without gradients of its own, and may be less "
    "robust than it looks."
)


class Robustness(Result):
    """The robustness of student and teacher.

    Attributes:
        findings: The metric comparisons.
        notes: Reasons for what could not be done.
        samples: Number of samples corrupted.
        attacked: Number attacked, certified and measured.
        warnings: The values that are unreliable, and why.
        attacks: Accuracy by attack and perturbation size.
        examples: Adversarial examples of the student.
        corruptions: Accuracy by corruption and severity.
        certified: Certified accuracy.
        distances: Distance to the decision boundary, in pixels.
    """

    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    samples: int
    attacked: int
    warnings: tuple[str, ...] = ()
    attacks: tuple[AttackRow, ...] = ()
    examples: tuple[Example, ...] = ()
    corruptions: tuple[CorruptedRow, ...] = ()
    certified: tuple[CertifiedRow, ...] = ()
    distances: Distances | None = None


@dataclass(frozen=True)
class _Part:
    """The contribution of one part: metric comparisons, notes, and fields of the result by name."""

    findings: Sequence[Finding] = ()
    notes: Sequence[str] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)


def ask(
    sitting: Sitting,
    *,
    parts: tuple[str, ...] = PARTS,
    sizes: tuple[float, ...] = (2 / 255, 8 / 255, 0.1),
    certified_sizes: tuple[float, ...] = (0.001, 1 / 255, 2 / 255),
    attacked: int = 64,
    steps: int = 10,
    restarts: int = 2,
    queries: int = 50,
    margin: float = 0.02,
    draws: int = 1000,
) -> Robustness:
    """Evaluate robustness to attacks and corruptions, and certify accuracy.

    Args:
        sitting: The evaluation context.
        parts: The parts to run, of `PARTS`.
        sizes: L-infinity perturbation sizes of attacks.
        certified_sizes: The same for certificates.
        attacked: Number of samples that are attacked, certified and measured; all are corrupted.
        steps: Steps of a gradient attack.
        restarts: Restarts of the strongest of them.
        queries: Queries per image of the attack without gradients.
        margin: The non-inferiority margin of accuracy.
        draws: Number of bootstrap resamples.

    Raises:
        InputError: There is no such part, or a size is not within (0, 1].
    """
    from limbeck.evaluate.attacks.pixels import pictures_of
    from limbeck.evaluate.attacks.withstood import Effort

    _check(parts, (*sizes, *certified_sizes), attacked)
    whole = pictures_of(sitting)
    found: list[_Part] = []
    if "corruption" in parts:
        found.append(_worsened(sitting, whole, margin=margin, draws=draws))
    some = None if isinstance(whole, str) else whole.drawn(attacked, sitting.seed)
    if some is None:
        found.append(_Part(notes=(f"{whole}: no attacks, no certificates, no distances.",)))
    else:
        resamples = Resamples(len(some.labels), draws=draws, seed=sitting.seed)
        if "attacks" in parts:
            effort = Effort(steps, restarts, queries, sitting.seed)
            found.append(_attacks(sitting, some, sorted(sizes), effort, margin=margin, draws=draws))
        if "certified" in parts:
            found.append(_certified(sitting, some, certified_sizes, margin))
        if "distances" in parts:
            found.append(_distances(sitting, some, resamples))
    return Robustness(
        findings=tuple(line for part in found for line in part.findings),
        notes=tuple(note for part in found for note in part.notes),
        samples=len(sitting.sample["label"]),
        attacked=0 if some is None else len(some.labels),
        **{name: value for part in found for name, value in part.fields.items()},
    )


def check(
    classes: tuple[str, ...],
    *,
    parts: tuple[str, ...] = PARTS,
    sizes: tuple[float, ...] = (),
    certified_sizes: tuple[float, ...] = (),
    attacked: int = 1,
) -> None:
    """Check the settings that their types leave open, before anything is trained.

    Raises:
        InputError: A part is none of `PARTS`, or a size or number is out of range.
    """
    _check(parts, (*sizes, *certified_sizes), attacked)


def _check(parts: tuple[str, ...], sizes: tuple[float, ...], attacked: int) -> None:
    for part in parts:
        check_choice(part, PARTS, where="robustness.parts")
    if not is_whole(attacked, least=1):
        raise InputError(Problem("robustness.attacked", attacked, "a whole number above 0"))
    for size in sizes:
        if not is_positive(size) or size > 1:
            raise InputError(Problem("robustness.sizes", size, "numbers above 0 and at most 1"))


def _worsened(sitting: Sitting, pictures: Pictures | str, *, margin: float, draws: int) -> _Part:
    labels = sitting.sample["label"]
    both = sitting.student.predictor, sitting.teacher.predictor if sitting.teacher else None
    resamples = Resamples(len(labels), draws=draws, seed=sitting.seed)
    if not isinstance(pictures, str):
        kinds, damage = tuple(PICTURES), _damaged_pictures(pictures, sitting.seed)
        varied = compare_variance(*both, _noisy(pictures, sitting.seed), resamples=resamples)
    elif sitting.texts is not None and labels.ndim == 1:
        kinds, damage = tuple(TEXTS), _damaged_texts(sitting.texts, sitting.sample, sitting.seed)
        varied = None
    else:
        return _Part(notes=("The samples are neither pictures nor texts: nothing was worsened.",))
    rows, findings = compare_corruptions(
        *both, labels, kinds=kinds, damage=damage, resamples=resamples, margin=margin
    )
    lines = findings if varied is None else [*findings, varied]
    return _Part(findings=lines, fields={"corruptions": rows})


def _damaged_pictures(pictures: Pictures, seed: int) -> Damage:
    def damage(kind: str, severity: int) -> dict[str, Any]:
        worse = corrupt_pictures(pictures.pixels, kind, severity=severity, seed=seed)
        return pictures.inputs(worse)

    return damage


def _noisy(pictures: Pictures, seed: int) -> list[dict[str, Any]]:
    return [
        dict(_damaged_pictures(pictures, seed + 1 + draw)("gaussian noise", 1))
        for draw in range(NOISE_DRAWS)
    ]


def _damaged_texts(texts: Texts, sample: Mapping[str, NDArray[Any]], seed: int) -> Damage:
    raw = [texts.raw[row] for row in sample["row"]]
    return lambda kind, severity: texts.encode(
        corrupt_texts(raw, kind, severity=severity, seed=seed)
    )


def _attacks(
    sitting: Sitting,
    pictures: Pictures,
    sizes: Sequence[float],
    effort: Effort,
    *,
    margin: float,
    draws: int,
) -> _Part:
    from limbeck.evaluate.attacks.compare import compare_attacks, compare_deepfool, examples

    if not available("foolbox"):
        return _Part(notes=('Attacks need foolbox: pip install "limbeck[evaluate]".',))
    if len(sitting.classes) < 2:
        return _Part(notes=("There is one class alone: no attack can change the answer.",))
    student = _attacked(sitting.student, pictures)
    teacher = _attacked(sitting.teacher, pictures) if sitting.teacher else None
    under = compare_attacks(
        student, teacher, pictures, sizes=tuple(sizes), effort=effort, margin=margin
    )
    nearest = compare_deepfool(student, teacher, pictures, draws=draws, seed=sitting.seed)
    return _Part(
        findings=[*under.findings, *nearest],
        notes=[NO_GRADIENTS.format(name) for name, side in sitting.sides() if side.twin is None],
        fields={
            "warnings": under.warnings,
            "attacks": under.rows,
            "examples": examples(student, pictures, under.broken, sitting.classes),
        },
    )


def _attacked(side: Side, pictures: Pictures) -> Attacked:
    from limbeck.evaluate.attacks.withstood import Attacked

    model = None if side.twin is None else pictures.model(side.twin)
    return Attacked(pictures.show(side.predictor), model)


def _certified(
    sitting: Sitting, pictures: Pictures, sizes: tuple[float, ...], margin: float
) -> _Part:
    from limbeck.evaluate.certified.compare import compare_certified

    sides = _certifiable(sitting, pictures)
    if "student" not in sides:
        return _Part(notes=("The student has no twin in torch: no certificates.",))
    rows, findings, notes = compare_certified(
        sides, pictures.pixels, pictures.labels, sizes=sizes, margin=margin
    )
    return _Part(findings, notes, {"certified": rows})


def _distances(sitting: Sitting, pictures: Pictures, resamples: Resamples) -> _Part:
    from limbeck.evaluate.certified.compare import compare_distances

    sides = _certifiable(sitting, pictures)
    if "student" not in sides:
        return _Part(notes=("The student has no twin in torch: no distances.",))
    distances, finding = compare_distances(
        sides, pictures.pixels, pictures.labels, resamples=resamples
    )
    return _Part([finding], (), {"distances": distances})


def _certifiable(sitting: Sitting, pictures: Pictures) -> dict[str, Certifiable]:
    from limbeck.evaluate.certified.compare import Certifiable

    return {
        name: Certifiable(
            pictures.model(side.twin),
            pictures.show(side.predictor)(pictures.pixels).argmax(axis=1) == pictures.labels,
        )
        for name, side in sitting.sides()
        if side.twin is not None
    }


def workload(
    sitting: Sitting,
    *,
    parts: tuple[str, ...],
    sizes: tuple[float, ...],
    attacked: int,
    steps: int,
    restarts: int,
    queries: int,
    **settings: object,
) -> Workload:
    """Compute the workload, as if no image were broken by the first attacks of any size."""
    pictures = sitting.pixels is not None
    if not pictures and sitting.texts is None:
        return Workload()
    kinds = PICTURES if pictures else TEXTS
    worsened = (len(kinds) * len(SEVERITIES) + 1 + NOISE_DRAWS) * len(sitting.sample["label"])
    predictions, gradients = worsened * ("corruption" in parts), 0
    if pictures and "attacks" in parts:
        predictions += attacked * (queries + 3 * len(sizes))
        gradients += attacked * (len(sizes) * (steps + 1) + restarts)
    if pictures and "certified" in parts:
        gradients += attacked * BOUNDS
    if pictures and "distances" in parts:
        gradients += attacked * len(sitting.classes) // 3
    return Workload(predictions=predictions, gradients=gradients)
