"""Model extraction: the fidelity of attackers, and defences against them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.errors import InputError, Problem
from limbeck.evaluate.finding import Finding, find
from limbeck.evaluate.interval import Result
from limbeck.evaluate.paired import shares
from limbeck.evaluate.sitting import Sitting, inputs
from limbeck.evaluate.stealing import detector, forms, thief
from limbeck.evaluate.stealing.defences import Change, Defence, changes
from limbeck.evaluate.stealing.detector import Detection, Detector
from limbeck.evaluate.stealing.material import Material, Numbers, Tokens
from limbeck.evaluate.stealing.thefts import (
    FORMS,
    TELLS,
    Cost,
    Robberies,
    Theft,
    costs,
    rob,
    thefts,
)
from limbeck.evaluate.stealing.thief import STRATEGIES
from limbeck.evaluate.stealing.victim import Victim
from limbeck.evaluate.workload import Workload

Sample = Mapping[str, NDArray[Any]]
FEWEST = 10
"""Smallest number of benign queries to fit a detector on."""
MARGIN = 0.02


class Extraction(Result):
    """The model extraction results.

    Attributes:
        findings: The metric comparisons.
        thefts: Extraction fidelity by strategy, response format and budget.
        chance: The agreement of a constant prediction of the student's most frequent class.
        defences: The effect of each on an attacker and on a benign user.
        detection: Attacker detection per strategy.
        costs: The cost of levels of fidelity.
        price: The price of one query.
        notes: Reasons for what could not be done.
    """

    findings: tuple[Finding, ...] = ()
    thefts: tuple[Theft, ...] = ()
    chance: float | None = None
    defences: tuple[Defence, ...] = ()
    detection: tuple[Detection, ...] = ()
    costs: tuple[Cost, ...] = ()
    price: float = 0.0
    notes: tuple[str, ...] = ()


def ask(
    sitting: Sitting,
    *,
    budgets: Sequence[int] = (50, 200, 800),
    price: float = 0.001,
    draws: int = 1000,
) -> Extraction:
    """Extract the student from its responses, and measure defences and detection.

    The attacker has half of the validation samples without their labels; the other half are the
    benign queries that a detector is fitted on. Its model is a small network of one hidden layer:
    the result is a lower bound of what can be extracted.

    Args:
        sitting: The evaluation context.
        budgets: The attacker's numbers of queries, ascending.
        price: The price of a query, in any currency.
        draws: Number of bootstrap resamples.

    Raises:
        InputError: The budgets are not ascending whole numbers above zero.
    """
    check(sitting.classes, budgets=budgets)
    tests = sitting.sample
    material = _material(sitting, tests)
    if material is None:
        return Extraction(notes=("The inputs are neither texts nor one array of numbers.",))
    pool, honest = _halves(sitting, most=budgets[-1])
    victims = [
        Victim(side.predictor, material, pool, tests, budgets=budgets, seed=sitting.seed)
        for _, side in sitting.sides()
    ]
    robberies = rob(victims[0])
    found = thefts(robberies)
    seen, notes = _detection(sitting, victims[0], material, honest, robberies, draws)
    return Extraction(
        findings=(*_stolen(victims, robberies), *_caught(seen, found)),
        thefts=found,
        chance=_chance(victims[0]),
        defences=_defences(victims[0], robberies, len(sitting.classes), seed=sitting.seed),
        detection=seen,
        costs=costs(found, price),
        price=price,
        notes=(*notes, *_short(pool, budgets[-1])),
    )


def check(classes: tuple[str, ...], *, budgets: Sequence[int] = (1,)) -> None:
    """Check that the budgets ascend, before anything is trained.

    Raises:
        InputError: They are not ascending whole numbers above zero.
    """
    if not budgets or budgets[0] < 1 or list(budgets) != sorted(set(budgets)):
        allowed = "ascending whole numbers above 0"
        raise InputError(Problem("extraction.budgets", list(budgets), allowed))


def _material(sitting: Sitting, sample: Sample) -> Material | None:
    taken = inputs(sample)
    if {"input_ids", "attention_mask"} <= set(taken):
        return Tokens()
    if len(taken) != 1:
        return None
    ((name, values),) = taken.items()
    return Numbers(name, sitting.pixels) if values.dtype.kind == "f" and values.ndim > 1 else None


def _halves(sitting: Sitting, *, most: int) -> tuple[Sample, Sample]:
    """Split the validation inputs between the attacker and its detection."""
    drawn = replace(sitting, batches=sitting.validation, limit=2 * most).sample
    taken = inputs(drawn)
    # Alternate rows, whatever order the samples are in.
    thief_, honest = ({name: values[at::2] for name, values in taken.items()} for at in (0, 1))
    return thief_, honest


def _stolen(victims: Sequence[Victim], robberies: Robberies) -> list[Finding]:
    """Compare the extraction fidelity of student and teacher, at the largest budget."""
    most = victims[0].budgets[-1]
    findings = []
    for form, tells in TELLS.items():
        robbed = [robberies["random", form][-1]]
        robbed += [victim.robbed("random", FORMS[form], (most,))[0] for victim in victims[1:]]
        student, *teacher = [robbery.hits.astype(float) for robbery in robbed]
        beside = shares(student, teacher[0] if teacher else None)
        findings.append(
            find(
                f"Agreement of a thief after {most} queries, told {tells}",
                unit="share",
                better="lower",
                margin=MARGIN,
                how="How often a small network, trained on the answers of the file that ships to "
                "unlabelled validation inputs, answers test samples as the file does; the interval "
                "is over test samples, of one training each.",
                **dict(beside),
            )
        )
    return findings


def _caught(seen: Sequence[Detection], found: Sequence[Theft]) -> list[Finding]:
    """Compute the detection of the strategy with the highest extraction fidelity."""
    if not seen:
        return []
    best = max((theft for theft in found if theft.form == "full"), key=lambda t: t.agreement.value)
    (auc,) = [each.auc for each in seen if each.strategy == best.strategy]
    return [
        find(
            f"Detection of the thief that steals most ({best.strategy}), area under ROC",
            unit="number",
            better="higher",
            student=auc,
            margin=MARGIN,
            how="The chance that a query of the thief's lies further from honest queries than an "
            "honest one does, by the distance to the nearest and the entropy of the answer; 0.5 "
            "is no detection.",
        )
    ]


def _chance(victim: Victim) -> float:
    answered = victim.tests.probabilities.argmax(axis=1)
    return float(np.bincount(answered).max() / len(answered))


def _defences(
    victim: Victim, robberies: Robberies, classes: int, *, seed: int
) -> tuple[Defence, ...]:
    """Measure output perturbations, then caps on the number of queries."""
    plain = [robbery.hits for robbery in robberies["random", "label"]]
    full = [robbery.hits for robbery in robberies["random", "full"]]
    found = [victim.defended(change, plain[-1]) for change in changes(classes, seed=seed)]
    for at, budget in enumerate(victim.budgets[:-1]):
        cap = Change(f"no more than {budget} queries", forms.full)
        found.append(victim.capped(budget, cap, max(full[at], plain[at], key=np.mean)))
    return tuple(found)


def _detection(
    sitting: Sitting,
    victim: Victim,
    material: Material,
    honest: Sample,
    robberies: Robberies,
    draws: int,
) -> tuple[tuple[Detection, ...], list[str]]:
    count = len(next(iter(honest.values())))
    if count < FEWEST:
        return (), [f"With {count} honest queries no detector can be fitted; it takes {FEWEST}."]
    fitted = Detector(thief.ask(sitting.student.predictor, material, honest))
    found = [
        detector.detection(
            strategy,
            fitted,
            honest=victim.tests,
            thief=victim.asked(strategy).rows(robberies[strategy, "full"][-1].asked),
            draws=draws,
            seed=sitting.seed,
        )
        for strategy in STRATEGIES
    ]
    return tuple(found), []


def _short(pool: Sample, most: int) -> list[str]:
    have = len(next(iter(pool.values())))
    if have >= most:
        return []
    return [f"The thief has {have} inputs of its own; its other queries are mixtures of them."]


def workload(sitting: Sitting, *, budgets: Sequence[int], **settings: object) -> Workload:
    """Compute the workload: the queries of every strategy, and small networks trained on them."""
    queries = (len(STRATEGIES) + 1) * budgets[-1] // 2
    return Workload(predictions=queries + len(sitting.sample["label"]), seconds=5)
