"""Forward hooks that adapt a trained model to other input normalisation and class order.

They do not change the module's names, parameters and buffers. The file is self-contained, since it
is copied into the architecture.py of a student that needs it.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from limbeck.errors import InputError, Problem, did_you_mean

if TYPE_CHECKING:
    from limbeck.models.spec import ModelSpec, Normalization


class Renormalize:
    """A forward pre-hook that maps each image channel to `scale * x + shift`."""

    def __init__(self, scale: list[float], shift: list[float]) -> None:
        self.scale, self.shift = list(scale), list(shift)

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Renormalise the first four-dimensional input, `[n, channels, height, width]`."""
        for number, value in enumerate(args):
            if self._is_image(value):
                return (*args[:number], self._applied(value), *args[number + 1 :]), kwargs
        for name, value in kwargs.items():
            if self._is_image(value):
                return args, {**kwargs, name: self._applied(value)}
        raise ValueError(f"no input of shape [n, {len(self.scale)}, height, width]")

    def _is_image(self, value: object) -> bool:
        return isinstance(value, Tensor) and value.ndim == 4 and value.shape[1] == len(self.scale)

    def _applied(self, image: Tensor) -> Tensor:
        scale, shift = (image.new_tensor(part)[:, None, None] for part in (self.scale, self.shift))
        return image * scale + shift


class ToLogits:
    """A forward hook that converts probabilities to logits, and selects and orders the classes.

    In a structure of tensors, those of shape `[n, count, ...]` are changed: logits and auxiliary
    logits.
    """

    def __init__(self, output_type: str, classes: list[int] | None, count: int) -> None:
        self.output_type, self.classes, self.count = output_type, classes, count

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Convert the logits in the model's output: a tensor, or a structure of tensors."""
        if isinstance(output, Tensor):
            return self._applied(output)
        if isinstance(output, tuple | list):
            parts = [self._applied(part) for part in output]
            return type(output)(*parts) if hasattr(output, "_fields") else type(output)(parts)
        if isinstance(output, dict):
            for name in list(output):
                output[name] = self._applied(output[name])
        else:
            for name, value in list(vars(output).items()):
                setattr(output, name, self._applied(value))
        return output

    def _applied(self, values: Any) -> Any:
        if not isinstance(values, Tensor) or values.shape[1:2] != (self.count,):
            return values
        # The smallest normal number of float32: its logarithm is finite in every runtime.
        if self.output_type == "probabilities":
            values = values.float().clamp(min=1e-30).log()
        elif self.output_type == "sigmoid":
            values = torch.logit(values.float(), eps=1e-7)
        if self.classes is None:
            return values
        return values.index_select(1, torch.tensor(self.classes, device=values.device))


class SelectOutput:
    """A forward hook that returns one of a model's outputs, or the mean of its heads.

    A bare tensor, which many models return in evaluation mode only, is returned unchanged.
    """

    def __init__(self, key: str | int) -> None:
        self.key = key

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """Return the output at a field or position, or the mean of all outputs like the first."""
        if isinstance(output, Tensor):
            return output
        parts = _parts(output)
        if self.key == "mean":
            first = next(part for part in parts if isinstance(part[1], Tensor))[1]
            heads = [part for _, part in parts if getattr(part, "shape", None) == first.shape]
            return torch.stack(heads).mean(0)
        found = [part for name, part in parts if name == self.key]
        if isinstance(self.key, int) and not found and self.key < len(parts):
            found = [parts[self.key][1]]
        if not found:
            names = ", ".join(str(name) for name, _ in parts)
            raise KeyError(f"output {self.key!r}: the model returns {names}")
        return found[0]


def _parts(output: Any) -> list[tuple[Any, Any]]:
    """Return the items of a structure, with their fields or positions."""
    if hasattr(output, "keys"):
        return [(name, output[name]) for name in output.keys()]  # noqa: SIM118
    if isinstance(output, tuple | list):
        return list(zip(getattr(output, "_fields", range(len(output))), output, strict=True))
    return list(vars(output).items())


