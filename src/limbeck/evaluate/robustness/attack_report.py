"""Results of adversarial attacks on student and teacher, for the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from limbeck.evaluate.attribution.examples import shown as drawn
from limbeck.evaluate.bootstrap import Resamples, Statistic, paired_difference, shares
from limbeck.evaluate.comparison import Estimate, MetricComparison, compare
from limbeck.evaluate.robustness.attacks import (
    deepfool,
    fgsm,
    margin_pgd,
    pgd,
    square,
    zero_gradients,
)
from limbeck.evaluate.robustness.images import Floats, Images, PixelModel, Shown
from limbeck.evaluate.robustness.rows import Attack, AttackRow, Example, in_255ths


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


Right = NDArray[np.bool_]


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
class AttackTarget:
    """A model as an attack target.

    Attributes:
        shown: Computes the exported file's logits from pixels.
        model: The torch model of pixels, or None: no attack then has gradients.
    """

    shown: Shown
    model: PixelModel | None


@dataclass(frozen=True)
class AttackResult:
    """The result of attacks of one size, `[n]` each: whether the exported file is still correct.

    An image that was misclassified before any attack counts as wrong after it.

    Attributes:
        eps: The L-infinity perturbation size.
        fgsm: After FGSM, or None without gradients.
        pgd: After PGD on cross-entropy, or None without gradients.
        transfer: After PGD on the other model, or None.
        gradients: After all of these, PGD on the margin, and whatever a smaller size broke.
        worst_case: After these and the attack without gradients.
        pixels: The adversarial image, where one was found; otherwise the original.
    """

    eps: float
    fgsm: Right | None
    pgd: Right | None
    transfer: Right | None
    gradients: Right
    worst_case: Right
    pixels: Floats


def pgd_images(
    model: PixelModel | None, pictures: Images, epsilons: tuple[float, ...], effort: AttackBudget
) -> dict[float, Floats]:
    """Compute PGD's images at every size; both models are tested on them."""
    if model is None:
        return {}
    return {
        size: pgd(
            model,
            pictures.pixels,
            pictures.labels,
            eps=size,
            steps=effort.steps,
            seed=effort.seed,
        )
        for size in epsilons
    }


def attack(
    attacked: AttackTarget,
    pictures: Images,
    epsilons: tuple[float, ...],
    *,
    own: Mapping[float, Floats],
    others: Mapping[float, Floats],
    effort: AttackBudget,
) -> list[AttackResult]:
    """Apply all attacks to a model at every size, the smallest first.

    Stronger attacks run only on images that the weaker ones left, and an image broken at a
    smaller size is broken at every larger one: the result is the worst case over all attacks.

    Args:
        attacked: The attack target.
        pictures: The images.
        epsilons: L-infinity perturbation sizes, smallest first.
        own: The images of `pgd_pictures` made on it, by size; empty without gradients.
        others: Those made on the other model.
        effort: The attack budget.

    Source: Croce & Hein, ICML 2020 (arXiv:2003.01690), for the worst case over several attacks.
    """
    one = _Attack(attacked, pictures, effort)
    return [one.at(size, own.get(size), others.get(size)) for size in epsilons]


class _Attack:
    """The state of the attacks: per image, whether it is still correct, and what broke it."""

    def __init__(self, attacked: AttackTarget, pictures: Images, effort: AttackBudget) -> None:
        self._attacked = attacked
        self._pictures = pictures
        self._effort = effort
        self._broken_by = pictures.pixels.copy()
        self._clean = self._right(pictures.pixels, pictures.labels)
        self._standing = self._clean.copy()

    def at(self, size: float, own: Floats | None, others: Floats | None) -> AttackResult:
        model = self._attacked.model
        weak = None
        if model is not None:
            weak = self._show(fgsm(model, self._pictures.pixels, self._pictures.labels, eps=size))
        strong = None if own is None else self._show(own)
        transfer = None if others is None else self._show(others)
        for restart in range(self._effort.restarts if model is not None else 0):
            self._climb(size, restart)
        gradients = self._standing.copy()
        self._ask(size)
        return AttackResult(
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
                eps=size,
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
                eps=size,
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
    model: PixelModel, shown: Shown, pictures: Images, results: AttackResult, effort: AttackBudget
) -> Probed:
    """Test each image for a zero gradient, and apply unbounded PGD where PGD has failed so far.

    Args:
        model: The torch model of pixels.
        shown: The exported file.
        pictures: The images.
        results: The result at the largest size.
        effort: The attack budget, for PGD's steps.
    """
    unbounded = np.zeros(len(pictures.labels), dtype=np.bool_)
    if results.pgd is not None and results.pgd.any():
        left = pictures.some(np.flatnonzero(results.pgd))
        found = pgd(model, left.pixels, left.labels, eps=1, steps=effort.steps, seed=effort.seed)
        unbounded[results.pgd] = shown(found).argmax(axis=1) == left.labels
    return Probed(zero_gradients(model, pictures.pixels, pictures.labels), unbounded)


