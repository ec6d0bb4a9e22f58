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
from limbeck.compress.trace import chosen
from limbeck.core.imports import require

CONVOLUTIONS = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)
LAYERS = (*CONVOLUTIONS, nn.Linear)
"""Layers whose output channels can be pruned."""

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
WHOLE = {nn.RNNBase: "recurrent", nn.MultiheadAttention: "attention in one piece"}
"""Layers that are not pruned, with all layers coupled to their inputs or outputs."""

PRODUCTS = ("bmmbackward", "scaleddotproduct")
"""Autograd's names of the backward functions of products of activations."""

STEPS = 6_000
"""Maximum number of dependencies followed per layer; DenseNet-121 takes 900."""

ALL_STEPS = 300_000
"""Maximum number of dependencies per model; beyond it, the remaining layers are skipped."""


class EffortError(Exception):
    """Torch-Pruning follows dependencies without terminating."""


class Effort:
    """A bound on the work of Torch-Pruning's dependency search.

    Where channels form a cycle and return at other indices (through a reshape, or a split within
    a recurrence), the search does not terminate.

    Args:
        model: Its largest axis bounds the number of indices of a layer.
    """

    def __init__(self, model: nn.Module) -> None:
        self._most = 2 * max((max(one.shape, default=1) for one in model.parameters()), default=1)
        self._steps = self._all = 0

    def begin(self) -> None:
        """Reset the count for the next layer."""
        self._steps = 0

    def limit(self, nodes: Iterable[Any]) -> None:
        """Count the dependencies followed in a graph from now on."""
        for node in nodes:
            for dependency in node.dependencies:
                dependency.is_triggered_by = self._counted(dependency.is_triggered_by)
                dependency.index_mapping = _Mappings(dependency.index_mapping, self)

    def spend(self, places: int = 0) -> None:
        """Count one step.

        Raises:
            EffortError: There were too many steps, or more indices than a layer can have.
        """
        self._steps += 1
        self._all += 1
        if self._steps > STEPS or self._all > ALL_STEPS or places > self._most:
            raise EffortError(
                "Torch-Pruning does not come to an end with them: they go in a circle, and come "
                "back in other places"
            )

    def _counted(self, triggered: Callable[[Any], bool]) -> Callable[[Any], bool]:
        def counted(handler: Any) -> bool:
            self.spend()
            return triggered(handler)

        return counted


