"""Plain modules with an example batch: inputs by name, and export."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast

import torch
from torch import Tensor, fx, nn

from limbeck.core.modules import evaluating
from limbeck.errors import InputError, Problem
from limbeck.export.compact.onnx import pack
from limbeck.export.onnx import embed_classes, to_onnx

if TYPE_CHECKING:
    import os

LABELS = "labels"
LOGITS = "logits"
BY_POSITION = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}

Example: TypeAlias = Tensor | Sequence[Tensor] | Mapping[str, Tensor]
"""A batch: one tensor, tensors by position, or tensors by name; `labels` is no input.

By position, a tensor after the last parameter of `forward` is the labels: `(x, y)` of a loader.
"""


class Saved(Protocol):
    """Preprocessing that writes itself into a folder, as all of `limbeck.data.preprocess` does."""

    def save(self, folder: Path) -> list[Path]:
        """Write preprocess.json."""


@dataclass(frozen=True)
class PlainModule:
    """The interface of a plain module to exports and compression methods.

    Attributes:
        inputs: Its inputs, in order, with the names of their varying axes: `batch`, and `tokens` of
            integers with two axes.
    """

    inputs: Mapping[str, tuple[str, ...]]

    def outputs(self, model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run a model; return `logits`, which is its output or the field of that name.

        Raises:
            InputError: The output is no tensor, and has no such field.
        """
        tensors = {name: batch[name] for name in self.inputs}
        parameters = inspect.signature(model.forward).parameters
        named = next(iter(self.inputs)) in parameters or any(
            one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()
        )
        returned: Any = model(**tensors) if named else model(*tensors.values())
        found = returned
        if not isinstance(returned, Tensor | fx.Proxy):
            is_mapping = isinstance(returned, Mapping)
            found = returned.get(LOGITS) if is_mapping else getattr(returned, LOGITS, None)
        if not isinstance(found, Tensor | fx.Proxy):
            given, allowed = type(returned).__name__, f"a tensor, or an output with {LOGITS}"
            fix = "Wrap the model in a module that returns its logits."
            raise InputError(Problem("model", given, allowed, fix))
        return {LOGITS: cast("Tensor", found)}


def read_example(model: nn.Module, example: Example) -> tuple[PlainModule, dict[str, Tensor]]:
    """Return the interface of a module, and its example batch by name, on the model's device.

    A tensor without a name has that of the parameter of `forward`. The model runs once, in
    evaluation mode.

    Raises:
        InputError: The example is no batch of tensors, or the model does not run it.

    Example:
        >>> read_example(nn.Linear(3, 2), torch.zeros(4, 3))[0]
        PlainModule(inputs={'input': ('batch',)})
    """
    batch = dict(_named(model, example))
    wrong = [name for name, one in batch.items() if not isinstance(one, Tensor) or one.ndim == 0]
    sizes = {len(one) for one in batch.values()} if not wrong else set()
    inputs = tuple(name for name in batch if name != LABELS)
    allowed = "a tensor [n, ...], or several by position or by name"
    if wrong or not inputs or len(sizes) > 1 or 0 in sizes:
        given = {name: _shape(one) for name, one in batch.items()} or type(example).__name__
        raise InputError(Problem("example", given, f"{allowed}, of at least one sample each"))
    infinite = [name for name in inputs if not torch.isfinite(batch[name]).all()]
    if infinite:
        raise InputError(Problem("example", f"NaN or infinity in {infinite[0]}", "finite numbers"))
    first = next(model.parameters(), torch.empty(0))
    batch = {name: tensor.to(first.device) for name, tensor in batch.items()}
    plain = PlainModule({name: _axes(batch[name]) for name in inputs})
    try:
        with evaluating(model), torch.no_grad():
            plain.outputs(model, batch)
    except InputError:
        raise
    except Exception as error:  # the model's own code may raise anything
        given = ", ".join(f"{name} {_shape(batch[name])}" for name in inputs)
        reason = " ".join(str(error).split())[:300]
        fix = f"It raised {type(error).__name__}: {reason}"
        raise InputError(Problem("example", given, "a batch that the model runs", fix)) from error
    return plain, batch


def _named(model: nn.Module, example: Example) -> Mapping[str, Tensor]:
    if isinstance(example, Mapping):
        return example
    tensors = [example] if isinstance(example, Tensor) else example
    parameters = inspect.signature(model.forward).parameters.values()
    names = [one.name for one in parameters if one.kind in BY_POSITION]
    if not isinstance(tensors, Sequence) or isinstance(tensors, str):
        raise InputError(Problem("example", type(example).__name__, "a tensor, or several"))
    if len(tensors) == len(names) + 1 and all(one.kind in BY_POSITION for one in parameters):
        names.append(LABELS)
    names += [f"input_{number}" for number in range(len(names), len(tensors))]
    return dict(zip(names, tensors, strict=False))


def _axes(tensor: Tensor) -> tuple[str, ...]:
    tokens = tensor.ndim == 2 and not tensor.is_floating_point()
    return ("batch", "tokens") if tokens else ("batch",)


def _shape(value: object) -> str:
    return str(list(value.shape)) if isinstance(value, Tensor) else type(value).__name__


def export(
    model: nn.Module,
    example: Example,
    folder: str | os.PathLike[str],
    *,
    classes: Sequence[str] = (),
    preprocess: Saved | None = None,
) -> Path:
    """Export a plain module to `model.onnx`, as the stages of a recipe do.

    The file has a dynamic batch axis, the masks and quantisers of a compressed model are applied,
    and its weights are stored in their smallest lossless form.

    Args:
        model: Any module whose output is a tensor, or has a field `logits`; it is not modified.
        example: A batch: a tensor, several by position, or a mapping of names to tensors, which
            name the inputs of the file.
        folder: The folder of the file; it is created.
        classes: The class names, in the order of the outputs, for the file's metadata.
        preprocess: Preprocessing from `limbeck.data.preprocess`, written beside the file:
            `limbeck.load_student(folder)` then predicts raw inputs.

    Returns:
        The path of `model.onnx`.

    Raises:
        InputError: The example is no batch that the model runs.
        ExportError: The model has no ONNX form, or the file's outputs differ from the model's.
    """
    plain, batch = read_example(model, example)
    path = Path(folder) / "model.onnx"
    to_onnx(model, plain, batch, path)
    pack(path)
    if classes:
        embed_classes(path, classes)
    if preprocess is not None:
        preprocess.save(path.parent)
    return path
