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
from contextlib import AbstractContextManager, ExitStack
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from limbeck.compress.method import CalibrationContext, Change, apply
from limbeck.compress.trace import first_batch, predict
from limbeck.core.samples import select_samples
from limbeck.evaluate.flops import parameters

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
    """Return how a pruned model differs from the model with the same channels set to zero."""

    def candidate(base: nn.Module) -> nn.Module:
        values = dict(tensors_of(base))
        pruned = _changed(base, change)
        with torch.no_grad():
            for name, tensor in tensors_of(pruned):
                tensor.copy_(values[name].flatten()[kept[name]])
        return pruned

    def reference(base: nn.Module) -> AbstractContextManager[object]:
        smaller: dict[int, Tensor] = {}
        with torch.no_grad():
            for name, tensor in tensors_of(base):
                if kept[name].numel() < tensor.numel():
                    mask = torch.zeros(tensor.numel(), dtype=torch.bool, device=tensor.device)
                    mask[kept[name].flatten()] = True
                    tensor.masked_fill_(~mask.view(tensor.shape), 0.0)
                    smaller[id(tensor)] = kept[name].flatten()
        return _NormOverKept(smaller)

    return _departs(model, candidate, reference, work)


def departs_from_bypassed(
    model: nn.Module, change: Change, layers: Iterable[str], work: CalibrationContext
) -> str:
    """Return how a model without some layers differs from the model with those layers bypassed."""

    def reference(replace: Callable[..., Any]) -> Callable[[nn.Module], ExitStack]:
        def hooked(base: nn.Module) -> ExitStack:
            hooks = ExitStack()
            for path in layers:
                layer = base.get_submodule(path)
                hooks.enter_context(layer.register_forward_hook(replace, with_kwargs=True))
            return hooks

        return hooked

    # Where the residual sum is outside of the layer, the layer's output is removed instead.
    differences = [
        _departs(model, lambda base: _changed(base, change), reference(replace), work)
        for replace in (_bypass, _zero)
    ]
    return "" if "" in differences else differences[0]


def _changed(base: nn.Module, change: Change) -> nn.Module:
    """Copy a model, and apply a change that was written as JSON to the copy."""
    changed = copy.deepcopy(base)
    apply(changed, [json.loads(json.dumps(change))])
    return changed


def _zero(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    if isinstance(output, tuple):
        return (torch.zeros_like(output[0]), *output[1:])
    return torch.zeros_like(output)


def _bypass(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    first = next(value for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
    return (first, *output[1:]) if isinstance(output, tuple) else first


Candidate: TypeAlias = Callable[[nn.Module], nn.Module]
Reference: TypeAlias = Callable[[nn.Module], AbstractContextManager[object]]


def _departs(
    model: nn.Module, candidate: Candidate, reference: Reference, work: CalibrationContext
) -> str:
    """Compare two modified models, with the original and perturbed weights, in float64."""
    dtypes = [torch.float64] if parameters(model) <= DOUBLE else []
    problem = ""
    for dtype in [*dtypes, torch.float32]:
        try:
            return _compare(model, candidate, reference, work, dtype)
        # The model is third-party code, which need not run in float64.
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
    return problem


def _compare(
    model: nn.Module,
    candidate: Candidate,
    reference: Reference,
    work: CalibrationContext,
    dtype: torch.dtype,
) -> str:
    rows = select_samples(first_batch(work), work.axes, slice(ROWS))
    generator = torch.Generator().manual_seed(work.seed)
    inputs = [_cast(rows, dtype), _cast(_random_rows(rows, generator), dtype)]
    for weights in ("", " with weights perturbed at random"):
        base = copy.deepcopy(model)
        for _, tensor in tensors_of(base):
            tensor.data = tensor.data.to(dtype)
        if weights:
            _perturb(base, generator)
        pruned = candidate(base)
        outputs = [_predict(pruned, batch, work) for batch in inputs]
        with reference(base):
            expected = [_predict(base, batch, work) for batch in inputs]
        for want, got in zip(expected, outputs, strict=True):
            if want.shape != got.shape:
                return f"outputs of shape {list(got.shape)}, not {list(want.shape)}"
            if weights and not want.isfinite().all():
                continue  # weights that the model cannot run with
            size, error = float(want.abs().max()), float((want - got).abs().max())
            if not error <= TOLERANCES[dtype] * max(size, 1e-12):
                return f"outputs differ by {error:.2g} of {size:.2g}{weights}"
    return ""


def _predict(model: nn.Module, rows: Mapping[str, Tensor], work: CalibrationContext) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return predict(model, rows, work).double()


def _cast(rows: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in rows.items()
    }


def _random_rows(rows: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Draw random values of the rows' scale; integers (tokens, masks) stay."""

    def one(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor
        noise = torch.randn(tensor.shape, generator=generator).to(tensor)
        return noise * tensor.std().nan_to_num(1.0).clamp_min(0.1) + tensor.mean()

    return {name: one(tensor) for name, tensor in rows.items()}


@torch.no_grad()
def _perturb(model: nn.Module, generator: torch.Generator) -> None:
    """Perturb weights and running statistics at random, at about their own scale."""
    seen: set[int] = set()
    for name, tensor in tensors_of(model):
        statistic = name.endswith(("running_mean", "running_var"))
        if id(tensor) in seen or not (isinstance(tensor, nn.Parameter) or statistic):
            continue
        seen.add(id(tensor))
        deviation = float(tensor.std()) if tensor.numel() > 1 else 0.0
        size = deviation or 0.3 * float(tensor.abs().mean()) or 0.1
        tensor.add_(size * torch.randn(tensor.shape, generator=generator).to(tensor))
        if name.endswith("running_var"):
            tensor.abs_().add_(0.1)


NORMS: dict[Callable[..., Tensor], tuple[str, ...]] = {
    F.layer_norm: ("input", "normalized_shape", "weight", "bias", "eps"),
    F.rms_norm: ("input", "normalized_shape", "weight", "eps"),
    F.group_norm: ("input", "num_groups", "weight", "bias", "eps"),
}
"""Norms over channels, with the names of their arguments."""


class _NormOverKept(TorchFunctionMode):
    """A torch function mode that computes norms with statistics of the remaining channels."""

    def __init__(self, kept: Mapping[int, Tensor]) -> None:
        super().__init__()
        self._kept = kept  # the remaining entries of a norm's weight, by the identity of the weight

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        settings = {**dict(zip(NORMS.get(function, ()), args, strict=False)), **(kwargs or {})}
        kept = self._kept.get(id(settings.get("weight"))) if function in NORMS else None
        if kept is None:
            return function(*args, **(kwargs or {}))
        axis = 1 if function is F.group_norm else -1
        x = settings.pop("input")
        for name in ("weight", "bias"):
            if settings.get(name) is not None:
                settings[name] = settings[name].flatten()[kept]
        if "normalized_shape" in settings:
            settings["normalized_shape"] = (len(kept),)
        normed = function(x.index_select(axis, kept), **settings)
        return torch.zeros_like(x).index_copy(axis, kept, normed)