class _Mappings(list[Any]):
    """The index mappings of a dependency, with each call counted."""

    def __init__(self, mappings: Iterable[Any], effort: Effort) -> None:
        super().__init__(mappings)
        self._effort = effort

    def __iter__(self) -> Iterator[Any]:
        return (one and self._counted(one) for one in super().__iter__())

    def _counted(self, mapping: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def counted(places: Any) -> Any:
            self._effort.spend(len(places))
            return mapping(places)

        return counted


@dataclass(frozen=True)
class DependencyGroup:
    """A dependency group of channels: a layer's outputs, tensors added to them, and their readers.

    Attributes:
        path: The layer whose outputs they are; in a group of several, the first found.
        layers: The paths of all layers whose outputs are in the group.
        channels: Number of channels.
        blocks: Number of channels per part, which grouped convolutions and norms lose at the same
            index of every group.
        group: Torch-Pruning's group.
        skip_reason: Why they cannot be pruned; empty if they can.
    """

    path: str
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
        found = torch.zeros(self.channels, dtype=torch.float64)
        for dependency, places, roots in _items(self.group):
            if not isinstance(dependency.layer, LAYERS):
                continue
            weights = contribution[dependency.layer.weight]
            each = _per_channel(dependency.layer, weights, _is_output(self.group, dependency))
            found.index_add_(0, roots, each.double().abs().cpu()[places])
        return self._by_part(found)

    def scales(self) -> Tensor | None:
        """Compute the mean |γ| of each part's batch norms, `[parts]`; None without one."""
        found = [
            torch.zeros(self.channels, dtype=torch.float64).index_add_(
                0, roots, dependency.layer.weight.detach().double().abs().cpu()[places]
            )
            for dependency, places, roots in _items(self.group)
            if isinstance(dependency.layer, BATCH_NORMS) and dependency.layer.affine
        ]
        return self._by_part(torch.stack(found).mean(0)) if found else None

    def _by_part(self, channels: Tensor) -> Tensor:
        return channels.view(self.blocks, -1).mean(0)


class Channels:
    """All channels of a model to prune.

    Args:
        model: The model, with gradients for its weights; modified in place.
        work: The two samples and the forward function.

    Raises:
        CompressError: Torch-Pruning cannot trace the model.
    """

    def __init__(self, model: nn.Module, work: CalibrationContext) -> None:
        self._pruning = require("torch_pruning", extra="prune")
        self._model = model
        self._answers: list[Tensor] = []
        self._effort = Effort(self._model)
        self._graph = self._trace(work)
        self._places: dict[str, list[int]] = {}
        self._single: dict[str, DependencyGroup] = {}

    @cached_property
    def tied(self) -> dict[str, DependencyGroup]:
        """Return every dependency group, by the path of a layer whose outputs it has."""
        found: dict[str, DependencyGroup] = {}
        seen: set[str] = set()
        for layer in list(self._graph.module2node):
            path = self._graph._module2name.get(layer, "")
            if isinstance(layer, LAYERS) and path not in seen:
                found[path] = self._of(path, layer)
                seen |= set(found[path].layers)
        return found

    def cut(self, parts: Mapping[str, Iterable[int]]) -> None:
        """Remove parts of channels, in place; indices are those before any removal."""
        for path, some in parts.items():
            tied = self._found(path)
            left = self._places.setdefault(path, list(range(tied.channels)))
            gone = {part + block * tied.parts for part in some for block in range(tied.blocks)}
            now = [place for place, channel in enumerate(left) if channel in gone]
            if now:
                self._effort.begin()
                root = tied.group[0].dep
                self._cut(self._graph.get_pruning_group(root.layer, root.handler, now))
                self._places[path] = [channel for channel in left if channel not in gone]

    def _found(self, path: str) -> DependencyGroup:
        """Return the dependency group of a layer, without a search from all other layers."""
        if "tied" in vars(self):
            return self.tied[path]
        return self._single.setdefault(path, self._of(path, self._model.get_submodule(path)))

    def _cut(self, group: Any) -> None:
        # Torch-Pruning 1.6 reorders the weights of a layer norm when it keeps few.
        norms = {
            dependency.layer: (dict(dependency.layer.named_parameters()), set(places.tolist()))
            for dependency, places, _ in _items(group)
            if isinstance(dependency.layer, nn.LayerNorm)
        }
        group.prune(record_history=False)
        for norm, (weights, gone) in norms.items():
            for name, weight in weights.items():
                kept = [place for place in range(weight.shape[-1]) if place not in gone]
                setattr(norm, name, nn.Parameter(weight.detach()[..., kept]))

    def _trace(self, work: CalibrationContext) -> Any:
        def forward(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
            self._answers[:] = [work.forward(model, batch)]
            return self._answers[0]

        graph = self._pruning.DependencyGraph()
        samples = dict(two_samples(work))
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            try:
                graph.build_dependency(self._model, samples, forward_fn=forward, verbose=False)
                self._effort.limit(graph.module2node.values())
                return graph
            except Exception as error:  # it cannot trace every model, and raises many types
                raise CompressError(
                    f"Torch-Pruning cannot follow the model ({type(error).__name__}: {error})"
                ) from error

    def _of(self, path: str, layer: nn.Module) -> DependencyGroup:
        pruner = self._graph.get_pruner_of_module(layer)
        channels = pruner.get_out_channels(layer)
        self._effort.begin()
        try:
            group = self._graph.get_pruning_group(layer, pruner.prune_out_channels, range(channels))
        except EffortError as error:
            return DependencyGroup(path, (path,), channels, 1, None, str(error))
        except Exception as error:  # it cannot trace every operator, and raises many types
            why_not = f"Torch-Pruning cannot follow them ({type(error).__name__}: {error})"
            return DependencyGroup(path, (path,), channels, 1, None, why_not)
        outputs = [
            self._graph._module2name[dependency.layer]
            for dependency, _, _ in _items(group)
            if isinstance(dependency.layer, LAYERS) and _is_output(group, dependency)
        ]
        blocks = math.lcm(*(_groups(dependency.layer) for dependency, _, _ in _items(group)))
        why_not = self._why_not(group) or ("nothing to spare" if channels <= blocks else "")
        return DependencyGroup(path, tuple(outputs), channels, blocks, group, why_not)

    def _why_not(self, group: Any) -> str:
        end, kinds = self._answers[0].grad_fn, self._pruning.ops.OPTYPE
        for dependency, places, roots in _items(group):
            layer, node = dependency.layer, dependency.target
            name = self._graph._module2name.get(layer, "")
            if node.type == kinds.OUTPUT or (node.grad_fn is end and _is_output(group, dependency)):
                return "it makes the model's answer"
            for kind, word in WHOLE.items():
                if isinstance(layer, kind):
                    return f"tied to {name}, which is {word}"
            if not name and any(word in node.grad_fn.name().lower() for word in PRODUCTS):
                return "it goes into a product of activations: attention has heads to cut"
            out = _is_output(group, dependency)
            channels = (self._graph.get_out_channels if out else self._graph.get_in_channels)(node)
            if channels is not None and len(places) and int(places.max()) >= channels:
                return f"Torch-Pruning cannot follow them (to {name or node.name})"
            if (roots < 0).any():
                return f"which channels of {name or node.name} go with them is not clear"
            if _groups(layer) > 1 and (not torch.equal(places, roots) or _is_fan_in(layer)):
                return f"the groups of {name} are not those of the channels"
        return ""


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
class Choice:
    """The channels that may be pruned.

    Attributes:
        channels: All channels of the model.
        taken: The groups that may be pruned, by the path of a layer whose outputs they are.
        wanted: The paths of layers whose outputs were selected.
        left: Why a layer's outputs are skipped, by its path.
    """

    channels: Channels
    taken: Mapping[str, DependencyGroup]
    wanted: tuple[str, ...]
    left: Mapping[str, str]

    def count(self, gone: Mapping[str, list[int]]) -> str:
        """Return the number of removed channels, as text."""
        cut = sum(len(parts) * self.taken[path].blocks for path, parts in gone.items())
        total = sum(tied.channels for tied in self.taken.values())
        return f"{cut:,} of {total:,} channels cut from {len(gone)} of {len(self.taken)} places"

    def notes(self, gone: Mapping[str, list[int]], *, named: bool) -> tuple[str, ...]:
        """Return notes on the skipped layers with reasons, and on unnamed pruned layers."""
        left = dict(self.left)
        for path, tied in self.taken.items():
            if path not in gone:
                few = f"the share of {tied.channels} channels is none"
                left |= dict.fromkeys(self._of(tied), few)
        along = [
            layer for path in gone for layer in self.taken[path].layers if layer not in self.wanted
        ]
        cut_along = [f"cut along, being tied to what was named: {', '.join(along)}"]
        return (*by_reason(left), *(cut_along if named and along else ()))

    def _of(self, tied: DependencyGroup) -> list[str]:
        return [layer for layer in tied.layers if layer in self.wanted]


def choose(
    model: nn.Module,
    channels: Channels,
    layers: Iterable[str] | None,
    skip: Iterable[str],
    broken: Mapping[str, str],
) -> Choice:
    """Select the channels of the given layers, or of all, that can be pruned.

    Args:
        model: The model to prune.
        channels: Its channels.
        layers: Paths or patterns; None selects all.
        skip: Paths or patterns of layers whose outputs stay.
        broken: Why channels cannot be pruned, by the path of a layer whose outputs they are.

    Raises:
        InputError: A path or pattern matches no layer.
        CompressError: Nothing can be pruned.
    """
    wanted = tuple(chosen(model, LAYERS, layers, skip))
    skipped = set(chosen(model, LAYERS)) - set(chosen(model, LAYERS, None, skip))
    taken, left = {}, dict.fromkeys(wanted, "not called on the way to the answer")
    for path, tied in channels.tied.items():
        named = [layer for layer in tied.layers if layer in wanted]
        fixed = [layer for layer in tied.layers if layer in skipped]
        why_not = tied.skip_reason or broken.get(path, "")
        if fixed and not why_not:
            why_not = f"tied to {', '.join(fixed)}, which is skipped"
        if named and not why_not:
            taken[path] = tied
        for layer in named:
            left[layer] = why_not
    left = {layer: reason for layer, reason in left.items() if reason}
    whole = {
        path: f"left whole: {word}"
        for path, module in model.named_modules()
        for kind, word in WHOLE.items()
        if isinstance(module, kind)
    }
    if not taken:
        raise CompressError(f"no channel can be cut. {'; '.join(by_reason({**left, **whole}))}")
    return Choice(channels, taken, wanted, {**left, **whole})


def by_reason(left: Mapping[str, str]) -> tuple[str, ...]:
    """Format the skipped layers, one line per reason.

    Example:
        >>> by_reason({"a": "small", "b": "odd", "c": "small"})
        ('left: a, c (small)', 'left: b (odd)')
    """
    reasons: dict[str, list[str]] = {}
    for path, reason in left.items():
        reasons.setdefault(reason, []).append(path)
    return tuple(f"left: {', '.join(paths)} ({reason})" for reason, paths in reasons.items())
