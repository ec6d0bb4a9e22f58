"""Dependency groups of channels, found by Torch-Pruning."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.compress.method import CalibrationContext, CompressError
from limbeck.compress.structure import Contribution, two_samples
from limbeck.compress.trace import select_layers
from limbeck.core.imports import require

CONVOLUTIONS = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)
LAYERS = (*CONVOLUTIONS, nn.Linear)
"""Layers whose output channels can be pruned."""

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
UNSUPPORTED = {nn.RNNBase: "recurrent", nn.MultiheadAttention: "attention in one piece"}
"""Layers that are not pruned, with all layers coupled to their inputs or outputs."""

PRODUCTS = ("bmmbackward", "scaleddotproduct")
"""Autograd's names of the backward functions of products of activations."""

STEPS = 6_000
"""Maximum number of dependencies followed per layer; DenseNet-121 takes 900."""

ALL_STEPS = 300_000
"""Maximum number of dependencies per model; beyond it, the remaining layers are skipped."""


class StepLimitError(Exception):
    """Torch-Pruning follows dependencies without terminating."""


class StepLimit:
    """A bound on the steps of Torch-Pruning's dependency search.

    Where channels form a cycle and return at other indices (through a reshape, or a split within
    a recurrence), the search does not terminate.
    """

    def __init__(self, model: nn.Module) -> None:
        self._max_indices = 2 * max(
            (max(p.shape, default=1) for p in model.parameters()), default=1
        )
        self._steps = self._all_steps = 0

    def begin(self) -> None:
        """Reset the count for the next layer."""
        self._steps = 0

    def limit(self, nodes: Iterable[Any]) -> None:
        """Count the dependencies followed in a graph from now on."""
        for node in nodes:
            for dependency in node.dependencies:
                triggered = dependency.is_triggered_by
                dependency.is_triggered_by = self.counted(triggered, lambda _: 0)
                dependency.index_mapping = _CountedMappings(dependency.index_mapping, self)

    def counted(
        self, function: Callable[[Any], Any], indices: Callable[[Any], int]
    ) -> Callable[[Any], Any]:
        """Wrap a function so that each call counts as one step.

        Its calls raise StepLimitError after too many steps, or for more indices than a layer can
        have; `indices` counts those of an argument.
        """

        def call(argument: Any) -> Any:
            self._steps += 1
            self._all_steps += 1
            too_many = self._steps > STEPS or self._all_steps > ALL_STEPS
            if too_many or indices(argument) > self._max_indices:
                raise StepLimitError(
                    "Torch-Pruning does not terminate: they form a cycle, and return at other "
                    "indices"
                )
            return function(argument)

        return call


class _CountedMappings(list[Any]):
    """The index mappings of a dependency, with each call counted."""

    def __init__(self, mappings: Iterable[Any], limit: StepLimit) -> None:
        super().__init__(mappings)
        self._limit = limit

    def __iter__(self) -> Iterator[Any]:
        return (mapping and self._limit.counted(mapping, len) for mapping in super().__iter__())


@dataclass(frozen=True)
class DependencyGroup:
    """A dependency group of channels: a layer's outputs, tensors added to them, and their readers.

    Attributes:
        layers: The paths of all layers whose outputs are in the group.
        channels: Number of channels.
        blocks: Number of channels per part, which grouped convolutions and norms lose at the same
            index of every group.
        group: Torch-Pruning's group.
        skip_reason: Why they cannot be pruned; empty if they can.
    """

    layers: tuple[str, ...]
    channels: int
    blocks: int
    group: Any
    skip_reason: str

    @property
    def parts(self) -> int:
        """Return the number of parts that can be removed independently."""
        return self.channels // self.blocks

    def step(self, round_to: int) -> int:
        """Return the number of parts that hold a multiple of `round_to` channels."""
        return round_to // math.gcd(round_to, self.blocks)

    def total(self, contribution: Contribution) -> Tensor:
        """Sum the contributions of the group's weights per part, `[parts]`."""
        sums = torch.zeros(self.channels, dtype=torch.float64)
        for dependency, indices, roots in _items(self.group):
            layer = dependency.layer
            if isinstance(layer, LAYERS):
                is_output = _is_output(self.group, dependency)
                each = _per_channel(layer, contribution[layer.weight], is_output)
                sums.index_add_(0, roots, each.double().abs().cpu()[indices])
        return self._by_part(sums)

    def scales(self) -> Tensor | None:
        """Compute the mean |γ| of each part's batch norms, `[parts]`; None without one."""
        scales = [
            torch.zeros(self.channels, dtype=torch.float64).index_add_(
                0, roots, dependency.layer.weight.detach().double().abs().cpu()[indices]
            )
            for dependency, indices, roots in _items(self.group)
            if isinstance(dependency.layer, BATCH_NORMS) and dependency.layer.affine
        ]
        return self._by_part(torch.stack(scales).mean(0)) if scales else None

    def _by_part(self, channels: Tensor) -> Tensor:
        return channels.view(self.blocks, -1).mean(0)