def add_hooks(
    model: nn.Module,
    *,
    scale: list[float] | None,
    shift: list[float] | None,
    output_type: str,
    classes: list[int] | None,
    output: str | int | None,
    count: int,
) -> nn.Module:
    """Register the required adapt, and return the model."""
    if scale is not None and shift is not None:
        model.register_forward_pre_hook(Renormalize(scale, shift), with_kwargs=True)
    if output is not None:
        model.register_forward_hook(SelectOutput(output))
    if output_type != "logits" or classes is not None:
        model.register_forward_hook(ToLogits(output_type, classes, count))
    return model


_FUTURE = "from __future__ import annotations\n"
_END = '''

_unadapted = build


def build():
    """Build the network with the forward hooks that fit it to the data."""
    return _hooks()(_unadapted(), {arguments})
'''


@dataclass(frozen=True)
class Adaptation:
    """The forward hooks' changes of a model's input and output.

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
    """Compute the adaptation of a model to the data.

    Args:
        spec: The model's section of the recipe.
        class_names: The data's classes in the order of its labels; empty if unknown.
        normalization: The normalisation of the data's pixels; None without images.

    Raises:
        InputError: The model lacks a class of the data, or differs in the number of channels.

    Example:
        >>> from limbeck.models.spec import ModelSpec
        >>> spec = ModelSpec(source="python", name="net.py:net", class_names=("no", "yes", "maybe"))
        >>> adaptation(spec, ("yes", "no"), None).classes
        [1, 0]
    """
    scale, shift = _affine(spec.normalization, normalization)
    order = _order(spec.class_names, class_names)
    return Adaptation(scale, shift, spec.output_type, order, spec.output)


def _affine(
    own: Normalization | str | None, data: Normalization | None
) -> tuple[list[float] | None, list[float] | None]:
    if own is None or data is None or isinstance(own, str) or own == data:
        return None, None
    if len(own.mean) != len(data.mean):
        given = f"{len(own.mean)} numbers each in mean and std"
        allowed = f"{len(data.mean)}: one for each channel of the data"
        fix = f"Set data.image.channels: {len(own.mean)}."
        raise InputError(Problem("model.normalization", given, allowed, fix))
    channels = list(zip(own.mean, own.std, data.mean, data.std, strict=True))
    scale = [theirs / std for _, std, _, theirs in channels]
    return scale, [(shift - mean) / std for mean, std, shift, _ in channels]


def _order(own: tuple[str, ...] | None, data: tuple[str, ...]) -> list[int] | None:
    if own is None or not data or own == data:
        return None
    places = {name: number for number, name in enumerate(own)}
    missing = [name for name in data if name not in places]
    if missing:
        allowed = f"every class of the data: {', '.join(data[:20])}"
        fix = f"missing: {', '.join(missing[:8])}. {did_you_mean(missing[0], own)}".strip()
        raise InputError(Problem("model.class_names", ", ".join(own[:20]), allowed, fix))
    return [places[name] for name in data]


def adapt(model: nn.Module, changes: Adaptation) -> nn.Module:
    """Register the forward hooks of an adaptation on a model, in place.

    Example:
        >>> import torch
        >>> net = adapt(torch.nn.Softmax(1), Adaptation(output_type="probabilities", count=2))
        >>> net(torch.tensor([[0.0, 0.0]])).exp()
        tensor([[0.5000, 0.5000]])
    """
    return add_hooks(model, **asdict(changes)) if changes else model


def adapted_architecture(text: str, changes: Adaptation) -> str:
    """Add an adaptation to the source text of an architecture.py.

    Args:
        text: The text of a Python file whose `build()` builds the model.
        changes: The adaptation; if it is empty the text is returned unchanged.
    """
    if not changes:
        return text
    from limbeck.models import adapt

    # Within a function, so that its names cannot collide with the model's.
    inner = textwrap.indent(inspect.getsource(adapt).replace(_FUTURE, "").strip(), "    ")
    source = f"def _hooks():\n{inner}\n\n    return add_hooks"
    body = text.replace(_FUTURE, "").rstrip()
    arguments = ", ".join(f"{name}={value!r}" for name, value in asdict(changes).items())
    return f"{_FUTURE}\n{body}\n\n\n{source}\n{_END.format(arguments=arguments)}"


SUM_TOLERANCE = 1e-3
SIGMOIDS = {torch.ops.aten.sigmoid.default, torch.ops.aten.hardsigmoid.default}


class _SigmoidRecorder(TorchDispatchMode):
    """A dispatch mode that records the outputs of sigmoid operators."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[Tensor] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in SIGMOIDS:
            self.values = [*self.values[-7:], out]
        return out


