"""Attribution: saliency, integrated gradients and occlusion of student and teacher, compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.core.imports import available
from limbeck.core.measurement import Result
from limbeck.evaluate.attribution import examples, similarity
from limbeck.evaluate.attribution.examples import ImageExample, TextExample
from limbeck.evaluate.attribution.explained import Explained, Material, Numbers, Words
from limbeck.evaluate.attribution.maps import windows
from limbeck.evaluate.attribution.similarity import (
    TOLERANCE,
    Alignment,
    Completeness,
    align,
    complete,
)
from limbeck.evaluate.bootstrap import Resamples
from limbeck.evaluate.comparison import MetricComparison
from limbeck.evaluate.context import EvaluationContext, Workload, model_inputs

Array = NDArray[np.float64]
Labels = NDArray[np.int64]


class Attribution(Result):
    """The attribution results.

    Attributes:
        comparisons: The metric comparisons.
        alignments: The attribution similarity of the two models, by method.
        completeness: The check of integrated gradients, per model.
        images: Examples, the least similar first.
        texts: The same of texts.
        samples: Number of samples explained.
        notes: Reasons for what could not be done.
    """

    comparisons: tuple[MetricComparison, ...] = ()
    alignments: tuple[Alignment, ...] = ()
    completeness: tuple[Completeness, ...] = ()
    images: tuple[ImageExample, ...] = ()
    texts: tuple[TextExample, ...] = ()
    samples: int = 0
    notes: tuple[str, ...] = ()


def evaluate(
    context: EvaluationContext,
    *,
    samples: int = 32,
    texts: int = 16,
    steps: int = 32,
    share: float = 0.1,
    shown: int = 6,
    n_resamples: int = 1000,
) -> Attribution:
    """Compare the attribution maps of student and teacher, for the class that the teacher predicts.

    Occlusion runs on the exported files. Gradients are the torch models'; the deletion score of
    their maps is measured on the files.

    Args:
        context: The evaluation context.
        samples: Number of test samples explained.
        texts: Number of texts explained: each costs a model `steps` forward and backward passes.
        steps: Number of integration points.
        share: The share of positions that counts as top.
        shown: Number of samples shown.
        n_resamples: Number of bootstrap resamples.
    """
    sample = replace(context, max_samples=samples).sample
    if "input_ids" in sample and texts < samples:
        sample = replace(context, max_samples=texts).sample
    material = _material(context, sample)
    notes = _unable(context, material)
    if material is None or not available("captum"):
        return Attribution(notes=notes)
    classes = _answered(context, sample)
    explained = [material.explain(side, classes, steps=steps) for _, side in context.models()]
    shared = [name for name in similarity.METHODS if all(name in side.maps for side in explained)]
    if not shared:
        return Attribution(samples=len(classes), notes=notes)
    main = [side.maps[shared[0]] for side in explained]
    alignments = _alignments(explained, shared, share=share, draws=n_resamples, seed=context.seed)
    resamples = Resamples(len(classes), n_resamples=n_resamples, seed=context.seed)
    checks = _checks(context, explained)
    pictures_, texts_ = _examples(context, material, sample, main, classes, shown)
    return Attribution(
        comparisons=(
            *similarity.aligned(alignments, share),
            similarity.removed(context, material, main, classes, shared[0], share, resamples),
            *similarity.stability(explained, resamples),
        ),
        alignments=alignments,
        completeness=checks,
        images=pictures_,
        texts=texts_,
        samples=len(classes),
        notes=(*notes, *_doubts(checks, steps)),
    )


def _material(context: EvaluationContext, sample: Mapping[str, NDArray[Any]]) -> Material | None:
    taken = model_inputs(sample)
    if {"input_ids", "attention_mask"} <= set(taken):
        return Words(taken, context.texts)
    if len(taken) != 1:
        return None
    ((name, values),) = taken.items()
    numbers = values.dtype.kind == "f" and values.ndim > 1
    return Numbers(name, values, context.normalization) if numbers else None


def _unable(context: EvaluationContext, material: Material | None) -> tuple[str, ...]:
    notes = []
    if not available("captum"):
        notes.append('captum is not installed: pip install "limbeck[evaluate]" brings it.')
    if material is None:
        notes.append("The inputs are neither texts nor one array of numbers: they have no maps.")
    for name, side in context.models():
        if side.torch_model is None:
            left = "no maps" if isinstance(material, Words) else "occlusion only"
            notes.append(f"The {name} has no gradients to follow, so there is {left} of it.")
    return tuple(notes)


def _answered(context: EvaluationContext, sample: Mapping[str, NDArray[Any]]) -> Labels:
    """Return the class that the teacher predicts, or without a teacher the student."""
    *_, (_, side) = context.models()
    return np.asarray(side.predictor.predict(sample)["logits"]).argmax(axis=1)


def _alignments(
    explained: Sequence[Explained], shared: Sequence[str], *, share: float, draws: int, seed: int
) -> tuple[Alignment, ...]:
    if len(explained) < 2:
        return ()
    student, teacher = (side.maps for side in explained)
    found = [
        align(name, student[name], teacher[name], share=share, draws=draws, seed=seed)
        for name in shared
    ]
    return tuple(each for each in found if each is not None)


def _checks(context: EvaluationContext, explained: Sequence[Explained]) -> tuple[Completeness, ...]:
    return tuple(
        complete(name, side.maps["integrated_gradients"], side.missed)
        for (name, _), side in zip(context.models(), explained, strict=True)
        if side.missed is not None
    )


def _doubts(checks: Sequence[Completeness], steps: int) -> list[str]:
    return [
        f"The {each.side}'s integrated gradients do not add up for {100 * (1 - each.within):.0f} % "
        f"of the samples (off by more than {100 * TOLERANCE:.0f} % of the mean difference): take "
        f"more than {steps} steps."
        for each in checks
        if each.within < 1
    ]


def _examples(
    context: EvaluationContext,
    material: Material,
    sample: Mapping[str, NDArray[Any]],
    maps: Sequence[Array],
    classes: Labels,
    count: int,
) -> tuple[tuple[ImageExample, ...], tuple[TextExample, ...]]:
    pictures: list[ImageExample] = []
    texts: list[TextExample] = []
    for at in examples.most_divergent(maps, count):
        label = context.classes[int(sample["labels"][at])]
        about = context.classes[int(classes[at])]
        row = int(sample["row"][at])
        if isinstance(material, Words):
            texts.append(
                examples.text(
                    material, at, maps, context.texts, row=row, label=label, explained=about
                )
            )
        elif isinstance(material, Numbers) and len(material.places) == 2:
            pictures.append(
                examples.picture(material, at, maps, row=row, label=label, explained=about)
            )
    return tuple(pictures), tuple(texts)


def workload(
    context: EvaluationContext, *, samples: int, texts: int, steps: int, **settings: object
) -> Workload:
    """Compute the workload: per sample the occlusion windows, and the gradients."""
    sample = model_inputs(context.sample)
    if "input_ids" in sample:
        return Workload(predictions=2 * texts, gradients=min(texts, samples) * (steps + 1))
    shape = next(iter(sample.values())).shape[1:]
    covered = prod(map(ceil, np.divide(shape, windows(shape)))) if shape else 0
    return Workload(predictions=samples * (covered + 3), gradients=samples * (steps + 4))
