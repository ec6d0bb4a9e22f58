"""Output type check: logits, probabilities or sigmoid values, as the model's spec states."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from limbeck.errors import InputError, Problem
from limbeck.models.hooks import output_parts

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
    with torch.no_grad(), _raw_outputs(model) as raw:
        logits = run()
    values = _first_rows(raw[-1] if raw else [logits], len(logits))
    if values is None or not len(values):
        return
    sigmoids: list[Tensor] = []
    if not _outside_unit(values):  # a second run, since recording operators loads torch's compiler
        with torch.no_grad(), _SigmoidRecorder() as recorder:
            run()
        sigmoids = recorder.values
    actual = _type_of(values.float(), sigmoids)
    if actual == output_type or (actual == "logits" and not _contradicts(values, output_type)):
        return
    place, rows = f"{where}.output_type", len(values)
    if actual == "logits":
        given = f"'{output_type}', but the outputs of {rows} rows are not"
        raise InputError(Problem(place, _Text(given), "logits", "Remove output_type."))
    sums = "and sums to 1" if actual == "probabilities" else "and comes out of a sigmoid"
    given = f"'{output_type}', but each of {rows} rows lies in [0, 1] {sums}"
    fix = f"Remove the last activation of the model, or state output_type: {actual}."
    raise InputError(Problem(place, _Text(given), actual, fix))


class _Text(str):
    """A string shown without quotation marks in messages."""

    def __repr__(self) -> str:
        return str(self)


def _outside_unit(values: Tensor) -> bool:
    """Return whether a value is outside of [0, 1]: they are logits."""
    return bool(not values.isfinite().all() or values.min() < 0 or values.max() > 1 + SUM_TOLERANCE)


def _type_of(values: Tensor, sigmoids: list[Tensor]) -> str:
    if _outside_unit(values):
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
def _raw_outputs(model: nn.Module) -> Iterator[list[list[Tensor]]]:
    """Collect the tensors of a model's outputs before its own hooks change the structure."""
    raw: list[list[Tensor]] = []
    handle = model.register_forward_hook(
        lambda _module, _args, output: raw.append(_tensors(output)), prepend=True
    )
    try:
        yield raw
    finally:
        handle.remove()


def _tensors(output: object) -> list[Tensor]:
    parts = [("", output)] if isinstance(output, Tensor) else output_parts(output)
    return [one for _, one in parts if isinstance(one, Tensor)]


def _first_rows(tensors: list[Tensor], count: int) -> Tensor | None:
    """Return the first floating-point tensor with one row per sample."""
    for one in tensors:
        if one.ndim >= 2 and one.is_floating_point() and len(one) == count:
            return one.reshape(count, -1)
    return None
