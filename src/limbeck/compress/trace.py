"""Call trace of one sample: the layers called, their inputs and their FLOPs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from limbeck.compress.method import CalibrationContext
from limbeck.errors import InputError, Problem, did_you_mean
from limbeck.evaluate.flops import evaluating, flops


@dataclass(frozen=True)
class CallTrace:
    """The call trace of one sample through a model.

    Attributes:
        operations: FLOPs; a multiply-add counts as two.
        inputs: Inputs of each layer by path: one tensor per call, all zeros.
    """

    operations: int
    inputs: Mapping[str, tuple[Tensor, ...]]


def first_batch(work: CalibrationContext) -> Mapping[str, Tensor]:
    """Return the first batch of samples.

    Raises:
        InputError: There is no sample.
    """
    for batch in work.batches():
        return batch
    raise InputError(Problem("calibration", "no batch", "at least one batch of samples"))


def trace(model: nn.Module, paths: Iterable[str], work: CalibrationContext) -> CallTrace:
    """Run one sample through a model in evaluation mode, and record its calls.

    Args:
        model: Not modified.
        paths: The layers to trace.
        work: The sample and the forward function.

    Raises:
        InputError: There is no sample.
    """
    seen: dict[str, list[Tensor]] = {path: [] for path in paths}

    def watch(path: str) -> torch.utils.hooks.RemovableHandle:
        def note(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
            seen[path].append(torch.zeros_like((*args, *kwargs.values())[0]))

        return model.get_submodule(path).register_forward_pre_hook(note, with_kwargs=True)

    sample = {name: tensor[:1] for name, tensor in first_batch(work).items()}
    handles = [watch(path) for path in seen]
    try:
        operations = flops(model, _Door(work, tuple(sample)), sample)
    finally:
        for handle in handles:
            handle.remove()
    return CallTrace(operations, {path: tuple(inputs) for path, inputs in seen.items()})


def operations(module: nn.Module, inputs: Iterable[Tensor]) -> int:
    """Count the FLOPs of a module's calls; a multiply-add counts as two.

    Example:
        >>> operations(nn.Linear(4, 3), [torch.zeros(1, 4), torch.zeros(1, 4)])
        48
    """
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with evaluating(module), torch.no_grad(), counter:
        for tensor in inputs:
            module(tensor)
    return int(counter.get_total_flops())


@dataclass(frozen=True)
class _Door:
    """An adapter that runs a model as a task with named batch tensors."""

    work: CalibrationContext
    inputs: tuple[str, ...]

    def outputs(self, model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"logits": self.work.forward(model, batch)}


def chosen(
    model: nn.Module,
    kinds: tuple[type[nn.Module], ...],
    layers: Iterable[str] | None = None,
    skip: Iterable[str] = (),
) -> dict[str, nn.Module]:
    """Return the layers of given types by path: all, or those matched by a path or pattern.

    Args:
        model: The model to search.
        kinds: The module types that the method supports.
        layers: Paths or patterns such as `deep.*`; None selects all.
        skip: Paths or patterns of layers to skip.

    Raises:
        InputError: A path or pattern matches none of the layers, or a weight is recomputed by a
            hook.

    Example:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> list(chosen(net, (nn.Linear,), skip=["2"]))
        ['0']
        >>> chosen(net, (nn.Linear,), layers=["1"])
        Traceback (most recent call last):
        ...
        limbeck.errors.InputError: layers: got '1'; allowed: 0, 2...
    """
    check_no_hooked_weights(model)
    fitting = {path: module for path, module in model.named_modules() if isinstance(module, kinds)}
    wanted = set(fitting) if layers is None else _named(fitting, layers, where="layers")
    left = _named(fitting, skip, where="skip")
    return {path: module for path, module in fitting.items() if path in wanted - left}


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


def sharing(model: nn.Module, *, two_names: bool = True) -> set[str]:
    """Return the paths of layers with a parameter that also exists at another path.

    Args:
        model: The model to search.
        two_names: Whether one module registered under two names counts.

    Example:
        >>> from torch import nn
        >>> one = nn.Linear(2, 2)
        >>> net = nn.Sequential(one, nn.Linear(2, 2), nn.Linear(2, 2))
        >>> net[2].weight = one.weight
        >>> sorted(sharing(net))
        ['0', '2']
    """
    named = list(model.named_parameters(remove_duplicate=False))
    if not two_names:
        first = {path for path, _ in model.named_modules()}
        named = [pair for pair in named if pair[0].rpartition(".")[0] in first]
    count = Counter(id(parameter) for _, parameter in named)
    owners = {name.rpartition(".")[0] for name, parameter in named if count[id(parameter)] > 1}
    return {owner.partition(".parametrizations.")[0] for owner in owners}


def _named(fitting: dict[str, nn.Module], patterns: Iterable[str], *, where: str) -> set[str]:
    found: set[str] = set()
    problems = []
    for pattern in patterns:
        matched = {path for path in fitting if fnmatchcase(path, pattern)}
        found |= matched
        if not matched:
            allowed = ", ".join(fitting) or "none: the model has no layer of this kind"
            problems.append(Problem(where, pattern, allowed, did_you_mean(pattern, fitting)))
    if problems:
        raise InputError(*problems)
    return found