def check_output_type(
    model: nn.Module, run: Callable[[], Tensor], *, output_type: str, where: str
) -> None:
    """Check that a model's outputs are of the type stated in its spec.

    Outputs are probabilities if every row is in [0, 1] and sums to 1, and sigmoid values if they
    are in [0, 1] and outputs of a sigmoid. Log-probabilities are valid logits.

    Args:
        model: The model, with the hooks that convert its outputs.
        run: A function that runs the model on a batch and returns logits `[n, classes]`.
        output_type: The output type in the spec.
        where: The key in the recipe, for messages.

    Raises:
        InputError: The outputs are of another type.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.Softmax(dim=1))
        >>> check_output_type(
        ...     net, lambda: net(torch.ones(4, 2)), output_type="logits", where="teacher"
        ... )
        Traceback (most recent call last):
        ...
        limbeck.errors.InputError: teacher.output_type: got 'logits', but each of 4 rows lies in...
    """
    with torch.no_grad(), _raw_output(model) as raw, _SigmoidRecorder() as recorder:
        logits = run()
    values = _rows(raw[-1] if raw else logits, logits)
    if values is None or not len(values):
        return
    found = _type_of(values.float(), recorder.values)
    if found == output_type or (found == "logits" and not _contradicts(values, output_type)):
        return
    place, rows = f"{where}.output_type", len(values)
    if found == "logits":
        given = f"'{output_type}', but the outputs of {rows} rows are not"
        raise InputError(Problem(place, _Text(given), "logits", "Remove output_type."))
    if output_type == "logits" or found != output_type:
        sums = "and sums to 1" if found == "probabilities" else "and comes out of a sigmoid"
        given = f"'{output_type}', but each of {rows} rows lies in [0, 1] {sums}"
        fix = f"Remove the last activation of the model, or state output_type: {found}."
        raise InputError(Problem(place, _Text(given), found, fix))


class _Text(str):
    """A string shown without quotation marks in messages."""

    def __repr__(self) -> str:
        return str(self)


def _type_of(values: Tensor, sigmoids: list[Tensor]) -> str:
    if not values.isfinite().all() or values.min() < 0 or values.max() > 1 + SUM_TOLERANCE:
        return "logits"
    if values.shape[1] > 1 and bool(((values.sum(1) - 1).abs() < SUM_TOLERANCE).all()):
        return "probabilities"
    same = any(
        one.numel() == values.numel() and torch.equal(one.reshape(values.shape).float(), values)
        for one in sigmoids
    )
    return "sigmoid" if same else "logits"


def _contradicts(values: Tensor, output_type: str) -> bool:
    """Return whether outputs that look like logits contradict the stated type."""
    if output_type == "sigmoid":  # computed without the sigmoid operator
        return bool(values.min() < 0 or values.max() > 1)
    return output_type == "probabilities"


@contextmanager
def _raw_output(model: nn.Module) -> Iterator[list[Any]]:
    """Collect a model's outputs before its own hooks change them."""
    raw: list[Any] = []

    def collect(module: nn.Module, args: Any, output: Any) -> None:
        raw.append(_copied(output))

    handle = model.register_forward_hook(collect, prepend=True)
    try:
        yield raw
    finally:
        handle.remove()


def _copied(output: Any) -> Any:
    """Copy the tensors of a structure, since a hook may change them in place."""
    if isinstance(output, Tensor):
        return [output]
    items: Any = ()
    if isinstance(output, Mapping):
        items = output.values()
    elif isinstance(output, tuple | list):
        items = output
    elif hasattr(output, "__dict__"):
        items = vars(output).values()
    return [one for one in items if isinstance(one, Tensor)]


def _rows(found: Any, logits: Tensor) -> Tensor | None:
    """Return the first output with one row per sample."""
    for one in found if isinstance(found, list) else [found]:
        if one.ndim >= 2 and one.is_floating_point() and len(one) == len(logits):
            return one.reshape(len(one), -1)
    return None
