"""Normalisation of models: float32, allocated, with weights free of hooks that prevent a copy."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrizations, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from limbeck.errors import InputError, Problem

SHOWN = 8


@contextmanager
def keeping_defaults() -> Iterator[None]:
    """Restore torch's default dtype and gradient mode, which a builder may change."""
    dtype, gradients = torch.get_default_dtype(), torch.is_grad_enabled()
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(gradients)


def as_float32(model: nn.Module) -> list[str]:
    """Convert a model's floating-point parameters and buffers to float32, in place.

    Training computes in the recipe's `precision` from float32 weights (Micikevicius et al. 2018),
    and exports are float32 before compression. Return a note on tensors of another precision.

    Raises:
        InputError: Parameters are lazy, on the meta device, or quantised.

    Example:
        >>> import torch
        >>> as_float32(torch.nn.Linear(2, 2).bfloat16())
        ['the builder returned bfloat16 tensors; they are float32 in training and export']
    """
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    lazy = [name for name, one in tensors.items() if is_lazy(one)]
    if lazy:
        fix = "Call the model once on an example in the builder, or state the sizes (nn.Linear)."
        raise _error("lazy modules", lazy, "modules whose sizes are known", fix)
    meta = [name for name, one in tensors.items() if one.device.type == "meta"]
    if meta:
        fix = "Build it on the CPU: leave out torch.device('meta') or init_empty_weights."
        raise _error("tensors on the meta device", meta, "tensors with values", fix)
    tiny = ("float8", "float4")
    small = [
        n for n, t in tensors.items() if t.is_quantized or any(k in str(t.dtype) for k in tiny)
    ]
    if small:
        fix = "Load the original weights, and add a `quantize` stage."
        raise _error("quantised tensors", small, "float16, bfloat16, float32 or float64", fix)
    kinds = {one.dtype for one in tensors.values() if one.is_floating_point()} - {torch.float32}
    if not kinds:
        return []
    model.float()
    names = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))
    return [f"the builder returned {names} tensors; they are float32 in training and export"]


def _error(kind: str, names: list[str], allowed: str, fix: str) -> InputError:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return InputError(Problem("model", f"{kind}: {', '.join(names[:SHOWN])}{more}", allowed, fix))


def reparametrize(model: nn.Module) -> None:
    """Replace hooks of old `weight_norm` and `spectral_norm` by parametrizations, in place.

    The hooks store a computed weight as an attribute, which `copy.deepcopy` rejects. The outputs
    are unchanged.

    Raises:
        InputError: `torch.nn.utils.prune` masks a weight likewise.
    """
    for path, module in list(model.named_modules()):
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, WeightNorm):
                remove_weight_norm(module, hook.name)
                parametrizations.weight_norm(module, hook.name, hook.dim)
            elif isinstance(hook, SpectralNorm):
                _spectral_norm(module, hook)
            elif isinstance(hook, BasePruningMethod):
                fix = "Call torch.nn.utils.prune.remove(module, 'weight') in the builder."
                raise _error("masks of torch.nn.utils.prune", [path], "plain weights", fix)


def _spectral_norm(module: nn.Module, hook: SpectralNorm) -> None:
    name = hook.name
    original = getattr(module, f"{name}_orig").detach().clone()
    u, v = (getattr(module, f"{name}_{part}").detach().clone() for part in "uv")
    remove_spectral_norm(module, name)
    for number, hooked in list(module._load_state_dict_pre_hooks.items()):
        if "SpectralNorm" in type(getattr(hooked, "hook", hooked)).__name__:
            del module._load_state_dict_pre_hooks[number]  # torch does not remove it
    parametrizations.spectral_norm(module, name, hook.n_power_iterations, hook.eps, hook.dim)
    installed: Any = module.get_submodule(f"parametrizations.{name}")
    with torch.no_grad():
        installed.original.copy_(original)
        installed[0]._u.copy_(u)
        installed[0]._v.copy_(v)


def check_copies(model: nn.Module) -> None:
    """Check that a model can be copied, as averaging, compression and export do.

    Raises:
        InputError: The model cannot be copied: a module holds a non-leaf tensor, a lock, or a file.
    """
    try:
        copy.deepcopy(model)
    # A model's attributes may raise any exception when copied.
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        fix = f"copy.deepcopy raised {type(error).__name__}: {first[:200]}"
        allowed = "a module that copy.deepcopy copies"
        raise InputError(Problem("model", type(model).__name__, allowed, fix)) from error


SINGLE = """

_build_as_written = build


def build():
    "Build the module in float32, in which its weights are trained and saved."
    return _build_as_written().float()
"""
"""The end of a user model's architecture.py, since the builder may use another dtype."""

PLAIN = """

_build_parametrized = build


def build():
    "Build the module with plain weights, as they are saved: parametrizations are removed."
    from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm

    model = _build_parametrized()
    for module in list(model.modules()):
        for hook in list(module._forward_pre_hooks.values()):
            if type(hook).__name__ == "WeightNorm":
                remove_weight_norm(module, hook.name)
            elif type(hook).__name__ == "SpectralNorm":
                remove_spectral_norm(module, hook.name)
                for number, hooked in list(module._load_state_dict_pre_hooks.items()):
                    if "SpectralNorm" in type(getattr(hooked, "hook", hooked)).__name__:
                        del module._load_state_dict_pre_hooks[number]
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):
                parametrize.remove_parametrizations(module, name)
    return model
"""
"""The end of a user model's architecture.py, if its code mentions a weight norm."""
