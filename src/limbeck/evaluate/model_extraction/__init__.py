"""Model extraction: the fidelity of attackers, and defences against them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from limbeck.core.measurement import Result
from limbeck.errors import InputError, Problem
from limbeck.evaluate.bootstrap import shares
from limbeck.evaluate.comparison import MetricComparison, compare
from limbeck.evaluate.context import EvaluationContext, Workload, model_inputs
from limbeck.evaluate.model_extraction import attacker
from limbeck.evaluate.model_extraction.attacker import STRATEGIES, Batch, count_samples
from limbeck.evaluate.model_extraction.detector import Detection, Detector
from limbeck.evaluate.model_extraction.runs import (
    DESCRIPTIONS,
    RESPONSE_FORMATS,
    Defence,
    ExtractionCost,
    ExtractionScore,
    Victim,
    extraction_costs,
)

DRAWS_SAMPLES = True
FEWEST = 10
"""Smallest number of benign queries to fit a detector on."""

MARGIN = 0.02


class ModelExtraction(Result):
    """The model extraction results.

    Attributes:
        scores: Extraction fidelity by strategy, response format and budget.
        majority_baseline: The agreement of a constant prediction of the student's most frequent
            class.
        defences: The effect of each on an attacker and on a benign user.
        detection: Attacker detection per strategy.
        costs: The cost of levels of fidelity.
        price: The price of one query.
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
    benign queries that a detector is fitted on. Its surrogate is a small network of one hidden
    layer: the result is a lower bound of what can be extracted.

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
    generator = _query_generator(context, tests)
    if generator is None:
        return ModelExtraction(notes=("The inputs are neither texts nor one array of numbers.",))
    drawn = replace(context, batches=context.validation, max_samples=2 * budgets[-1]).sample
    # Alternate rows, since samples may be sorted by class.
    pool, benign = (
        {name: values[first::2] for name, values in model_inputs(drawn).items()} for first in (0, 1)
    )
    victims = [
        Victim(side.predictor, generator, pool, tests, budgets, context.seed)
        for _, side in context.models()
    ]
    student, notes = victims[0], []
    detections: tuple[Detection, ...] = ()
    if count_samples(benign) < FEWEST:
        notes.append(
            f"With {count_samples(benign)} benign queries no detector can be fitted; at least "
            f"{FEWEST} are required."
        )
    else:
        fitted = Detector(attacker.query(student.predictor, generator, benign))
        detections = tuple(
            fitted.detection(
                strategy,
                benign=student.tests,
                attacker=student.queried(strategy).rows(attacks[-1].queries),
                n_resamples=n_resamples,
                seed=context.seed,
            )
            for (strategy, name), attacks in student.attacks.items()
            if name == "probabilities"
        )
    if count_samples(pool) < budgets[-1]:
        notes.append(
            f"The attacker has {count_samples(pool)} inputs; its other queries are mixtures of "
            "them."
        )
    scores = student.scores()
    predicted = student.tests.probabilities.argmax(axis=1)
    return ModelExtraction(
        comparisons=(*_extraction(victims), *_detectability(detections, scores)),
        scores=scores,
        majority_baseline=float(np.bincount(predicted).max() / len(predicted)),
        defences=student.defences(),
        detection=detections,
        costs=extraction_costs(scores, price),
        price=price,
        notes=tuple(notes),
    )


def check(classes: tuple[str, ...], *, budgets: Sequence[int] = (1,)) -> None:
    """Check that the budgets ascend, before anything is trained.

    Raises:
        InputError: They are not ascending whole numbers above zero.
    """
    if not budgets or budgets[0] < 1 or list(budgets) != sorted(set(budgets)):
        allowed = "ascending whole numbers above 0"
        raise InputError(Problem("model_extraction.budgets", list(budgets), allowed))


def _query_generator(context: EvaluationContext, sample: Batch) -> attacker.QueryGenerator | None:
    inputs = model_inputs(sample)
    if {"input_ids", "attention_mask"} <= set(inputs):
        return attacker.Tokens()
    if len(inputs) != 1:
        return None
    [(name, values)] = inputs.items()
    is_numeric = values.dtype.kind == "f" and values.ndim > 1
    return attacker.Numbers(name, context.normalization) if is_numeric else None


def _extraction(victims: Sequence[Victim]) -> list[MetricComparison]:
    """Compare the extraction fidelity of student and teacher, at the largest budget."""
    most = victims[0].budgets[-1]
    comparisons = []
    for name, response_format in RESPONSE_FORMATS.items():
        student = victims[0].attacks["random", name][-1].hits.astype(float)
        teacher = [
            victim.extracted("random", response_format, (most,))[0].hits.astype(float)
            for victim in victims[1:]
        ]
        comparisons.append(
            compare(
                f"Extraction fidelity, {most} queries, {DESCRIPTIONS[name]}",
                unit="share",
                direction="lower",
                margin=MARGIN,
                method="Top-1 agreement on test samples of the exported file with a surrogate, a "
                "small network trained on the file's responses to unlabelled validation inputs; "
                "the interval is over test samples, of one training each.",
                **dict(shares(student, teacher[0] if teacher else None)),
            )
        )
    return comparisons


def _detectability(
    detections: Sequence[Detection], scores: Sequence[ExtractionScore]
) -> list[MetricComparison]:
    """Compute the detection of the strategy with the highest extraction fidelity."""
    if not detections:
        return []
    full = [score for score in scores if score.response_format == "probabilities"]
    best = max(full, key=lambda score: score.agreement.value).strategy
    return [
        compare(
            f"Attacker detection AUROC, strategy {best}",
            unit="number",
            direction="higher",
            student=next(each.auc for each in detections if each.strategy == best),
            margin=MARGIN,
            method="AUROC of the attacker's queries against benign ones, by the distance to the "
            "nearest benign query and the entropy of the prediction; 0.5 is no detection.",
        )
    ]


def workload(context: EvaluationContext, *, budgets: Sequence[int], **settings: object) -> Workload:
    """Compute the workload: the queries of every strategy, and small networks trained on them."""
    queries = (len(STRATEGIES) + 1) * budgets[-1] // 2
    return Workload(predictions=queries + len(context.sample["labels"]), seconds=5)