def masking(results: Sequence[AttackResult], probed: Probed) -> tuple[str, ...]:
    """Return the signs of gradient masking, as clauses; empty if there are none.

    The signs are: images with zero gradient; a stronger attack of the same size, transferred
    images, or an attack without gradients succeed clearly more often than PGD; unbounded PGD fails.

    Args:
        results: The result at each size.
        probed: The probes.

    Source: Athalye et al., ICML 2018 (arXiv:1802.00420), section 3.1; Carlini et al. 2019
        (arXiv:1902.06705).
    """
    return tuple(_signs(results, probed))


def _signs(results: Sequence[AttackResult], probed: Probed) -> Iterator[str]:
    zero, unbounded = probed.zero.mean(), probed.unbounded.mean()
    if zero > ZERO:
        yield f"on {zero:.0%} of the pictures cross-entropy has no gradient at all in float32"
    for weaker, stronger, by_size in (
        (
            "under PGD",
            "under the strongest attack",
            [(one.eps, one.pgd, one.worst_case) for one in results],
        ),
        (
            "under PGD",
            "on pictures made against the other model",
            [(one.eps, one.pgd, one.transfer) for one in results],
        ),
        (
            "under all attacks with gradients",
            "once random squares are tried",
            [(one.eps, one.gradients, one.worst_case) for one in results],
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


ATTACKS: tuple[Attack, ...] = ("fgsm", "pgd", "transfer", "gradients", "strongest")
NEAREST = 100
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
    student: AttackTarget,
    teacher: AttackTarget | None,
    pictures: Images,
    *,
    epsilons: tuple[float, ...],
    effort: AttackBudget,
    margin: float,
) -> AttackReport:
    """Compare robust accuracy at every size, by each model's own gradients and by transfer.

    Args:
        student: The student.
        teacher: The teacher, or None.
        pictures: The images.
        epsilons: L-infinity perturbation sizes, in rising order.
        effort: The attack budget.
        margin: The non-inferiority margin of accuracy.

    Raises:
        InputError: foolbox is not installed.
    """
    sides = {"student": student} | ({} if teacher is None else {"teacher": teacher})
    made = {name: pgd_images(one.model, pictures, epsilons, effort) for name, one in sides.items()}
    results = {
        name: attack(
            one, pictures, epsilons, own=made[name], others=_others(made, name), effort=effort
        )
        for name, one in sides.items()
    }
    ours, theirs = results["student"], results.get("teacher")
    rows = [
        _row(attack, one, theirs[number] if theirs else None)
        for number, one in enumerate(ours)
        for attack in ATTACKS
    ]
    findings = [
        _finding(one, theirs[number] if theirs else None, margin=margin, torch_model=student.model)
        for number, one in enumerate(ours)
    ]
    warnings = [_warning(name, one, pictures, results[name], effort) for name, one in sides.items()]
    return AttackReport(tuple(rows), tuple(findings), tuple(filter(None, warnings)), ours[-1])


FURTHER = (1.0, 1.02, 1.05, 1.1, 1.2, 1.4, 1.7, 2.0, 3.0)
"""Multiples of DeepFool's perturbation that are tried until the exported file errs."""


def compare_deepfool(
    student: AttackTarget, teacher: AttackTarget | None, pictures: Images, *, draws: int, seed: int
) -> list[MetricComparison]:
    """Compare the median minimal perturbation by DeepFool; empty without the student's torch model.

    Args:
        student: The student.
        teacher: The teacher, or None.
        pictures: The images.
        draws: Number of bootstrap resamples.
        seed: Seed of the choice of images and of the resampling.
    """
    pictures = pictures.drawn(NEAREST, seed)
    resamples = Resamples(len(pictures.labels), n_resamples=draws, seed=seed)
    ours = minimal_perturbation(student, pictures)
    if ours is None:
        return []
    theirs = None if teacher is None else minimal_perturbation(teacher, pictures)
    beside = resamples.paired(median_of(ours), None if theirs is None else median_of(theirs))
    finding = compare(
        "Median distance to a wrong answer by DeepFool",
        unit="number",
        direction="higher",
        margin=0.05 * (beside.teacher or beside.student).value,
        method=(
            f"DeepFool searched each PyTorch model for the misclassified images nearest to "
            f"{len(pictures.labels)}, in the L2 norm of pixels from 0 to 1; what ships was shown "
            "them, and pictures further on the same way until it erred. One answered wrong from "
            "the start counts as 0, one that stayed right as the diagonal of the pixel box."
        ),
        **dict(beside),
    )
    return [finding]


def minimal_perturbation(attacked: AttackTarget, pictures: Images) -> NDArray[np.float64] | None:
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
    student: AttackTarget, pictures: Images, broken: AttackResult, classes: tuple[str, ...]
) -> tuple[Example, ...]:
    """Return images that the student classified correctly until they were perturbed."""
    clean = _right(student, pictures.pixels, pictures)
    rows = np.flatnonzero(clean & ~broken.worst_case)[:EXAMPLES]
    if len(rows) == 0:
        return ()
    changed = broken.pixels[rows]
    answers = student.shown(changed).argmax(axis=1)
    return tuple(
        Example(
            label=classes[pictures.labels[row]],
            answer=classes[answer],
            eps=float(np.abs(after - pictures.pixels[row]).max()),
            before=drawn(pictures.pixels[row].astype(np.float64)),
            after=drawn(after.astype(np.float64)),
        )
        for row, after, answer in zip(rows, changed, answers, strict=True)
    )


