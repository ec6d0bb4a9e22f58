"""From what a recipe says about a model to a module, and to the text that makes it again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.models.adapt import Adaptation, adapt, adaptation, adapted_architecture
from limbeck.models.normal_form import as_float32, keeping_defaults, reparametrize
from limbeck.models.size import check_size
from limbeck.models.source import Fit, Source
from limbeck.models.spec import SOURCES, ModelSpec, Normalization
from limbeck.models.statement import Statement
from limbeck.models.weights import load_weights

if TYPE_CHECKING:
    from torch import nn


def build(
    spec: ModelSpec,
    *,
    classes: int,
    channels: int | None = None,
    vocab_size: int | None = None,
    table_features: int | None = None,
    class_names: tuple[str, ...] = (),
    normalization: Normalization | None = None,
    pad_token: int | None = None,
    notes: list[str] | None = None,
) -> nn.Module:
    """Build a model and load its weights, if the recipe names any.

    Fresh weights come from torch's global generator: the caller seeds it. Parameters and buffers
    are in float32, whatever the checkpoint or the builder has them in.

    Args:
        spec: The `teacher` or `student` part of a recipe.
        classes: How many logits it gives.
        channels: How many channels its pictures have, if the data is pictures.
        vocab_size: How many tokens there are, if the data is texts.
        table_features: How many features a row has, if the data is a table.
        class_names: The names of the data's classes; the model's logits are brought into their
            order if `spec.class_names` states the model's own.
        normalization: How the data's pixels are normalised; the model renormalises them if
            `spec.normalization` states another.
        pad_token: The number of the token that pads texts, if the data is texts.
        notes: A list that what was not loaded, or loaded in another precision, is added to.

    Raises:
        InputError: The name or an argument is unknown, or the weights do not fit.

    Example:
        >>> model = build(ModelSpec(source="limbeck", name="digits_cnn"), classes=10, channels=1)
        >>> sum(parameter.numel() for parameter in model.parameters())
        6274
    """
    source: Source = SOURCES.load(spec.source)
    fit = Fit(classes, channels, vocab_size, table_features, class_names, normalization, pad_token)
    changes, own = _adaptation(spec, fit)
    check_size(spec, own, source)
    with keeping_defaults():
        model = source.build(spec, own)
    said = as_float32(model)
    if spec.weights is not None:
        said += load_weights(
            model,
            spec.weights,
            classes=own.classes,
            loading=spec.loading,
            convert=source.convert,
        )
    reparametrize(model)
    if notes is not None:
        notes += said
    adapt(model, changes)
    return model


def _adaptation(spec: ModelSpec, fit: Fit) -> tuple[Adaptation, Fit]:
    """Return what fits the model to the data, and the fit that the model itself is built with."""
    own = fit if spec.class_names is None else replace(fit, classes=len(spec.class_names))
    changes = adaptation(spec, fit.class_names, fit.normalization)
    return replace(changes, count=own.classes), own


def states(spec: ModelSpec) -> Statement:
    """Read what the files of a model's weights state about its training.

    Raises:
        InputError: The file of weights does not exist.
    """
    source: Source = SOURCES.load(spec.source)
    return source.states(spec)


def architecture(
    spec: ModelSpec,
    *,
    classes: int,
    channels: int | None = None,
    vocab_size: int | None = None,
    table_features: int | None = None,
    class_names: tuple[str, ...] = (),
    normalization: Normalization | None = None,
    pad_token: int | None = None,
) -> str:
    """Write the text of an architecture.py whose `build()` makes the module without limbeck.

    Raises:
        InputError: The name is unknown.
    """
    source: Source = SOURCES.load(spec.source)
    fit = Fit(classes, channels, vocab_size, table_features, class_names, normalization, pad_token)
    changes, own = _adaptation(spec, fit)
    return adapted_architecture(source.architecture(spec, own), changes)


def modules(spec: ModelSpec) -> dict[str, Path]:
    """Find the user's own modules that the text of `architecture` imports, by dotted name."""
    source: Source = SOURCES.load(spec.source)
    return source.modules(spec)
