"""Model extraction: the fidelity of attackers, and defences against them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.core.measurement import Result
from limbeck.errors import InputError, Problem
from limbeck.evaluate.bootstrap import shares
from limbeck.evaluate.comparison import MetricComparison, compare
from limbeck.evaluate.context import EvaluationContext, Workload, model_inputs
from limbeck.evaluate.model_extraction import attacker, detector
from limbeck.evaluate.model_extraction.attacker import STRATEGIES, Numbers, QueryGenerator, Tokens
from limbeck.evaluate.model_extraction.defences import (
    Defence,
    OutputPerturbation,
    output_perturbations,
)
from limbeck.evaluate.model_extraction.detector import Detection, Detector
from limbeck.evaluate.model_extraction.runs import (
    RESPONSE_FORMATS,
    TELLS,
    ExtractionCost,
    ExtractionRuns,
    ExtractionScore,
    Victim,
    extract_all,
    extraction_costs,
    extraction_scores,
)

Sample = Mapping[str, NDArray[Any]]
FEWEST = 10
"""Smallest number of benign queries to fit a detector on."""

MARGIN = 0.02


class ModelExtraction(Result):
    """The model extraction results.

    Attributes:
        comparisons: The metric comparisons.
        scores: Extraction fidelity by strategy, response format and budget.
        majority_baseline: The agreement of a constant prediction of the student's most frequent
            class.
        defences: The effect of each on an attacker and on a benign user.
        detection: Attacker detection per strategy.
        costs: The cost of levels of fidelity.
        price: The price of one query.
        notes: Reasons for what could not be done.
    """

    comparisons: tuple[MetricComparison, ...] = ()
    scores: tuple[ExtractionScore, ...] = ()
    majority_baseline: float | None = None
    defences: tuple[Defence, ...] = ()
    detection: tuple[Detection, ...] = ()
    costs: tuple[ExtractionCost, ...] = ()
    price: float = 0.0
    notes: tuple[str, ...] = ()


def evaluate(
    context: EvaluationContext,
    *,
    budgets: Sequence[int] = (50, 200, 800),
    price: float = 0.001,
    n_resamples: int = 1000,
) -> ModelExtraction:
    """Extract the student from its responses, and measure defences and detection.

    The attacker has half of the validation samples without their labels; the other half are the
    benign queries that a detector is fitted on. Its model is a small network of one hidden layer:
    the result is a lower bound of what can be extracted.

    Args:
        context: The evaluation context.
        budgets: The attacker's numbers of queries, ascending.
        price: The price of a query, in any currency.
        n_resamples: Number of bootstrap resamples.

    Raises:
        InputError: The budgets are not ascending whole numbers above zero.
    """
    check(context.classes, budgets=budgets)
    tests = context.sample
    material = _material(context, tests)
    if material is None:
        return ModelExtraction(notes=("The inputs are neither texts nor one array of numbers.",))
    pool, honest = _halves(context, most=budgets[-1])
    victims = [
        Victim(side.predictor, material, pool, tests, budgets=budgets, seed=context.seed)
        for _, side in context.models()
    ]
    runs = extract_all(victims[0])
    found = extraction_scores(runs)
    seen, notes = _detection(context, victims[0], material, honest, runs, n_resamples)
    return ModelExtraction(
        comparisons=(*_extraction(victims, runs), *_detectability(seen, found)),
        scores=found,
        majority_baseline=_chance(victims[0]),
        defences=_defences(victims[0], runs, len(context.classes), seed=context.seed),
        detection=seen,
        costs=extraction_costs(found, price),
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
        raise InputError(Problem("model_extraction.budgets", list(budgets), allowed))


def _material(context: EvaluationContext, sample: Sample) -> QueryGenerator | None:
    taken = model_inputs(sample)
    if {"input_ids", "attention_mask"} <= set(taken):
        return Tokens()
    if len(taken) != 1:
        return None
    ((name, values),) = taken.items()
    return (
        Numbers(name, context.normalization)
        if values.dtype.kind == "f" and values.ndim > 1
        else None
    )


def _halves(context: EvaluationContext, *, most: int) -> tuple[Sample, Sample]:
    """Split the validation inputs between the attacker and its detection."""
    drawn = replace(context, batches=context.validation, max_samples=2 * most).sample
    taken = model_inputs(drawn)
    # Alternate rows, whatever order the samples are in.
    attacker_, benign = ({name: values[at::2] for name, values in taken.items()} for at in (0, 1))
    return attacker_, benign


def _extraction(victims: Sequence[Victim], runs: ExtractionRuns) -> list[MetricComparison]:
    """Compare the extraction fidelity of student and teacher, at the largest budget."""
    most = victims[0].budgets[-1]
    findings = []
    for form, tells in TELLS.items():
        chosen = [runs["random", form][-1]]
        chosen += [
            victim.extracted("random", RESPONSE_FORMATS[form], (most,))[0] for victim in victims[1:]
        ]
        student, *teacher = [run.hits.astype(float) for run in chosen]
        beside = shares(student, teacher[0] if teacher else None)
        findings.append(
            compare(
                f"Extraction fidelity, {most} queries, {tells}",
                unit="share",
                direction="lower",
                margin=MARGIN,
                method="How often a small network, trained on the answers of the file that ships "
                "to unlabelled validation inputs, answers test samples as the file does; the "
                "interval is over test samples, of one training each.",
                **dict(beside),
            )
        )
    return findings


def _detectability(
    seen: Sequence[Detection], found: Sequence[ExtractionScore]
) -> list[MetricComparison]:
    """Compute the detection of the strategy with the highest extraction fidelity."""
    if not seen:
        return []
    best = max(
        (score for score in found if score.response_format == "probabilities"),
        key=lambda t: t.agreement.value,
    )
    (auc,) = [each.auc for each in seen if each.strategy == best.strategy]
    return [
        compare(
            f"Attacker detection AUROC, strategy {best.strategy}",
            unit="number",
            direction="higher",
            student=auc,
            margin=MARGIN,
            method="AUROC of the attacker's queries against benign ones, by the distance to the "
            "nearest benign query and the entropy of the prediction; 0.5 is no detection.",
        )
    ]


def _chance(victim: Victim) -> float:
    answered = victim.tests.probabilities.argmax(axis=1)
    return float(np.bincount(answered).max() / len(answered))


def _defences(
    victim: Victim, runs: ExtractionRuns, classes: int, *, seed: int
) -> tuple[Defence, ...]:
    """Measure output perturbations, then caps on the number of queries."""
    plain = [run.hits for run in runs["random", "hard_label"]]
    full = [run.hits for run in runs["random", "probabilities"]]
    found = [
        victim.defended(change, plain[-1]) for change in output_perturbations(classes, seed=seed)
    ]
    for at, budget in enumerate(victim.budgets[:-1]):
        cap = OutputPerturbation(f"no more than {budget} queries", attacker.full)
        found.append(victim.capped(budget, cap, max(full[at], plain[at], key=np.mean)))
    return tuple(found)


def _detection(
    context: EvaluationContext,
    victim: Victim,
    material: QueryGenerator,
    honest: Sample,
    runs: ExtractionRuns,
    draws: int,
) -> tuple[tuple[Detection, ...], list[str]]:
    count = len(next(iter(honest.values())))
    if count < FEWEST:
        return (), [f"With {count} honest queries no detector can be fitted; it takes {FEWEST}."]
    fitted = Detector(attacker.query(context.student.predictor, material, honest))
    found = [
        detector.detection(
            strategy,
            fitted,
            benign=victim.tests,
            attacker=victim.queried(strategy).rows(runs[strategy, "probabilities"][-1].queries),
            draws=draws,
            seed=context.seed,
        )
        for strategy in STRATEGIES
    ]
    return tuple(found), []


def _short(pool: Sample, most: int) -> list[str]:
    have = len(next(iter(pool.values())))
    if have >= most:
        return []
    return [f"The attacker has {have} inputs; its other queries are mixtures of them."]


def workload(context: EvaluationContext, *, budgets: Sequence[int], **settings: object) -> Workload:
    """Compute the workload: the queries of every strategy, and small networks trained on them."""
    queries = (len(STRATEGIES) + 1) * budgets[-1] // 2
    return Workload(predictions=queries + len(context.sample["labels"]), seconds=5)
