"""The adaptation of a loaded model to the data: input normalisation and class order."""

from __future__ import annotations

import inspect
import textwrap
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from limbeck.errors import InputError, Problem, did_you_mean

if TYPE_CHECKING:
    from torch import nn

    from limbeck.models.spec import ModelSpec, Normalization


_FUTURE = "from __future__ import annotations\n"
_END = '''

_unadapted = build


def build():
    """Build the network with the forward hooks that fit it to the data."""
    return _hooks()(_unadapted(), {arguments})
'''


@dataclass(frozen=True)
class Adaptation:
    """The changes that forward hooks make to a model's input and output.

    Attributes:
        scale: The factor per channel of the data's pixels; None for no change.
        shift: The offset per channel, added next.
        output_type: The type of the model's output: logits, probabilities or sigmoid values.
        classes: The index of the model's logit for each class of the data; None for no change.
        output: The model output with the logits: a field, a position, or `mean` for the mean of all
            heads (DeiT, Touvron et al. 2021); None for the only one.
        count: The model's own number of classes; tensors of other shapes are unchanged.
    """

    scale: list[float] | None = None
    shift: list[float] | None = None
    output_type: str = "logits"
    classes: list[int] | None = None
    output: str | int | None = None
    count: int = 0

    def __bool__(self) -> bool:
        return replace(self, count=0) != Adaptation()


def adaptation(
    spec: ModelSpec, class_names: tuple[str, ...], normalization: Normalization | None
) -> Adaptation:
    """Compute the adaptation of a model to the data's class names and normalisation.

    The class names are in the order of the labels, and empty if unknown.

    Raises:
        InputError: The model lacks a class of the data, or differs in the number of channels.

    Example:
        >>> from limbeck.models.spec import ModelSpec
        >>> spec = ModelSpec(source="python", name="net.py:net", class_names=("no", "yes", "maybe"))
        >>> adaptation(spec, ("yes", "no"), None).classes
        [1, 0]
    """
    scale, shift = _scale_and_shift(spec.normalization, normalization)
    order = _class_order(spec.class_names, class_names)
    return Adaptation(scale, shift, spec.output_type, order, spec.output)


def _scale_and_shift(
    own: Normalization | str | None, data: Normalization | None
) -> tuple[list[float] | None, list[float] | None]:
    if own is None or data is None or isinstance(own, str) or own == data:
        return None, None
    if len(own.mean) != len(data.mean):
        given = f"{len(own.mean)} numbers each in mean and std"
        allowed = f"{len(data.mean)}: one for each channel of the data"
        fix = f"Set data.image.channels: {len(own.mean)}."
        raise InputError(Problem("model.normalization", given, allowed, fix))
    scale = [data_std / std for data_std, std in zip(data.std, own.std, strict=True)]
    channels = zip(data.mean, own.mean, own.std, strict=True)
    return scale, [(data_mean - mean) / std for data_mean, mean, std in channels]


def _class_order(own: tuple[str, ...] | None, data: tuple[str, ...]) -> list[int] | None:
    if own is None or not data or own == data:
        return None
    indices = {name: index for index, name in enumerate(own)}
    missing = [name for name in data if name not in indices]
    if missing:
        allowed = f"every class of the data: {', '.join(data[:20])}"
        fix = f"missing: {', '.join(missing[:8])}. {did_you_mean(missing[0], own)}".strip()
        raise InputError(Problem("model.class_names", ", ".join(own[:20]), allowed, fix))
    return [indices[name] for name in data]


def adapt(model: nn.Module, changes: Adaptation) -> nn.Module:
    """Register the forward hooks of an adaptation on a model, in place.

    Example:
        >>> import torch
        >>> net = adapt(torch.nn.Softmax(1), Adaptation(output_type="probabilities", count=2))
        >>> net(torch.tensor([[0.0, 0.0]])).exp()
        tensor([[0.5000, 0.5000]])
    """
    from limbeck.models.hooks import add_hooks

    return add_hooks(model, **asdict(changes)) if changes else model


def adapted_architecture(text: str, changes: Adaptation) -> str:
    """Add an adaptation to the text of an architecture.py, whose `build()` builds a model."""
    if not changes:
        return text
    from limbeck.models import hooks

    # Within a function, so that its names cannot collide with the model's.
    inner = textwrap.indent(inspect.getsource(hooks).replace(_FUTURE, "").strip(), "    ")
    source = f"def _hooks():\n{inner}\n\n    return add_hooks"
    body = text.replace(_FUTURE, "").rstrip()
    arguments = ", ".join(f"{name}={value!r}" for name, value in asdict(changes).items())
    return f"{_FUTURE}\n{body}\n\n\n{source}\n{_END.format(arguments=arguments)}"
