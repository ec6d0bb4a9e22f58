"""Verification of structured pruning: the pruned model must compute what the removal defines.

**Reference for channels and heads.** The original model, with every removed weight, bias and
running statistic set to zero, in place. A removed channel then is zero after its layer (bias
included), after its batch norm, and in each sum that it is an addend of, and no layer reads it,
even where an activation maps zero to another value, as a sigmoid does. A layer norm, group norm or
RMS norm over removed channels computes its statistics over the remaining ones. Other statistics
over channels (`x.mean(1)`, a softmax over channels) depend on the number of channels; such a
removal is refused.

**Reference for layers.** The original model, with each removed layer returning its first input; or
zero, where the model's code adds the input.

Both are compared on real rows and on random ones, with the model's weights and with weights
perturbed at random: layers that start at zero, dead units and equal weights hide a wrong removal.
Computed in float64 where the model supports it.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from limbeck.compress.method import CalibrationContext, Change, apply
from limbeck.compress.trace import first_batch
from limbeck.evaluate.flops import evaluating, parameters

Kept: TypeAlias = Mapping[str, Tensor]
"""Remaining entries of each flattened tensor of a model by name, in its new shape."""

ROWS = 8
"""Number of compared rows."""

DOUBLE = 50_000_000
"""Number of parameters up to which the comparison uses float64."""

TOLERANCES = {torch.float64: 1e-7, torch.float32: 1e-3}
"""The largest difference of outputs, as a share of the largest output."""


def cut_and_trace(model: nn.Module, cut: Callable[[], None]) -> Kept:
    """Prune a model in place, and return which entries of its tensors remain.

    The removal runs on entry indices in place of values, so that the result does not depend on what
    the removing code reports.

    Args:
        model: The model that `cut` prunes.
        cut: Removes slices of parameters and buffers; it must not compute with them.

    Example:
        >>> layer = nn.Linear(2, 3)
        >>> def cut():
        ...     layer.weight = nn.Parameter(layer.weight.detach()[1:])
        >>> cut_and_trace(layer, cut)["weight"].tolist()
        [[2, 3], [4, 5]]
    """
    values = {name: tensor.detach().clone() for name, tensor in tensors_of(model)}
    for _, tensor in tensors_of(model):
        numbers = torch.arange(tensor.numel(), dtype=torch.float64, device=tensor.device)
        tensor.data = numbers.view(tensor.shape)
    try:
        cut()
    finally:
        kept = {name: tensor.detach().long() for name, tensor in tensors_of(model)}
        for name, tensor in tensors_of(model):
            tensor.data = values[name].flatten()[kept[name]]
    return kept


def tensors_of(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Iterate over a model's floating-point parameters and buffers, under every name."""
    for name, tensor in (
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ):
        if tensor.is_floating_point():
            yield name, tensor


def departs_from_masked(
    model: nn.Module, change: Change, kept: Kept, work: CalibrationContext
) -> str:
    """Return how a pruned model differs from the model with the same channels set to zero.

    Args:
        model: The model before pruning; not modified.
        change: The structural change; it is applied again, from JSON.
        kept: The remaining entries of each tensor.
        work: The rows and the forward function.

    Returns:
        A description of the difference; empty if there is none.
    """
    again = json.loads(json.dumps(change))

    def candidate(base: nn.Module) -> nn.Module:
        values = dict(tensors_of(base))
        cut = copy.deepcopy(base)
        apply(cut, [again])
        with torch.no_grad():
            for name, tensor in tensors_of(cut):
                tensor.copy_(values[name].flatten()[kept[name]])
        return cut

    @contextmanager
    def reference(base: nn.Module) -> Iterator[None]:
        left: dict[int, Tensor] = {}
        with torch.no_grad():
            for name, tensor in tensors_of(base):
                if kept[name].numel() < tensor.numel():
                    mask = torch.zeros(tensor.numel(), dtype=torch.bool, device=tensor.device)
                    mask[kept[name].flatten()] = True
                    tensor.masked_fill_(~mask.view(tensor.shape), 0.0)
                    left[id(tensor)] = kept[name].flatten()
        with _NormOverKept(left):
            yield

    return _departs(model, candidate, reference, work)


def departs_from_bypassed(
    model: nn.Module, change: Change, layers: Iterable[str], work: CalibrationContext
) -> str:
    """Return how a model without some layers differs from the model with those layers bypassed.

    Args:
        model: The model with the layers; not modified.
        change: The structural change; it is applied again, from JSON.
        layers: The paths of the layers.
        work: The rows and the forward function.

    Returns:
        A description of the difference; empty if there is none.
    """
    again = json.loads(json.dumps(change))

    def candidate(base: nn.Module) -> nn.Module:
        shorter = copy.deepcopy(base)
        apply(shorter, [again])
        return shorter

    def reference(without: Callable[..., Any]) -> Callable[[nn.Module], Any]:
        @contextmanager
        def hooked(base: nn.Module) -> Iterator[None]:
            found = [base.get_submodule(path) for path in layers]
            handles = [one.register_forward_hook(without, with_kwargs=True) for one in found]
            try:
                yield
            finally:
                for handle in handles:
                    handle.remove()

        return hooked

    # Where the residual sum is outside of the layer, the layer's output is removed instead.
    differences = [_departs(model, candidate, reference(one), work) for one in (_bypass, _silence)]
    return "" if "" in differences else differences[0]


