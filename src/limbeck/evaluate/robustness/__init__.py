"""Robustness: adversarial attacks, corruptions, certified accuracy, boundary distances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from limbeck.core.imports import available
from limbeck.core.measurement import Result
from limbeck.core.numbers import is_positive, is_whole
from limbeck.errors import InputError, Problem, check_choice
from limbeck.evaluate.bootstrap import Resamples
from limbeck.evaluate.comparison import MetricComparison
from limbeck.evaluate.context import Workload
from limbeck.evaluate.robustness.corruptions import (
    IMAGE_CORRUPTIONS,
    SEVERITIES,
    TEXT_CORRUPTIONS,
    CorruptedRow,
    compare_corruptions,
    compare_variance,
    corrupt_images,
    corrupt_texts,
)
from limbeck.evaluate.robustness.rows import AttackRow, CertifiedRow, Distances, Example

if TYPE_CHECKING:
    from limbeck.evaluate.context import EvaluationContext
    from limbeck.evaluate.robustness.attack_report import AttackBudget
    from limbeck.evaluate.robustness.images import AttackTarget, Images


DRAWS_SAMPLES = True
PARTS = ("attacks", "corruption", "certified", "distances")
"""All parts of the evaluation."""

NOISE_DRAWS = 5
"""Number of noise draws for the prediction variance."""

BOUNDS = 13
"""Cost of certificates per image, in gradients: measured on residual networks."""

NO_GRADIENTS = (
    "The {} has no PyTorch model: it was attacked without its own gradients, so its robust "
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

    comparisons: Sequence[MetricComparison] = ()
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
    from limbeck.evaluate.robustness.certified import compare_certified, compare_distances
    from limbeck.evaluate.robustness.images import images_of

    check(
        context.classes,
        parts=parts,
        epsilons=epsilons,
        certified_epsilons=certified_epsilons,
        attack_samples=attack_samples,
    )
    images = images_of(context)
    found: list[_Part] = []
    attacked = 0
    if "corruption" in parts:
        found.append(_corruption(context, images, margin=margin, n_resamples=n_resamples))
    if isinstance(images, str):
        found.append(_Part(notes=(f"{images}: no attacks, no certificates, no distances.",)))
    else:
        some = images.drawn(attack_samples, context.seed)
        attacked = len(some.labels)
        targets: dict[str, AttackTarget] = {}
        if set(parts) - {"corruption"}:
            targets.update((name, some.target(model)) for name, model in context.models())
        has_gradients = context.student.torch_model is not None
        if "attacks" in parts:
            budget = AttackBudget(steps, restarts, queries, context.seed)
            found.append(
                _attacks(context, targets, some, sorted(epsilons), budget, margin, n_resamples)
            )
        if "certified" in parts and has_gradients:
            rows, comparisons, notes = compare_certified(
                targets, some, epsilons=certified_epsilons, margin=margin
            )
            found.append(_Part(comparisons, notes, {"certified": rows}))
        elif "certified" in parts:
            found.append(_Part(notes=("The student has no PyTorch model: no certificates.",)))
        if "distances" in parts and has_gradients:
            resamples = Resamples(attacked, n_resamples=n_resamples, seed=context.seed)
            distances, comparison = compare_distances(targets, some, resamples=resamples)
            found.append(_Part((comparison,), (), {"distances": distances}))
        elif "distances" in parts:
            found.append(_Part(notes=("The student has no PyTorch model: no distances.",)))
    return Robustness(
        comparisons=tuple(line for part in found for line in part.comparisons),
        notes=tuple(note for part in found for note in part.notes),
        samples=len(context.sample["labels"]),
        attack_samples=attacked,
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
    for part in parts:
        check_choice(part, PARTS, where="robustness.parts")
    if not is_whole(attack_samples, least=1):
        raise InputError(
            Problem("robustness.attack_samples", attack_samples, "a whole number above 0")
        )
    for eps in (*epsilons, *certified_epsilons):
        if not is_positive(eps) or eps > 1:
            raise InputError(Problem("robustness.epsilons", eps, "numbers above 0 and at most 1"))


def _corruption(
    context: EvaluationContext, images: Images | str, *, margin: float, n_resamples: int
) -> _Part:
    labels, seed, texts = context.sample["labels"], context.seed, context.texts
    models = context.student.predictor, context.teacher.predictor if context.teacher else None
    resamples = Resamples(len(labels), n_resamples=n_resamples, seed=seed)
    kinds: Sequence[str]
    variance = []
    if not isinstance(images, str):
        kinds = tuple(IMAGE_CORRUPTIONS)

        def corrupt(kind: str, severity: int, seed: int = seed) -> Mapping[str, Any]:
            pixels = corrupt_images(images.pixels, kind, severity=severity, seed=seed)
            return images.inputs(pixels)

        noisy = [corrupt("gaussian noise", 1, seed + 1 + draw) for draw in range(NOISE_DRAWS)]
        variance.append(compare_variance(*models, noisy, resamples=resamples))
    elif texts is not None and labels.ndim == 1:
        kinds = tuple(TEXT_CORRUPTIONS)
        raw = [texts.raw[row] for row in context.sample["row"]]

        def corrupt(kind: str, severity: int, seed: int = seed) -> Mapping[str, Any]:
            return texts.encode(corrupt_texts(raw, kind, severity=severity, seed=seed))
    else:
        return _Part(notes=("The samples are neither images nor texts: no corruptions.",))
    rows, comparisons = compare_corruptions(
        *models, labels, kinds=kinds, corrupt=corrupt, resamples=resamples, margin=margin
    )
    return _Part([*comparisons, *variance], fields={"corruptions": rows})


def _attacks(
    context: EvaluationContext,
    targets: Mapping[str, AttackTarget],
    images: Images,
    epsilons: Sequence[float],
    budget: AttackBudget,
    margin: float,
    n_resamples: int,
) -> _Part:
    from limbeck.evaluate.robustness.attack_report import (
        compare_attacks,
        compare_deepfool,
        examples,
    )

    if not available("foolbox"):
        return _Part(notes=('Attacks require foolbox: pip install "limbeck[evaluate]".',))
    if len(context.classes) < 2:
        return _Part(notes=("There is only one class: no attack can change the prediction.",))
    report = compare_attacks(
        targets, images, epsilons=tuple(epsilons), budget=budget, margin=margin
    )
    nearest = compare_deepfool(targets, images, n_resamples=n_resamples, seed=context.seed)
    return _Part(
        [*report.comparisons, *nearest],
        [NO_GRADIENTS.format(name) for name, one in targets.items() if one.model is None],
        {
            "warnings": report.warnings,
            "attacks": report.rows,
            "examples": examples(targets["student"], images, report.broken, context.classes),
        },
    )


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
    images = context.normalization is not None
    if not images and context.texts is None:
        return Workload()
    kinds = IMAGE_CORRUPTIONS if images else TEXT_CORRUPTIONS
    corrupted = (len(kinds) * len(SEVERITIES) + 1 + NOISE_DRAWS) * len(context.sample["labels"])
    predictions, gradients = corrupted * ("corruption" in parts), 0
    if images and "attacks" in parts:
        predictions += attack_samples * (queries + 3 * len(epsilons))
        gradients += attack_samples * (len(epsilons) * (steps + 1) + restarts)
    if images and "certified" in parts:
        gradients += attack_samples * BOUNDS
    if images and "distances" in parts:
        gradients += attack_samples * len(context.classes) // 3
    return Workload(predictions=predictions, gradients=gradients)
