"""Channel pruning (structured): convolutions, linear layers and their coupled layers."""

from __future__ import annotations

import copy
import math
from bisect import bisect_left
from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from limbeck.compress import channels
from limbeck.compress.channels import Selection, select_groups
from limbeck.compress.method import (
    CalibrationContext,
    CompressError,
    Method,
    NothingGainedError,
    TransformResult,
)
from limbeck.compress.structure import (
    Cost,
    adopt,
    cost,
    run_error,
    scores,
    trainable_copy,
    two_samples,
    weakest,
)
from limbeck.compress.trace import predict
from limbeck.compress.verify_structure import cut_and_trace, departs_from_masked
from limbeck.errors import InputError, Problem

STEPS = 100
"""Resolution of the search for a target: 1/100 of the channels."""

_TARGETS = ("ratio", "flops", "parameters")
Share = Annotated[float, Field(gt=0, lt=1)]
Parts = dict[str, list[int]]


class Channels(Method):
    """Channel pruning: removes the least important channels, with all tensors that depend on them.

    Channels include the hidden units of a transformer's feed-forward layers and the width of its
    residual stream. Channels that are added to each other, or that pass through the same norm or
    depthwise convolution, form one group: they are removed together and scored together. The
    model's output layer stays, and so do recurrent layers and the projections of attention (`heads`
    prunes these), with all channels coupled to them.

    Exactly one of `ratio`, `flops` and `parameters` sets the amount. With a target, no more is
    removed than needed to meet it.

    Importance scores:

    - `magnitude`: the sum of squares of the removed weights, as a share of the layer's mean;
    - `taylor`: |Σ w · ∂L/∂w| over the removed weights, summed over layers and batches;
    - `bn_scale`: the mean |γ| of the batch norms; layers without one are skipped;
    - `random`: a random control.

    Torch-Pruning finds the dependencies. It can silently remove nothing, produce a model that does
    not run, or remove the wrong inputs (where channels are permuted before them). Therefore a copy
    is pruned first, and must predict as the model with the same channels set to zero, on real and
    on random rows (`limbeck.compress.verify_structure`). Other channels are skipped, and listed.

    Source: Fang et al. 2023 (DepGraph, arXiv:2301.12900); Molchanov et al. 2019 (Taylor,
    arXiv:1906.10771); Liu et al. 2017 (batch norm's scale, arXiv:1708.06519).

    Example:
        >>> Channels(ratio=0.5, skip=["stem*"]).importance
        'magnitude'
    """

    ratio: Share | None = Field(
        None, description="Share of the channels to remove, rounded to the nearest one."
    )
    flops: Share | None = Field(
        None, description="Maximum share of the model's FLOPs that remains."
    )
    parameters: Share | None = Field(
        None, description="Maximum share of the model's parameters that remains."
    )
    importance: Literal["magnitude", "taylor", "bn_scale", "random"] = Field(
        "magnitude", description="Importance score of a channel."
    )
    scope: Literal["layer", "global"] = Field(
        "layer", description="Prune the same share of each layer, or the lowest scores of all."
    )
    round_to: int | None = Field(
        None,
        ge=1,
        le=100_000,
        description="Round the remaining channels up to a multiple of this number.",
    )
    layers: list[str] | None = Field(
        None, description="Paths or patterns of layers whose outputs are pruned; all by default."
    )
    skip: list[str] = Field(
        default_factory=list,
        description="Paths or patterns of layers whose outputs stay, with all coupled to them.",
    )

    @model_validator(mode="after")
    def _one_target(self) -> Channels:
        given = [name for name in _TARGETS if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ValueError(f"got {found}; allowed: exactly one of {', '.join(_TARGETS)}")
        return self

    def check(self, model: nn.Module, work: CalibrationContext) -> None:
        """Check that the model has channels to prune, and that the ratio removes some."""
        selection = self._select(trainable_copy(model), work, {})
        if self.ratio is not None and self.scope == "layer":
            self._check_ratio(self.ratio, selection)

    def transform(self, model: nn.Module, work: CalibrationContext) -> TransformResult:
        """Prune channels in place."""
        before, shape = cost(model, work), predict(model, two_samples(work), work).shape
        largest = 1.0 if self.ratio is None else self.ratio
        broken: dict[str, str] = {}
        while True:
            trial = trainable_copy(model)
            selection = self._select(trial, work, broken)
            importance = self._scores(trial, selection, work)
            gone = self._weakest(importance, selection, largest)
            pruned, error = _attempt(model, gone, work, shape)
            if not error and self.ratio is None:
                narrowest = cost(pruned, work)
                gone = self._fewest(model, selection, importance, narrowest, before, work)
                pruned, error = _attempt(model, gone, work, shape)
            if not error:
                break
            found = _broken_groups(model, gone, work, shape)
            if not found:
                raise CompressError(f"no channels can be removed together: {error}")
            broken |= found
        if not gone:
            sizes = ", ".join(f"{path}: {one.channels}" for path, one in selection.groups.items())
            raise NothingGainedError(
                f"no channel would be removed; channels per group: {sizes}. Raise the target, or "
                "use a smaller round_to."
            )
        change = adopt(model, pruned)
        what = f"{selection.count(gone)}, {before.to(cost(model, work))}"
        return TransformResult(change, what, selection.notes(gone, named=self.layers is not None))

    def _check_ratio(self, ratio: float, selection: Selection) -> None:
        """Raise if the ratio removes no channel from any group; their sizes decide."""
        least = {}  # the smallest ratio that removes channels of a group
        for path, group in selection.groups.items():
            step = group.step(self.round_to or 1)
            kept = (group.channels - 1) // step * step
            if kept:
                least[path] = (group.channels - kept - 0.5) / group.channels
        sizes = ", ".join(f"{path}: {one.channels}" for path, one in selection.groups.items())
        if not least:
            allowed = f"a number below the channels of a group ({sizes})"
            raise InputError(Problem("round_to", self.round_to or 1, allowed))
        if ratio < min(least.values()):
            share = math.ceil(1000 * min(least.values())) / 1000
            allowed = f"at least {share:g}: below, no channel is removed (channels: {sizes})"
            raise InputError(Problem("ratio", ratio, allowed))

    def _select(
        self, trial: nn.Module, work: CalibrationContext, broken: Mapping[str, str]
    ) -> Selection:
        groups = channels.Channels(trial, work).groups
        if self.importance == "bn_scale":
            bare = [path for path, group in groups.items() if group.scales() is None]
            if len(bare) == len(groups):
                others = "magnitude, taylor or random: the model has no batch norm"
                raise InputError(Problem("importance", "bn_scale", others))
            broken = {**dict.fromkeys(bare, "no batch norm scales them"), **broken}
        return select_groups(trial, groups, self.layers, self.skip, broken)

    def _weakest(
        self, importance: Mapping[str, Tensor], selection: Selection, share: float
    ) -> Parts:
        steps = {path: group.step(self.round_to or 1) for path, group in selection.groups.items()}
        return weakest(importance, share, scope=self.scope, steps=steps)

    def _fewest(
        self,
        model: nn.Module,
        selection: Selection,
        importance: Mapping[str, Tensor],
        narrowest: Cost,
        before: Cost,
        work: CalibrationContext,
    ) -> Parts:
        """Find the smallest removal with which the model meets its target."""
        target = "parameters" if self.flops is None else "flops"

        limit, total = self.flops or self.parameters or 0.0, getattr(before, target)

        def is_met(now: Cost) -> bool:
            return getattr(now, target) <= limit * total

        if not is_met(narrowest):
            least = math.ceil(getattr(narrowest, target) / total * 1000) / 1000
            allowed = f"at least {least}, the share of the narrowest model"
            fix = "Select more layers, or use a smaller round_to."
            raise InputError(Problem(target, limit, allowed, fix))

        def is_enough(step: int) -> bool:
            trial = trainable_copy(model)
            gone = self._weakest(importance, selection, step / STEPS)
            channels.Channels(trial, work).remove(gone)
            return is_met(cost(trial, work))

        step = 1 + bisect_left(range(1, STEPS), True, key=is_enough)
        return self._weakest(importance, selection, step / STEPS)

    def _scores(
        self, trial: nn.Module, selection: Selection, work: CalibrationContext
    ) -> dict[str, Tensor]:
        groups = selection.groups
        if self.importance == "bn_scale":
            scales = ((path, group.scales()) for path, group in groups.items())
            return {path: scale for path, scale in scales if scale is not None}
        return scores(
            trial,
            work,
            importance=self.importance,
            parts={path: group.parts for path, group in groups.items()},
            total=lambda path, contribution: groups[path].total(contribution),
        )


def _attempt(
    model: nn.Module, gone: Parts, work: CalibrationContext, shape: torch.Size
) -> tuple[nn.Module, str]:
    """Prune channels of a copy; return it, and how it differs from the masked model."""
    trial = trainable_copy(model)
    if not gone:
        return trial, ""
    try:
        found = channels.Channels(trial, work)
        kept = cut_and_trace(trial, lambda: found.remove(gone))
        failure = run_error(trial, work, shape)
        if failure:
            return trial, f"the model does not run without them: {failure}"
        change = adopt(copy.deepcopy(model), trial)
    except Exception as error:  # of Torch-Pruning, with many types
        return trial, f"Torch-Pruning cannot remove them ({type(error).__name__}: {error})"
    difference = departs_from_masked(model, change, kept, work)
    if difference:
        difference = f"the pruned model differs from the model with them set to zero: {difference}"
    return trial, difference


def _broken_groups(
    model: nn.Module, gone: Parts, work: CalibrationContext, shape: torch.Size
) -> dict[str, str]:
    """Find the groups whose channels cannot be removed, alone or together with those before."""
    errors = {path: _attempt(model, {path: parts}, work, shape)[1] for path, parts in gone.items()}
    if not any(errors.values()):
        together: Parts = {}
        for path, parts in gone.items():
            errors[path] = _attempt(model, {**together, path: parts}, work, shape)[1]
            if not errors[path]:
                together[path] = parts
    return {path: error for path, error in errors.items() if error}
