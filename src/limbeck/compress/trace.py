"""Selection of a model's layers, and traces of its calls: their inputs and FLOPs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from limbeck.compress.method import CalibrationContext
from limbeck.core.modules import evaluating
from limbeck.core.samples import BATCH, select_samples
from limbeck.errors import InputError, Problem, did_you_mean
from limbeck.evaluate.flops import flops


def first_batch(work: CalibrationContext) -> Mapping[str, Tensor]:
    """Return the first batch of samples; raise InputError if there is none."""
    for batch in work.batches():
        return batch
    raise InputError(Problem("calibration", "no batch", "at least one batch of samples"))


def predict(model: nn.Module, batch: Mapping[str, Tensor], work: CalibrationContext) -> Tensor:
    """Compute a model's outputs for a batch, in evaluation mode without gradients."""
    with evaluating(model), torch.no_grad():
        return work.forward(model, batch)


def first_input(args: tuple[Tensor, ...], kwargs: Mapping[str, Tensor]) -> Tensor:
    """Return the first argument of a layer's call, positional or by keyword."""
    return (*args, *kwargs.values())[0]


@dataclass(frozen=True)
class _LogitsTask:
    """An adapter of the forward function to the tasks that FLOPs are counted for."""

    work: CalibrationContext
    inputs: Mapping[str, tuple[str | None, ...]]

    def outputs(self, model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"logits": self.work.forward(model, batch)}


def trace(
    model: nn.Module, paths: Iterable[str], work: CalibrationContext
) -> tuple[int, dict[str, list[Tensor]]]:
    """Run one sample through a model in evaluation mode, and record its calls.

    Returns:
        The FLOPs, where a multiply-add counts as two, and by path the inputs of the given layers:
        one tensor per call, all zeros.
    """
    inputs: dict[str, list[Tensor]] = {path: [] for path in paths}
    sample = select_samples(first_batch(work), work.axes, slice(1))
    with ExitStack() as hooks:
        for path, calls in inputs.items():

            def record(
                _: nn.Module,
                args: tuple[Tensor, ...],
                kwargs: dict[str, Tensor],
                calls: list[Tensor] = calls,
            ) -> None:
                calls.append(torch.zeros_like(first_input(args, kwargs)))

            layer = model.get_submodule(path)
            hooks.enter_context(layer.register_forward_pre_hook(record, with_kwargs=True))
        axes = {**dict.fromkeys(sample, (BATCH,)), **work.axes}
        return flops(model, _LogitsTask(work, axes), sample), inputs


def operations(module: nn.Module, inputs: Iterable[Tensor]) -> int:
    """Count the FLOPs of a module's calls; a multiply-add counts as two."""
    counter = FlopCounterMode(display=False)
    with evaluating(module), torch.no_grad(), counter:
        for tensor in inputs:
            module(tensor)
    return int(counter.get_total_flops())


def select_layers(
    model: nn.Module,
    kinds: tuple[type[nn.Module], ...],
    layers: Iterable[str] | None = None,
    skip: Iterable[str] = (),
) -> dict[str, nn.Module]:
    """Return the layers of given types by path: all, or those matched by a path or pattern.

    Raises:
        InputError: A path or pattern matches none of the layers, or a weight is recomputed by a
            hook.

    Example:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> list(select_layers(net, (nn.Linear,), skip=["2"]))
        ['0']
        >>> select_layers(net, (nn.Linear,), layers=["1"])
        Traceback (most recent call last):
        ...
        limbeck.errors.InputError: layers: got '1'; allowed: 0, 2...
    """
    check_no_hooked_weights(model)
    found = {path: module for path, module in model.named_modules() if isinstance(module, kinds)}
    wanted = set(found) if layers is None else _matching(found, layers, where="layers")
    skipped = _matching(found, skip, where="skip")
    return {path: module for path, module in found.items() if path in wanted - skipped}


def _matching(paths: Collection[str], patterns: Iterable[str], *, where: str) -> set[str]:
    matches = {pattern: {p for p in paths if fnmatchcase(p, pattern)} for pattern in patterns}
    allowed = ", ".join(paths) or "none: the model has no layer of this kind"
    problems = [
        Problem(where, pattern, allowed, did_you_mean(pattern, paths))
        for pattern, matched in matches.items()
        if not matched
    ]
    if problems:
        raise InputError(*problems)
    return {path for matched in matches.values() for path in matched}


def check_no_hooked_weights(model: nn.Module) -> None:
    """Check that no weight is recomputed by a hook before each forward pass.

    torch's old `weight_norm` and `spectral_norm` do so: they would undo a change of the weight, and
    such a module cannot be copied.

    Raises:
        InputError: Some weights are; the error lists them.

    Example:
        >>> from torch import nn
        >>> check_no_hooked_weights(nn.utils.spectral_norm(nn.Linear(2, 2)))
        Traceback (most recent call last):
        ...
        limbeck.errors.InputError: model: got 'weights recomputed by a hook: weight'; ...
    """
    hooked = [
        ".".join(filter(None, (path, name)))
        for path, module in model.named_modules()
        for name in _hooked(module)
    ]
    if hooked:
        fix = (
            "Use torch.nn.utils.parametrizations (weight_norm, spectral_norm) in the model, or "
            "remove the norm (torch.nn.utils.remove_weight_norm) and keep the plain weight."
        )
        given = f"weights recomputed by a hook: {', '.join(hooked)}"
        raise InputError(Problem("model", given, "weights that are parameters", fix))


def _hooked(module: nn.Module) -> list[str]:
    """Return the names of the weights that old-style norms recompute by hooks."""
    names = {
        name.removesuffix(suffix)
        for name in module._parameters
        for suffix in ("_g", "_v", "_orig")
        if name.endswith(suffix)
    }
    return sorted(name for name in names if name in vars(module) and name not in module._parameters)


def shared_layers(model: nn.Module, *, two_names: bool = True) -> set[str]:
    """Return the paths of layers with a parameter that also exists at another path.

    With `two_names`, one module registered under two names counts.
    """
    named = list(model.named_parameters(remove_duplicate=False))
    if not two_names:
        first = {path for path, _ in model.named_modules()}
        named = [pair for pair in named if pair[0].rpartition(".")[0] in first]
    count = Counter(id(parameter) for _, parameter in named)
    owners = {name.rpartition(".")[0] for name, parameter in named if count[id(parameter)] > 1}
    return {owner.partition(".parametrizations.")[0] for owner in owners}