def _silence(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    first = output[0] if isinstance(output, tuple) else output
    nothing = torch.zeros_like(first)
    return (nothing, *output[1:]) if isinstance(output, tuple) else nothing


def _bypass(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    first = next(one for one in (*args, *kwargs.values()) if isinstance(one, Tensor))
    return (first, *output[1:]) if isinstance(output, tuple) else first


def _departs(
    model: nn.Module,
    candidate: Callable[[nn.Module], nn.Module],
    reference: Callable[[nn.Module], AbstractContextManager[None]],
    work: CalibrationContext,
) -> str:
    """Compare two modified models, with the original and perturbed weights, in float64."""
    kinds = [torch.float64] if parameters(model) <= DOUBLE else []
    problem = ""
    for kind in [*kinds, torch.float32]:
        try:
            return _compare(model, candidate, reference, work, kind)
        # The model is third-party code, which need not run in float64.
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
    return problem


def _compare(
    model: nn.Module,
    candidate: Callable[[nn.Module], nn.Module],
    reference: Callable[[nn.Module], AbstractContextManager[None]],
    work: CalibrationContext,
    kind: torch.dtype,
) -> str:
    rows = {name: tensor[:ROWS] for name, tensor in first_batch(work).items()}
    draw = torch.Generator().manual_seed(work.seed)
    inputs = [_cast(rows, kind), _cast(_drawn(rows, draw), kind)]
    for how in ("", " with weights moved at random"):
        base = _in(copy.deepcopy(model), kind)
        if how:
            _move(base, draw)
        cut = candidate(base)
        found = [_answer(cut, one, work) for one in inputs]
        with reference(base):
            expected = [_answer(base, one, work) for one in inputs]
        for one, other in zip(expected, found, strict=True):
            if one.shape != other.shape:
                return f"outputs of shape {list(other.shape)}, not {list(one.shape)}"
            if how and not one.isfinite().all():
                continue  # weights that the model cannot run with
            size = float(one.abs().max())
            error = float((one - other).abs().max())
            if not error <= TOLERANCES[kind] * max(size, 1e-12):
                return f"outputs differ by {error:.2g} of {size:.2g}{how}"
    return ""


def _answer(model: nn.Module, rows: Mapping[str, Tensor], work: CalibrationContext) -> Tensor:
    with evaluating(model), torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return work.forward(model, rows).double()


def _in(model: nn.Module, kind: torch.dtype) -> nn.Module:
    for _, tensor in tensors_of(model):
        tensor.data = tensor.data.to(kind)
    return model


def _cast(rows: Mapping[str, Tensor], kind: torch.dtype) -> dict[str, Tensor]:
    return {
        name: tensor.to(kind) if tensor.is_floating_point() else tensor
        for name, tensor in rows.items()
    }


def _drawn(rows: Mapping[str, Tensor], draw: torch.Generator) -> dict[str, Tensor]:
    """Draw random values of the rows' scale; integers (tokens, masks) stay."""

    def one(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        noise = torch.randn(tensor.shape, generator=draw).to(tensor)
        return noise * tensor.std().nan_to_num(1.0).clamp_min(0.1) + tensor.mean()

    return {name: one(tensor) for name, tensor in rows.items()}


@torch.no_grad()
def _move(model: nn.Module, draw: torch.Generator) -> None:
    """Perturb weights and running statistics at random, at about their own scale."""
    seen: set[int] = set()
    for name, tensor in tensors_of(model):
        statistic = name.endswith(("running_mean", "running_var"))
        if id(tensor) in seen or not (isinstance(tensor, nn.Parameter) or statistic):
            continue
        seen.add(id(tensor))
        deviation = float(tensor.std()) if tensor.numel() > 1 else 0.0
        size = deviation or 0.3 * float(tensor.abs().mean()) or 0.1
        tensor.add_(size * torch.randn(tensor.shape, generator=draw).to(tensor))
        if name.endswith("running_var"):
            tensor.abs_().add_(0.1)


class _NormOverKept(TorchFunctionMode):
    """A torch function mode that computes norms with statistics of the remaining channels.

    Args:
        left: Which entries of a norm's weight remain, by the identity of the weight.
    """

    def __init__(self, left: Mapping[int, Tensor]) -> None:
        super().__init__()
        self._left = left

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = kwargs or {}
        place = {F.layer_norm: 2, F.rms_norm: 2, F.group_norm: 2}.get(function)
        if place is None:
            return function(*args, **given)
        weight = args[place] if len(args) > place else given.get("weight")
        kept = self._left.get(id(weight))
        if kept is None:
            return function(*args, **given)
        names = {
            F.layer_norm: ("input", "normalized_shape", "weight", "bias", "eps"),
            F.rms_norm: ("input", "normalized_shape", "weight", "eps"),
            F.group_norm: ("input", "num_groups", "weight", "bias", "eps"),
        }[function]
        settings = {**dict(zip(names, args, strict=False)), **given}
        axis = 1 if function is F.group_norm else -1
        x = settings.pop("input")
        for name in ("weight", "bias"):
            if settings.get(name) is not None:
                settings[name] = settings[name].flatten()[kept]
        if "normalized_shape" in settings:
            settings["normalized_shape"] = (len(kept),)
        normed = function(x.index_select(axis, kept), **settings)
        return torch.zeros_like(x).index_copy(axis, kept, normed)
