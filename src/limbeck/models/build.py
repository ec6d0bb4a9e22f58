"""The available models, by source."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.core.process import LimitError
from limbeck.errors import InputError, Problem
from limbeck.models.adapt import Adaptation, adapt, adaptation, adapted_architecture
from limbeck.models.counting import count_parameters
from limbeck.models.normal_form import as_float32, keeping_defaults, reparametrize
from limbeck.models.source import Fit, Source
from limbeck.models.spec import SOURCES, ModelSpec, Normalization
from limbeck.models.statement import Statement
from limbeck.models.weights import load_weights

if TYPE_CHECKING:
    from torch import nn


TRAINING_BYTES = 16
"""Per parameter in training: weight, gradient and the two moments of Adam, in float32."""


def check_size(spec: ModelSpec, fit: Fit, source: Source) -> None:
    """Check that a library model with the recipe's arguments fits into memory.

    The model is built once on the meta device, in a child process with a limit on time and memory.
    A user's own code is trusted and not checked: it may read files. Without arguments the library's
    default size is accepted.

    Raises:
        InputError: The model has more parameters than this machine's memory can train, or building
            it takes too long.
    """
    if not spec.arguments or spec.source == "python":
        return
    source.preload(spec)
    place, key = f"model ({spec.name})", [spec.model_dump(mode="json"), repr(fit)]
    try:
        count = count_parameters(key, lambda: source.build(spec, fit))
    except LimitError as error:
        if not error.exceeded:  # it cannot be built on the meta device
            return
        given = f"{spec.arguments}: building it took {error}"
        raise InputError(Problem(place, given, "a model that can be built")) from None
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if count * TRAINING_BYTES > memory:
        needed = f"{count:,} parameters, {count * TRAINING_BYTES / 2**30:,.1f} GiB in training"
        given = f"{needed}, with {spec.arguments}"
        allowed = f"what fits into this machine's {memory / 2**30:.1f} GiB"
        raise InputError(Problem(place, given, allowed))


def build(
    spec: ModelSpec,
    *,
    classes: int,
    class_names: tuple[str, ...] = (),
    normalization: Normalization | None = None,
    element: str = "sample",
    notes: list[str] | None = None,
    **sizes: int,
) -> nn.Module:
    """Build a model and load its weights, if the recipe has any.

    Fresh weights use torch's global generator, seeded by the caller. Parameters and buffers are
    converted to float32.

    Args:
        spec: The `teacher` or `student` section of a recipe.
        classes: The number of logits.
        class_names: The class names of the data; the model's logits are reordered to them if
            `spec.class_names` states the model's own.
        normalization: The normalisation of the data's pixels; the model renormalises them if
            `spec.normalization` states another.
        element: What a prediction describes: a sample, or each token, pixel, ... of it.
        notes: A list that is extended by notes on tensors not loaded, or loaded in another
            precision.
        sizes: The dimensions of the inputs, as the data's preprocessing states them
            (`model_inputs`): `channels`, `vocab_size`, `table_features`, ...

    Raises:
        InputError: The name or an argument is unknown, or the weights do not fit.

    Example:
        >>> model = build(ModelSpec(source="limbeck", name="digits_cnn"), classes=10, channels=1)
        >>> sum(parameter.numel() for parameter in model.parameters())
        6274
    """
    source: Source = SOURCES.load(spec.source)
    fit = Fit(classes, sizes, class_names, normalization, element)
    changes, own = _adaptation(spec, fit)
    check_size(spec, own, source)
    with keeping_defaults():
        model = source.build(spec, own)
    found = as_float32(model)
    if spec.checkpoint is not None:
        loading, convert = spec.loading, source.convert
        found += load_weights(model, spec.checkpoint, own.classes, loading, convert)
    reparametrize(model)
    if notes is not None:
        notes += found
    return adapt(model, changes)


def _adaptation(spec: ModelSpec, fit: Fit) -> tuple[Adaptation, Fit]:
    """Return the adaptation of the model to the data, and the fit for building the model."""
    own = fit if spec.class_names is None else replace(fit, classes=len(spec.class_names))
    changes = adaptation(spec, fit.class_names, fit.normalization)
    return replace(changes, count=own.classes), own


def is_fitted(spec: ModelSpec) -> tuple[str, ...]:
    """Return the tasks of a teacher that is fitted otherwise than by gradient descent.

    Empty for all other models: see `Source.fitted_for`.

    Example:
        >>> is_fitted(ModelSpec(source="sklearn", name="RandomForestRegressor"))
        ('tabular_regression',)
    """
    return SOURCES.load(spec.source).fitted_for(spec)


def states(spec: ModelSpec) -> Statement:
    """Read the metadata that the model's weight files state about its training.

    Raises:
        InputError: The weight file does not exist.
    """
    return SOURCES.load(spec.source).states(spec)


def architecture(
    spec: ModelSpec,
    *,
    classes: int,
    class_names: tuple[str, ...] = (),
    normalization: Normalization | None = None,
    element: str = "sample",
    **sizes: int,
) -> str:
    """Return the text of an architecture.py whose `build()` builds the module without limbeck.

    Raises:
        InputError: The name is unknown.
    """
    fit = Fit(classes, sizes, class_names, normalization, element)
    changes, own = _adaptation(spec, fit)
    return adapted_architecture(SOURCES.load(spec.source).architecture(spec, own), changes)


def modules(spec: ModelSpec) -> dict[str, Path]:
    """Return the user's own modules that the text of `architecture` imports, by dotted name."""
    return SOURCES.load(spec.source).modules(spec)
