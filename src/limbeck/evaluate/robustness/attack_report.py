"""Comparison of student and teacher under adversarial attacks, for the report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from limbeck.evaluate.attribution.examples import shown
from limbeck.evaluate.bootstrap import Resamples, Statistic, paired_difference, share, shares
from limbeck.evaluate.comparison import Estimate, MetricComparison, compare
from limbeck.evaluate.robustness.attacks import (
    deepfool,
    fgsm,
    margin_pgd,
    pgd,
    square,
    zero_gradients,
)
from limbeck.evaluate.robustness.images import AttackTarget, Floats, Images, Labels
from limbeck.evaluate.robustness.rows import Attack, AttackRow, Example, in_255ths

Correct = NDArray[np.bool_]


def median_of(values: NDArray[np.float64]) -> Statistic:
    """Return the statistic of the median of one value per sample, the lower of the two middle ones.

    Example:
        >>> float(median_of(np.array([3.0, 1.0, 2.0]))(np.ones((1, 3)))[0])
        2.0
    """
    order = np.argsort(values, kind="stable")
    ordered = values[order]

    def median(counts: NDArray[np.float64]) -> NDArray[np.float64]:
        below = np.cumsum(counts[:, order], axis=1)
        return ordered[(2 * below < below[:, -1:]).sum(axis=1)]

    return median


def compare_medians(
    name: str,
    student: NDArray[np.float64],
    teacher: NDArray[np.float64] | None,
    *,
    resamples: Resamples,
    method: str,
) -> MetricComparison:
    """Compare the medians of distances of both models, with a margin of 5 % of the reference."""
    both = resamples.paired(median_of(student), None if teacher is None else median_of(teacher))
    return compare(
        name,
        unit="number",
        direction="higher",
        margin=0.05 * (both.teacher or both.student).value,
        method=method,
        **dict(both),
    )


@dataclass(frozen=True)
class AttackBudget:
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
class AttackResult:
    """The result of attacks of one size.

    An image that was misclassified before any attack counts as wrong after it.

    Attributes:
        eps: The L-infinity perturbation size.
        correct: By attack, see `AttackRow`: whether the exported file is still correct, `[n]`; None
            if the attack could not run.
        pixels: The adversarial image, where one was found; otherwise the original.
    """

    eps: float
    correct: Mapping[Attack, Correct | None]
    pixels: Floats

    @property
    def worst_case(self) -> Correct:
        """Return whether the exported file is correct after all attacks, `[n]`."""
        correct = self.correct["strongest"]
        assert correct is not None
        return correct


def attack(
    target: AttackTarget,
    images: Images,
    epsilons: tuple[float, ...],
    *,
    own: Mapping[float, Floats],
    others: Mapping[float, Floats],
    budget: AttackBudget,
) -> list[AttackResult]:
    """Apply all attacks to a model at every size, the smallest first.

    `own` are PGD's images made on it, by size, empty without gradients; `others` are those made on
    the other model.

    Stronger attacks run only on images that the weaker ones left, and an image broken at a
    smaller size is broken at every larger one: the result is the worst case over all attacks.

    Source: Croce & Hein, ICML 2020 (arXiv:2003.01690), for the worst case over several attacks.
    """
    model, everything = target.model, np.arange(len(images.labels))
    clean = target.correct(images.pixels, images.labels)
    robust, adversarial = clean.copy(), images.pixels.copy()

    def record(rows: NDArray[np.int64], pixels: Floats) -> Correct:
        """Predict the perturbed images of some rows, and keep those that are misclassified."""
        correct = target.correct(pixels, images.labels[rows])
        broken = robust[rows] & ~correct
        robust[rows[broken]] = False
        adversarial[rows[broken]] = pixels[broken]
        return clean[rows] & correct

    def attack_rest(perturb: Callable[[Floats, Labels], Floats]) -> None:
        """Attack the images that are still classified correctly."""
        rows = np.flatnonzero(robust)
        if len(rows):
            record(rows, perturb(images.pixels[rows], images.labels[rows]))

    results = []
    for eps in epsilons:
        perturbed: dict[Attack, Floats | None] = {
            "fgsm": fgsm(model, images.pixels, images.labels, eps=eps) if model else None,
            "pgd": own.get(eps),
            "transfer": others.get(eps),
        }
        correct = {
            name: None if pixels is None else record(everything, pixels)
            for name, pixels in perturbed.items()
        }
        if model:
            budgeted = partial(margin_pgd, model, eps=eps, steps=budget.steps, seed=budget.seed)
            for restart in range(budget.restarts):
                attack_rest(partial(budgeted, restart=restart))
        correct["gradients"] = robust.copy()
        attack_rest(
            partial(square, target.logits, eps=eps, queries=budget.queries, seed=budget.seed)
        )
        correct["strongest"] = robust.copy()
        results.append(AttackResult(eps, correct, adversarial.copy()))
    return results


GAP = 0.05
"""Gain of a stronger attack, at 95 %, above which the weaker one counts as masked."""

ZERO = 0.05
"""Share of images with zero gradient above which gradients count as masked."""

UNBOUNDED = 0.1
"""Accuracy above which an unbounded attack counts as failed."""


def masking(
    target: AttackTarget, images: Images, results: Sequence[AttackResult], budget: AttackBudget
) -> Iterator[str]:
    """Yield the signs of gradient masking, as clauses; none without gradients.

    The signs are: images with zero gradient; a stronger attack of the same size, transferred
    images, or an attack without gradients succeed clearly more often than PGD; unbounded PGD fails.

    Source: Athalye et al., ICML 2018 (arXiv:1802.00420), section 3.1; Carlini et al. 2019
        (arXiv:1902.06705).
    """
    if target.model is None:
        return
    zero = zero_gradients(target.model, images.pixels, images.labels).mean()
    if zero > ZERO:
        yield f"cross-entropy has zero gradient in float32 on {zero:.0%} of the images"
    pairs: tuple[tuple[Attack, Attack, str, str], ...] = (
        ("pgd", "strongest", "under PGD", "in the worst case over all attacks"),
        ("pgd", "transfer", "under PGD", "under PGD transferred from the other model"),
        ("gradients", "strongest", "under attacks with gradients", "with the Square attack"),
    )
    for weaker, stronger, *names in pairs:
        beaten = [
            (one.eps, weak.mean(), strong.mean())
            for one in results
            if (weak := one.correct[weaker]) is not None
            and (strong := one.correct[stronger]) is not None
            and _is_beaten(weak, strong)
        ]
        if beaten:
            eps, weak_share, strong_share = max(beaten, key=lambda one: one[1] - one[2])
            yield (
                f"accuracy at {in_255ths(eps)} is {weak_share:.0%} {names[0]} and "
                f"{strong_share:.0%} {names[1]}"
            )
    correct = results[-1].correct["pgd"]
    if correct is not None and correct.any():
        left = images.some(np.flatnonzero(correct))
        pixels = pgd(
            target.model, left.pixels, left.labels, eps=1, steps=budget.steps, seed=budget.seed
        )
        unbounded = target.correct(pixels, left.labels).sum() / len(correct)
        if unbounded > UNBOUNDED:
            yield f"accuracy is {unbounded:.0%} under PGD without a bound on the perturbation"


def _is_beaten(weak: Correct, strong: Correct) -> bool:
    gap = paired_difference(weak.astype(np.float64), strong.astype(np.float64))
    return gap.interval is not None and gap.interval.low > GAP


DEEPFOOL_SAMPLES = 100
"""Number of images for DeepFool, the slowest attack."""

EXAMPLES = 6
"""Number of adversarial examples shown."""


@dataclass(frozen=True)
class AttackReport:
    """The results of attacks on student and teacher.

    Attributes:
        rows: Robust accuracy by attack and perturbation size.
        comparisons: The metric comparisons.
        warnings: The values that are unreliable, and why.
        broken: The result of the largest size on the student.
    """

    rows: tuple[AttackRow, ...]
    comparisons: tuple[MetricComparison, ...]
    warnings: tuple[str, ...]
    broken: AttackResult


def compare_attacks(
    targets: Mapping[str, AttackTarget],
    images: Images,
    *,
    epsilons: tuple[float, ...],
    budget: AttackBudget,
    margin: float,
) -> AttackReport:
    """Compare robust accuracy at every size, by each model's own gradients and by transfer.

    Raises:
        InputError: foolbox is not installed.
    """
    pgd_images: dict[str, dict[float, Floats]] = {name: {} for name in targets}
    for name, one in targets.items():
        if one.model:
            perturb = partial(
                pgd, one.model, images.pixels, images.labels, steps=budget.steps, seed=budget.seed
            )
            pgd_images[name] = {eps: perturb(eps=eps) for eps in epsilons}
    results = {}
    for name, one in targets.items():
        others = next((made for other, made in pgd_images.items() if other != name), {})
        results[name] = attack(
            one, images, epsilons, own=pgd_images[name], others=others, budget=budget
        )
    gradients = (
        "FGSM, PGD and margin PGD on each PyTorch model, and PGD transferred from the other model"
        if targets["student"].model
        else "The student has no PyTorch model: PGD transferred from the teacher"
    )
    rows, comparisons = [], []
    for student, *teacher in zip(*results.values(), strict=True):
        for name in get_args(Attack):
            accuracies = [_accuracy(one.correct[name]) for one in (student, *teacher)]
            rows.append(
                AttackRow(
                    attack=name,
                    eps=student.eps,
                    student=accuracies[0],
                    teacher=accuracies[1] if teacher else None,
                )
            )
        both = shares(
            student.worst_case.astype(np.float64),
            teacher[0].worst_case.astype(np.float64) if teacher else None,
        )
        comparisons.append(
            compare(
                f"Robust accuracy (L∞, ε = {in_255ths(student.eps)})",
                unit="share",
                direction="higher",
                margin=margin,
                method=f"{gradients}; the Square attack on the exported files. An image counts if "
                "the exported file is correct after each of them.",
                **dict(both),
            )
        )
    warnings = []
    for name, one in targets.items():
        signs = list(masking(one, images, results[name], budget))
        if signs:
            warnings.append(
                f"The {name}'s gradients are masked: its accuracy under FGSM and PGD is no "
                f"evidence of robustness. Signs: {'; '.join(signs)}. Rely only on the worst case "
                "over all attacks."
            )
    return AttackReport(tuple(rows), tuple(comparisons), tuple(warnings), results["student"][-1])


def _accuracy(correct: Correct | None) -> Estimate | None:
    return None if correct is None else share(correct.astype(np.float64))


FACTORS = (1.0, 1.02, 1.05, 1.1, 1.2, 1.4, 1.7, 2.0, 3.0)
"""Multiples of DeepFool's perturbation that are tried until the exported file errs."""


