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
from limbeck.evaluate.attribution import similarity
from limbeck.evaluate.attribution.examples import Example, ImageExample, TextExample
from limbeck.evaluate.attribution.explained import Material, Numbers, Words
from limbeck.evaluate.attribution.maps import windows
from limbeck.evaluate.attribution.similarity import Alignment, Completeness
from limbeck.evaluate.bootstrap import Resamples
from limbeck.evaluate.comparison import MetricComparison
from limbeck.evaluate.context import EvaluationContext, Workload, model_inputs

Array = NDArray[np.float64]
Labels = NDArray[np.int64]

DRAWS_SAMPLES = True


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

    Occlusion maps and deletion scores are those of the exported files, gradients those of the torch
    models.

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
    notes = _notes(context, material)
    if material is None or not available("captum"):
        return Attribution(notes=notes)
    # Without a teacher, the class is the one that the student predicts.
    *_, (_, reference) = context.models()
    classes = np.asarray(reference.predictor.predict(sample)["logits"]).argmax(axis=1)
    explained = [material.explain(model, classes, steps=steps) for _, model in context.models()]
    shared = [name for name in similarity.METHODS if all(name in one.maps for one in explained)]
    if not shared:
        return Attribution(samples=len(classes), notes=notes)
    maps = [one.maps[shared[0]] for one in explained]
    resamples = Resamples(len(classes), n_resamples=n_resamples, seed=context.seed)
    alignments = []
    if len(explained) == 2:
        student, teacher = (one.maps for one in explained)
        for name in shared:
            alignment = similarity.align(
                name,
                student[name],
                teacher[name],
                share=share,
                n_resamples=n_resamples,
                seed=context.seed,
            )
            if alignment is not None:
                alignments.append(alignment)
    completeness = [
        similarity.complete(name, one.maps["integrated_gradients"], one.missed)
        for (name, _), one in zip(context.models(), explained, strict=True)
        if one.missed is not None
    ]
    notes += tuple(
        f"The {one.side}'s integrated gradients violate completeness for "
        f"{100 * (1 - one.within):.0f} % of the samples (error above "
        f"{100 * similarity.TOLERANCE:.0f} % of the mean difference): use more than {steps} steps."
        for one in completeness
        if one.within < 1
    )
    examples = [
        material.example(
            at, [one[at] for one in maps], _example(context, sample, at, maps, classes)
        )
        for at in similarity.most_divergent(maps, shown)
    ]
    return Attribution(
        comparisons=(
            *similarity.aligned(alignments, share),
            similarity.removed(context, material, maps, classes, shared[0], share, resamples),
            *similarity.stability(explained, resamples),
        ),
        alignments=tuple(alignments),
        completeness=tuple(completeness),
        images=tuple(one for one in examples if isinstance(one, ImageExample)),
        texts=tuple(one for one in examples if isinstance(one, TextExample)),
        samples=len(classes),
        notes=notes,
    )


def _material(context: EvaluationContext, sample: Mapping[str, NDArray[Any]]) -> Material | None:
    inputs = model_inputs(sample)
    if {"input_ids", "attention_mask"} <= set(inputs):
        return Words(inputs, context.texts)
    if len(inputs) != 1:
        return None
    ((name, values),) = inputs.items()
    numeric = values.dtype.kind == "f" and values.ndim > 1
    return Numbers(name, values, context.normalization) if numeric else None


def _notes(context: EvaluationContext, material: Material | None) -> tuple[str, ...]:
    notes = []
    if not available("captum"):
        notes.append('Attribution requires captum: pip install "limbeck[evaluate]".')
    if material is None:
        notes.append("The inputs are neither texts nor one numeric array: no attribution maps.")
    for name, model in context.models():
        if model.torch_model is None:
            maps = "no maps" if isinstance(material, Words) else "occlusion maps only"
            notes.append(f"The {name} has no PyTorch model, hence no gradients: {maps}.")
    return tuple(notes)


def _example(
    context: EvaluationContext,
    sample: Mapping[str, NDArray[Any]],
    at: int,
    maps: Sequence[Array],
    classes: Labels,
) -> Example:
    cosine = None
    if len(maps) == 2:
        cosine = float(similarity.cosine(*(one[at : at + 1] for one in maps))[0])
    return Example(
        row=int(sample["row"][at]),
        label=context.classes[int(sample["labels"][at])],
        explained=context.classes[int(classes[at])],
        cosine=cosine,
    )


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
