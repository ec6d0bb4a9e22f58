"""Robustness: adversarial attacks, corruptions, certified accuracy, boundary distances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from limbeck.core.imports import available
from limbeck.core.measurement import Result
from limbeck.core.numbers import is_positive, is_whole
from limbeck.errors import InputError, Problem, check_choice
from limbeck.evaluate.bootstrap import Resamples
from limbeck.evaluate.comparison import MetricComparison
from limbeck.evaluate.context import Workload
from limbeck.evaluate.robustness.corruptions import (
    PICTURES,
    SEVERITIES,
    TEXTS,
    CorruptedRow,
    Corruption,
    compare_corruptions,
    compare_variance,
    corrupt_images,
    corrupt_texts,
)
from limbeck.evaluate.robustness.rows import AttackRow, CertifiedRow, Distances, Example

if TYPE_CHECKING:
    from limbeck.evaluate.context import EvaluatedModel, EvaluationContext, TextInputs
    from limbeck.evaluate.robustness.attack_report import AttackBudget, AttackTarget
    from limbeck.evaluate.robustness.certified import Certifiable
    from limbeck.evaluate.robustness.images import Images


PARTS = ("attacks", "corruption", "certified", "distances")
"""All parts of the evaluation."""

NOISE_DRAWS = 5
"""Number of noise draws for the prediction variance."""

BOUNDS = 13
"""Cost of certificates per image, in gradients: measured on residual networks."""

NO_GRADIENTS = (
    "The {} has no PyTorch model: it was attacked without gradients of its own, so its robust "
    "accuracy may be overestimated."
)


class Robustness(Result):
    """The robustness of student and teacher.

    Attributes:
        comparisons: The metric comparisons.
        notes: Reasons for what could not be done.
        samples: Number of samples corrupted.
        attack_samples: Number attacked, certified and measured.
        warnings: The values that are unreliable, and why.
        attacks: Accuracy by attack and perturbation size.
        examples: Adversarial examples of the student.
        corruptions: Accuracy by corruption and severity.
        certified: Certified accuracy.
        distances: Distance to the decision boundary, in pixels.
    """

    comparisons: tuple[MetricComparison, ...]
    notes: tuple[str, ...]
    samples: int
    attack_samples: int
    warnings: tuple[str, ...] = ()
    attacks: tuple[AttackRow, ...] = ()
    examples: tuple[Example, ...] = ()
    corruptions: tuple[CorruptedRow, ...] = ()
    certified: tuple[CertifiedRow, ...] = ()
    distances: Distances | None = None


@dataclass(frozen=True)
class _Part:
    """The contribution of one part: metric comparisons, notes, and fields of the result by name."""

    findings: Sequence[MetricComparison] = ()
    notes: Sequence[str] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)


def evaluate(
    context: EvaluationContext,
    *,
    parts: tuple[str, ...] = PARTS,
    epsilons: tuple[float, ...] = (2 / 255, 8 / 255, 0.1),
    certified_epsilons: tuple[float, ...] = (0.001, 1 / 255, 2 / 255),
    attack_samples: int = 64,
    steps: int = 10,
    restarts: int = 2,
    queries: int = 50,
    margin: float = 0.02,
    n_resamples: int = 1000,
) -> Robustness:
    """Evaluate robustness to attacks and corruptions, and certify accuracy.

    Args:
        context: The evaluation context.
        parts: The parts to run, of `PARTS`.
        epsilons: L-infinity perturbation sizes of attacks.
        certified_epsilons: The same for certificates.
        attack_samples: Number of samples that are attacked, certified and measured; all are
            corrupted.
        steps: Steps of a gradient attack.
        restarts: Restarts of the strongest of them.
        queries: Queries per image of the attack without gradients.
        margin: The non-inferiority margin of accuracy.
        n_resamples: Number of bootstrap resamples.

    Raises:
        InputError: There is no such part, or a size is not within (0, 1].
    """
    from limbeck.evaluate.robustness.attack_report import AttackBudget
    from limbeck.evaluate.robustness.images import images_of

    _check(parts, (*epsilons, *certified_epsilons), attack_samples)
    whole = images_of(context)
    found: list[_Part] = []
    if "corruption" in parts:
        found.append(_worsened(context, whole, margin=margin, draws=n_resamples))
    some = None if isinstance(whole, str) else whole.drawn(attack_samples, context.seed)
    if some is None:
        found.append(_Part(notes=(f"{whole}: no attacks, no certificates, no distances.",)))
    else:
        resamples = Resamples(len(some.labels), n_resamples=n_resamples, seed=context.seed)
        if "attacks" in parts:
            effort = AttackBudget(steps, restarts, queries, context.seed)
            found.append(
                _attacks(context, some, sorted(epsilons), effort, margin=margin, draws=n_resamples)
            )
        if "certified" in parts:
            found.append(_certified(context, some, certified_epsilons, margin))
        if "distances" in parts:
            found.append(_distances(context, some, resamples))
    return Robustness(
        comparisons=tuple(line for part in found for line in part.findings),
        notes=tuple(note for part in found for note in part.notes),
        samples=len(context.sample["labels"]),
        attack_samples=0 if some is None else len(some.labels),
        **{name: value for part in found for name, value in part.fields.items()},
    )


def check(
    classes: tuple[str, ...],
    *,
    parts: tuple[str, ...] = PARTS,
    epsilons: tuple[float, ...] = (),
    certified_epsilons: tuple[float, ...] = (),
    attack_samples: int = 1,
) -> None:
    """Check the settings that their types leave open, before anything is trained.

    Raises:
        InputError: A part is none of `PARTS`, or a size or number is out of range.
    """
    _check(parts, (*epsilons, *certified_epsilons), attack_samples)


def _check(parts: tuple[str, ...], epsilons: tuple[float, ...], attack_samples: int) -> None:
    for part in parts:
        check_choice(part, PARTS, where="robustness.parts")
    if not is_whole(attack_samples, least=1):
        raise InputError(
            Problem("robustness.attack_samples", attack_samples, "a whole number above 0")
        )
    for size in epsilons:
        if not is_positive(size) or size > 1:
            raise InputError(Problem("robustness.epsilons", size, "numbers above 0 and at most 1"))


def _worsened(
    context: EvaluationContext, pictures: Images | str, *, margin: float, draws: int
) -> _Part:
    labels = context.sample["labels"]
    both = context.student.predictor, context.teacher.predictor if context.teacher else None
    resamples = Resamples(len(labels), n_resamples=draws, seed=context.seed)
    if not isinstance(pictures, str):
        kinds, damage = tuple(PICTURES), _damaged_pictures(pictures, context.seed)
        varied = compare_variance(*both, _noisy(pictures, context.seed), resamples=resamples)
    elif context.texts is not None and labels.ndim == 1:
        kinds, damage = tuple(TEXTS), _damaged_texts(context.texts, context.sample, context.seed)
        varied = None
    else:
        return _Part(notes=("The samples are neither pictures nor texts: nothing was worsened.",))
    rows, findings = compare_corruptions(
        *both, labels, kinds=kinds, damage=damage, resamples=resamples, margin=margin
    )
    lines = findings if varied is None else [*findings, varied]
    return _Part(findings=lines, fields={"corruptions": rows})


def _damaged_pictures(pictures: Images, seed: int) -> Corruption:
    def damage(kind: str, severity: int) -> dict[str, Any]:
        worse = corrupt_images(pictures.pixels, kind, severity=severity, seed=seed)
        return pictures.inputs(worse)

    return damage


def _noisy(pictures: Images, seed: int) -> list[dict[str, Any]]:
    return [
        dict(_damaged_pictures(pictures, seed + 1 + draw)("gaussian noise", 1))
        for draw in range(NOISE_DRAWS)
    ]


def _damaged_texts(texts: TextInputs, sample: Mapping[str, NDArray[Any]], seed: int) -> Corruption:
    raw = [texts.raw[row] for row in sample["row"]]
    return lambda kind, severity: texts.encode(
        corrupt_texts(raw, kind, severity=severity, seed=seed)
    )


def _attacks(
    context: EvaluationContext,
    pictures: Images,
    epsilons: Sequence[float],
    effort: AttackBudget,
    *,
    margin: float,
    draws: int,
) -> _Part:
    from limbeck.evaluate.robustness.attack_report import (
        compare_attacks,
        compare_deepfool,
        examples,
    )

    if not available("foolbox"):
        return _Part(notes=('Attacks need foolbox: pip install "limbeck[evaluate]".',))
    if len(context.classes) < 2:
        return _Part(notes=("There is one class alone: no attack can change the answer.",))
    student = _attacked(context.student, pictures)
    teacher = _attacked(context.teacher, pictures) if context.teacher else None
    under = compare_attacks(
        student, teacher, pictures, epsilons=tuple(epsilons), effort=effort, margin=margin
    )
    nearest = compare_deepfool(student, teacher, pictures, draws=draws, seed=context.seed)
    return _Part(
        findings=[*under.comparisons, *nearest],
        notes=[
            NO_GRADIENTS.format(name) for name, side in context.models() if side.torch_model is None
        ],
        fields={
            "warnings": under.warnings,
            "attacks": under.rows,
            "examples": examples(student, pictures, under.broken, context.classes),
        },
    )


def _attacked(side: EvaluatedModel, pictures: Images) -> AttackTarget:
    from limbeck.evaluate.robustness.attack_report import AttackTarget

    model = None if side.torch_model is None else pictures.model(side.torch_model)
    return AttackTarget(pictures.show(side.predictor), model)


def _certified(
    context: EvaluationContext, pictures: Images, epsilons: tuple[float, ...], margin: float
) -> _Part:
    from limbeck.evaluate.robustness.certified import compare_certified

    sides = _certifiable(context, pictures)
    if "student" not in sides:
        return _Part(notes=("The student has no PyTorch model: no certificates.",))
    rows, findings, notes = compare_certified(
        sides, pictures.pixels, pictures.labels, epsilons=epsilons, margin=margin
    )
    return _Part(findings, notes, {"certified": rows})


def _distances(context: EvaluationContext, pictures: Images, resamples: Resamples) -> _Part:
    from limbeck.evaluate.robustness.certified import compare_distances

    sides = _certifiable(context, pictures)
    if "student" not in sides:
        return _Part(notes=("The student has no PyTorch model: no distances.",))
    distances, finding = compare_distances(
        sides, pictures.pixels, pictures.labels, resamples=resamples
    )
    return _Part([finding], (), {"distances": distances})


def _certifiable(context: EvaluationContext, pictures: Images) -> dict[str, Certifiable]:
    from limbeck.evaluate.robustness.certified import Certifiable

    return {
        name: Certifiable(
            pictures.model(side.torch_model),
            pictures.show(side.predictor)(pictures.pixels).argmax(axis=1) == pictures.labels,
        )
        for name, side in context.models()
        if side.torch_model is not None
    }


def workload(
    context: EvaluationContext,
    *,
    parts: tuple[str, ...],
    epsilons: tuple[float, ...],
    attack_samples: int,
    steps: int,
    restarts: int,
    queries: int,
    **settings: object,
) -> Workload:
    """Compute the workload, as if no image were broken by the first attacks of any size."""
    pictures = context.normalization is not None
    if not pictures and context.texts is None:
        return Workload()
    kinds = PICTURES if pictures else TEXTS
    worsened = (len(kinds) * len(SEVERITIES) + 1 + NOISE_DRAWS) * len(context.sample["labels"])
    predictions, gradients = worsened * ("corruption" in parts), 0
    if pictures and "attacks" in parts:
        predictions += attack_samples * (queries + 3 * len(epsilons))
        gradients += attack_samples * (len(epsilons) * (steps + 1) + restarts)
    if pictures and "certified" in parts:
        gradients += attack_samples * BOUNDS
    if pictures and "distances" in parts:
        gradients += attack_samples * len(context.classes) // 3
    return Workload(predictions=predictions, gradients=gradients)