def compare_deepfool(
    targets: Mapping[str, AttackTarget], images: Images, *, n_resamples: int, seed: int
) -> list[MetricComparison]:
    """Compare the median minimal perturbation by DeepFool; empty without the student's model."""
    images = images.drawn(DEEPFOOL_SAMPLES, seed)
    resamples = Resamples(len(images.labels), n_resamples=n_resamples, seed=seed)
    student = minimal_perturbation(targets["student"], images)
    if student is None:
        return []
    teacher = minimal_perturbation(targets["teacher"], images) if "teacher" in targets else None
    comparison = compare_medians(
        "Median minimal perturbation by DeepFool (L2)",
        student,
        teacher,
        resamples=resamples,
        method=f"DeepFool on each PyTorch model, {len(images.labels)} images, in the L2 norm of "
        "pixels from 0 to 1; its perturbation is scaled up until the exported file errs. 0 for an "
        "image misclassified from the start, the diagonal of the pixel box for one that is never "
        "misclassified.",
    )
    return [comparison]


def minimal_perturbation(target: AttackTarget, images: Images) -> NDArray[np.float64] | None:
    """Measure DeepFool's minimal perturbation that fools the exported file, `[n]`, or return None.

    DeepFool's image lies just beyond the torch model's decision boundary; a quantised file's lies
    slightly elsewhere. The perturbation is therefore scaled up in steps until the file errs. In the
    L2 norm of pixels; 0 if the file errs at once, the diagonal of the pixel box if it never does.
    """
    if target.model is None:
        return None
    direction = deepfool(target.model, images.pixels, images.labels) - images.pixels
    distance = np.full(len(direction), direction[0].size ** 0.5)
    for factor in reversed(FACTORS):
        moved = np.clip(images.pixels + np.float32(factor) * direction, 0, 1).astype(np.float32)
        change = (moved - images.pixels).astype(np.float64).reshape(len(moved), -1)
        wrong = ~target.correct(moved, images.labels)
        distance[wrong] = np.linalg.norm(change, axis=1)[wrong]
    distance[~target.correct(images.pixels, images.labels)] = 0.0
    return distance


def examples(
    student: AttackTarget, images: Images, broken: AttackResult, classes: tuple[str, ...]
) -> tuple[Example, ...]:
    """Return images that the student classified correctly until they were perturbed."""
    clean = student.correct(images.pixels, images.labels)
    rows = np.flatnonzero(clean & ~broken.worst_case)[:EXAMPLES]
    if len(rows) == 0:
        return ()
    perturbed = broken.pixels[rows]
    predicted = student.logits(perturbed).argmax(axis=1)
    return tuple(
        Example(
            label=classes[images.labels[row]],
            answer=classes[prediction],
            eps=float(np.abs(after - images.pixels[row]).max()),
            before=shown(images.pixels[row].astype(np.float64)),
            after=shown(after.astype(np.float64)),
        )
        for row, after, prediction in zip(rows, perturbed, predicted, strict=True)
    )