class Channels:
    """All channels of a model to prune."""

    def __init__(self, model: nn.Module, work: CalibrationContext) -> None:
        self._pruning = require("torch_pruning", extra="prune")
        self._model = model
        self._limit = StepLimit(model)
        self._output_function: Any = None
        self._graph = self._trace(work)
        self._remaining: dict[str, list[int]] = {}
        self._single: dict[str, DependencyGroup] = {}

    @cached_property
    def groups(self) -> dict[str, DependencyGroup]:
        """Return every dependency group, by the path of a layer whose outputs it has."""
        groups: dict[str, DependencyGroup] = {}
        seen: set[str] = set()
        for layer in list(self._graph.module2node):
            path = self._graph._module2name.get(layer, "")
            if isinstance(layer, LAYERS) and path not in seen:
                groups[path] = self._group(path, layer)
                seen |= set(groups[path].layers)
        return groups

    def remove(self, parts: Mapping[str, Iterable[int]]) -> None:
        """Remove parts of channels, in place; indices are those before any removal."""
        for path, removed in parts.items():
            if "groups" in vars(self):
                group = self.groups[path]
            else:  # without a search from all other layers
                layer = self._model.get_submodule(path)
                group = self._single.setdefault(path, self._group(path, layer))
            left = self._remaining.setdefault(path, list(range(group.channels)))
            gone = {part + block * group.parts for part in removed for block in range(group.blocks)}
            indices = [index for index, channel in enumerate(left) if channel in gone]
            if indices:
                self._limit.begin()
                root = group.group[0].dep
                _prune(self._graph.get_pruning_group(root.layer, root.handler, indices))
                self._remaining[path] = [channel for channel in left if channel not in gone]

    def _trace(self, work: CalibrationContext) -> Any:
        def forward(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
            output = work.forward(model, batch)
            self._output_function = output.grad_fn
            return output

        graph = self._pruning.DependencyGraph()
        samples = dict(two_samples(work))
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            try:
                graph.build_dependency(self._model, samples, forward_fn=forward, verbose=False)
            except Exception as error:  # it cannot trace every model, and raises many types
                raise CompressError(
                    f"Torch-Pruning cannot trace the model ({type(error).__name__}: {error}). It "
                    "does not support every operation between layers, such as a channel shuffle "
                    "after a split (ShuffleNet). Use a method that keeps the channels: prune "
                    "single weights (`magnitude`), factorise (`svd`) or quantise."
                ) from error
        self._limit.limit(graph.module2node.values())
        return graph

    def _group(self, path: str, layer: nn.Module) -> DependencyGroup:
        pruner = self._graph.get_pruner_of_module(layer)
        channels = pruner.get_out_channels(layer)
        self._limit.begin()
        try:
            group = self._graph.get_pruning_group(layer, pruner.prune_out_channels, range(channels))
        except StepLimitError as error:
            return DependencyGroup((path,), channels, 1, None, str(error))
        except Exception as error:  # it cannot trace every operator, and raises many types
            reason = f"Torch-Pruning cannot trace them ({type(error).__name__}: {error})"
            return DependencyGroup((path,), channels, 1, None, reason)
        items = list(_items(group))
        outputs = tuple(
            self._graph._module2name[dependency.layer]
            for dependency, _, _ in items
            if isinstance(dependency.layer, LAYERS) and _is_output(group, dependency)
        )
        blocks = math.lcm(*(_groups(dependency.layer) for dependency, _, _ in items))
        reason = self._skip_reason(group)
        if not reason and channels <= blocks:
            reason = "there are no channels to remove"
        return DependencyGroup(outputs, channels, blocks, group, reason)

    def _skip_reason(self, group: Any) -> str:
        output_type = self._pruning.ops.OPTYPE.OUTPUT
        for dependency, indices, roots in _items(group):
            layer, node = dependency.layer, dependency.target
            path = self._graph._module2name.get(layer, "")
            is_output = _is_output(group, dependency)
            is_last = node.grad_fn is self._output_function and is_output
            if node.type == output_type or is_last:
                return "it computes the model's output"
            for kind, description in UNSUPPORTED.items():
                if isinstance(layer, kind):
                    return f"coupled to {path}, which is {description}"
            if not path and any(product in node.grad_fn.name().lower() for product in PRODUCTS):
                return "it is a factor of a product of activations: prune attention heads instead"
            get = self._graph.get_out_channels if is_output else self._graph.get_in_channels
            channels = get(node)
            if channels is not None and len(indices) and int(indices.max()) >= channels:
                return f"Torch-Pruning cannot trace them (to {path or node.name})"
            if (roots < 0).any():
                return f"the coupled channels of {path or node.name} are unknown"
            if _groups(layer) > 1 and (not torch.equal(indices, roots) or _is_fan_in(layer)):
                return f"the groups of {path} are not those of the channels"
        return ""


def _prune(group: Any) -> None:
    # Torch-Pruning 1.6 reorders the weights of a layer norm when it keeps few.
    norms = {
        dependency.layer: (dict(dependency.layer.named_parameters()), set(indices.tolist()))
        for dependency, indices, _ in _items(group)
        if isinstance(dependency.layer, nn.LayerNorm)
    }
    group.prune(record_history=False)
    for norm, (weights, gone) in norms.items():
        for name, weight in weights.items():
            kept = [index for index in range(weight.shape[-1]) if index not in gone]
            setattr(norm, name, nn.Parameter(weight.detach()[..., kept]))


def _items(group: Any) -> Iterator[tuple[Any, Tensor, Tensor]]:
    """Yield what is removed: the module, its indices, and the root layer's indices of them."""
    for item in group.items:
        roots = [-1 if root is None else root for root in item.root_idxs]
        yield item.dep, torch.tensor(item.idxs), torch.tensor(roots)


def _is_output(group: Any, dependency: Any) -> bool:
    return group._DG.is_out_channel_pruning_fn(dependency.handler)


def _groups(layer: object) -> int:
    """Count the groups that must stay equal; those of a depthwise convolution need not."""
    if isinstance(layer, nn.GroupNorm):
        return layer.num_groups
    if isinstance(layer, CONVOLUTIONS):
        depthwise = layer.groups == layer.in_channels == layer.out_channels
        return 1 if depthwise else layer.groups
    return 1


def _is_fan_in(layer: object) -> bool:
    """Return whether each group has one output of several inputs: depthwise to Torch-Pruning."""
    return isinstance(layer, CONVOLUTIONS) and layer.groups == layer.out_channels


def _per_channel(layer: nn.Module, weights: Tensor, is_output: bool) -> Tensor:
    """Sum a weight tensor over all axes except the output or input channels."""
    if not isinstance(layer, CONVOLUTIONS):
        return weights.sum(1 if is_output else 0)
    if is_output != layer.transposed:
        return weights.flatten(1).sum(1)
    return weights.unflatten(0, (layer.groups, -1)).flatten(3).sum((1, 3)).flatten()


@dataclass(frozen=True)
class Selection:
    """The channels that may be pruned.

    Attributes:
        groups: The groups that may be pruned, by the path of a layer whose outputs they are.
        layers: The paths of layers whose outputs were selected.
        skipped: Why a layer's outputs are skipped, by its path.
    """

    groups: Mapping[str, DependencyGroup]
    layers: tuple[str, ...]
    skipped: Mapping[str, str]

    def count(self, gone: Mapping[str, list[int]]) -> str:
        """Return the number of removed channels, as text."""
        removed = sum(len(parts) * self.groups[path].blocks for path, parts in gone.items())
        total = sum(group.channels for group in self.groups.values())
        groups = f"{len(gone)} of {len(self.groups)} groups"
        return f"{removed:,} of {total:,} channels removed from {groups}"

    def notes(self, gone: Mapping[str, list[int]], *, named: bool) -> tuple[str, ...]:
        """Return notes on the skipped layers with reasons, and on unnamed pruned layers."""
        skipped = dict(self.skipped)
        for path, group in self.groups.items():
            if path not in gone:
                reason = f"the share of {group.channels} channels rounds to none"
                skipped |= {layer: reason for layer in group.layers if layer in self.layers}
        pruned = [layer for path in gone for layer in self.groups[path].layers]
        coupled = [layer for layer in pruned if layer not in self.layers]
        note = f"also pruned, coupled to the selected layers: {', '.join(coupled)}"
        return (*by_reason(skipped), *([note] if named and coupled else ()))


def select_groups(
    model: nn.Module,
    groups: Mapping[str, DependencyGroup],
    layers: Iterable[str] | None,
    skip: Iterable[str],
    broken: Mapping[str, str],
) -> Selection:
    """Select the channels of the given layers, or of all, that can be pruned."""
    wanted = tuple(select_layers(model, LAYERS, layers, skip))
    excluded = set(select_layers(model, LAYERS)) - set(select_layers(model, LAYERS, None, skip))
    taken, reasons = {}, dict.fromkeys(wanted, "the model's output does not depend on it")
    for path, group in groups.items():
        fixed = [layer for layer in group.layers if layer in excluded]
        reason = group.skip_reason or broken.get(path, "")
        if fixed and not reason:
            reason = f"coupled to {', '.join(fixed)}, which is skipped"
        named = [layer for layer in group.layers if layer in wanted]
        if named and not reason:
            taken[path] = group
        reasons |= dict.fromkeys(named, reason)
    skipped = {layer: reason for layer, reason in reasons.items() if reason}
    skipped |= {
        path: description
        for path, module in model.named_modules()
        for kind, description in UNSUPPORTED.items()
        if isinstance(module, kind)
    }
    if not taken:
        raise CompressError(f"no channel can be pruned. {'; '.join(by_reason(skipped))}")
    return Selection(taken, wanted, skipped)


def by_reason(skipped: Mapping[str, str]) -> tuple[str, ...]:
    """Format the skipped layers, one line per reason.

    Example:
        >>> by_reason({"a": "small", "b": "odd", "c": "small"})
        ('skipped: a, c (small)', 'skipped: b (odd)')
    """
    reasons: dict[str, list[str]] = {}
    for path, reason in skipped.items():
        reasons.setdefault(reason, []).append(path)
    return tuple(f"skipped: {', '.join(paths)} ({reason})" for reason, paths in reasons.items())