def _others(made: Mapping[str, Mapping[float, Floats]], name: str) -> Mapping[float, Floats]:
    return next((pictures for other, pictures in made.items() if other != name), {})


def _right(attacked: AttackTarget, pixels: Floats, pictures: Images) -> Right:
    return attacked.shown(pixels).argmax(axis=1) == pictures.labels


def _by_attack(results: AttackResult) -> dict[Attack, Right | None]:
    return {
        "fgsm": results.fgsm,
        "pgd": results.pgd,
        "transfer": results.transfer,
        "gradients": results.gradients,
        "strongest": results.worst_case,
    }


def _row(attack: Attack, student: AttackResult, teacher: AttackResult | None) -> AttackRow:
    ours = _by_attack(student)[attack]
    theirs = None if teacher is None else _by_attack(teacher)[attack]
    return AttackRow(attack=attack, eps=student.eps, student=_share(ours), teacher=_share(theirs))


def _share(right: Right | None) -> Estimate | None:
    return None if right is None else shares(right.astype(np.float64), None).student


def _finding(
    student: AttackResult,
    teacher: AttackResult | None,
    *,
    margin: float,
    torch_model: object | None,
) -> MetricComparison:
    theirs = None if teacher is None else teacher.worst_case.astype(np.float64)
    beside = shares(student.worst_case.astype(np.float64), theirs)
    made = (
        "FGSM, PGD and margin PGD on each PyTorch model, transferred to the other model; random "
        "squares on the exported files"
        if torch_model is not None
        else "The student has no PyTorch model: transferred from the teacher, and random squares"
    )
    return compare(
        f"Robust accuracy (L∞, ε = {in_255ths(student.eps)})",
        unit="share",
        direction="higher",
        margin=margin,
        method=f"{made}; a picture counts if what ships answers it rightly after each of them.",
        **dict(beside),
    )


def _warning(
    name: str,
    attacked: AttackTarget,
    pictures: Images,
    results: Sequence[AttackResult],
    effort: AttackBudget,
) -> str:
    if attacked.model is None:
        return ""
    probed = probe(attacked.model, attacked.shown, pictures, results[-1], effort)
    signs = masking(results, probed)
    if not signs:
        return ""
    return (
        f"The {name}'s gradients are masked: what FGSM and PGD leave of its accuracy is no "
        f"robustness. Signs: {'; '.join(signs)}. Believe the figure of the strongest attack only."
    )
