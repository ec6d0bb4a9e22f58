"""Channel pruning (structured): convolutions, linear layers and their coupled layers."""

from __future__ import annotations

import copy
import math
from bisect import bisect_left
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from limbeck.compress.method import (
    CalibrationContext,
    CompressError,
    Method,
    NothingGainedError,
    TransformResult,
)
from limbeck.errors import InputError, Problem

if TYPE_CHECKING:
    from torch import Tensor, nn

    from limbeck.compress.channels import Choice
    from limbeck.compress.structure import Cost

STEPS = 100
"""Resolution of the search for a target: 1/100 of the channels."""

_TARGETS = ("ratio", "flops", "parameters")
Share = Annotated[float, Field(gt=0, lt=1)]


class Channels(Method):
    """Channel pruning: removes the least important channels, with all tensors that depend on them.

    Channels include the hidden units of a transformer's feed-forward layers and the width of its
    residual stream. Channels that are added to each other, or that pass through the same norm or
    depthwise convolution, form one group: they are removed together and scored together. The
    model's output layer stays, and so do recurrent layers and the insides of attention (`heads`
    prunes these), with all channels coupled to them.

    Exactly one of `ratio`, `flops` and `parameters` sets the amount. With a target, no more is
    removed than needed to meet it.

    Importance scores:

    - `magnitude`: the sum of squares of the removed weights, as a share of the layer's mean;
    - `taylor`: |Σ w · ∂L/∂w| over the removed weights, summed over layers and batches;
    - `bn_scale`: the mean |γ| of the batch norms; layers without one are skipped;
    - `random`: a random control.

    Torch-Pruning finds the dependencies. It can silently remove nothing, produce a model that does
    not run, or remove the wrong inputs (where channels are permuted on the way). Therefore a copy
    is pruned first, and must predict as the model with the same channels set to zero, on real and
    on random rows (definition: `compress/structure/verify`). Channels that fail are skipped, and
    listed.

    Source: Fang et al. 2023 (DepGraph, arXiv:2301.12900); Molchanov et al. 2019 (Taylor,
    arXiv:1906.10771); Liu et al. 2017 (batch norm's scale, arXiv:1708.06519).

    Example:
        >>> Channels(ratio=0.5, skip=["stem*"]).importance
        'magnitude'
    """

    ratio: Annotated[
        Share | None, Field(description="Share of the channels that is cut, to the nearest one.")
    ] = None
    flops: Annotated[
        Share | None, Field(description="Share of the model's operations that may remain.")
    ] = None
    parameters: Annotated[
        Share | None, Field(description="Share of the model's parameters that may remain.")
    ] = None
    importance: Annotated[
        Literal["magnitude", "taylor", "bn_scale", "random"],
        Field(description="What tells how much a channel counts."),
    ] = "magnitude"
    scope: Annotated[
        Literal["layer", "global"],
        Field(description="The same share in each layer, or the lowest of all layers."),
    ] = "layer"
    round_to: Annotated[
        int | None,
        Field(
            ge=1,
            le=100_000,
            description="Channels that stay are a multiple of this, rounded upwards.",
        ),
    ] = None
    layers: Annotated[
        list[str] | None,
        Field(description="Paths or patterns of layers whose outputs may be cut; all by default."),
    ] = None
    skip: Annotated[
        list[str],
        Field(
            default_factory=list,
            description="Paths or patterns of layers whose outputs stay, with all tied to them.",
        ),
    ]

    @model_validator(mode="after")
    def _one_target(self) -> Channels:
        given = [name for name in _TARGETS if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ValueError(f"got {found}; allowed: exactly one of {', '.join(_TARGETS)}")
        return self

    def check(self, model: nn.Module, work: CalibrationContext) -> None:
        """Check that the model has channels to prune.

        Raises:
            InputError: A path or pattern matches no layer, weights are masked, or `bn_scale` is
                used without a batch norm.
            CompressError: No channel can be pruned.
        """
        from limbeck.compress.structure import spare

        self._choice(spare(model), work, {})

    def transform(self, model: nn.Module, work: CalibrationContext) -> TransformResult:
        """Prune channels in place.

        Raises:
            InputError: As from `check`, or the target cannot be met.
            CompressError: Nothing would be pruned, or the pruned model does not run.
        """
        from limbeck.compress.structure import adopt, answer, cost, spare

        before, like = cost(model, work), answer(model, work)
        most = 1.0 if self.ratio is None else self.ratio
        broken: dict[str, str] = {}
        while True:
            trial = spare(model)
            choice = self._choice(trial, work, broken)
            scores = self._scores(trial, choice, work)
            gone = self._weakest(scores, choice, most)
            cut, wrong = _attempt(model, gone, work, like)
            if not wrong and self.ratio is None:
                gone = self._nearest(model, choice, scores, cost(cut, work), before, work)
                cut, wrong = _attempt(model, gone, work, like)
            if not wrong:
                break
            found = _that_break(model, gone, work, like)
            if not found:
                raise CompressError(f"no channels can be cut together: {wrong}")
            broken |= found
        if not gone:
            few = ", ".join(f"{path}: {tied.channels}" for path, tied in choice.taken.items())
            raise NothingGainedError(f"no channel would be cut; channels there are: {few}")
        change = adopt(model, cut)
        what = f"{choice.count(gone)}, {before.to(cost(model, work))}"
        return TransformResult(change, what, choice.notes(gone, named=self.layers is not None))

    def _choice(
        self, trial: nn.Module, work: CalibrationContext, broken: Mapping[str, str]
    ) -> Choice:
        from limbeck.compress.channels import Channels as All
        from limbeck.compress.channels import choose

        channels = All(trial, work)
        if self.importance == "bn_scale":
            scales = {path: tied.scales() for path, tied in channels.tied.items()}
            bare = {path: "no batch norm scales them" for path in scales if scales[path] is None}
            if len(bare) == len(scales):
                others = "magnitude, taylor or random: the model has no batch norm"
                raise InputError(Problem("importance", "bn_scale", others))
            broken = {**bare, **broken}
        return choose(trial, channels, self.layers, self.skip, broken)

    def _weakest(
        self, scores: Mapping[str, Tensor], choice: Choice, share: float
    ) -> dict[str, list[int]]:
        from limbeck.compress.structure import weakest

        steps = {path: tied.step(self.round_to or 1) for path, tied in choice.taken.items()}
        return weakest(scores, share, scope=self.scope, steps=steps)

    def _nearest(
        self,
        model: nn.Module,
        choice: Choice,
        scores: Mapping[str, Tensor],
        least: Cost,
        before: Cost,
        work: CalibrationContext,
    ) -> dict[str, list[int]]:
        """Find the smallest removal with which the model meets its target."""
        from limbeck.compress.structure import cost

        if not self._met(least, before):
            raise self._out_of_reach(least, before)

        def enough(step: int) -> bool:
            cut = _without(model, self._weakest(scores, choice, step / STEPS), work)
            return self._met(cost(cut, work), before)

        step = 1 + bisect_left(range(1, STEPS), True, key=enough)
        return self._weakest(scores, choice, step / STEPS)

    def _scores(
        self, trial: nn.Module, choice: Choice, work: CalibrationContext
    ) -> dict[str, Tensor]:
        from limbeck.compress.structure import scores

        taken = choice.taken
        if self.importance == "bn_scale":
            scales = ((path, tied.scales()) for path, tied in taken.items())
            return {path: scale for path, scale in scales if scale is not None}
        return scores(
            trial,
            work,
            importance=self.importance,
            parts={path: tied.parts for path, tied in taken.items()},
            total=lambda path, contribution: taken[path].total(contribution),
        )

    def _met(self, now: Cost, before: Cost) -> bool:
        if self.flops is not None:
            return now.flops <= self.flops * before.flops
        return self.parameters is None or now.parameters <= self.parameters * before.parameters

    def _out_of_reach(self, least: Cost, before: Cost) -> InputError:
        where, share = "flops", least.flops / before.flops
        if self.flops is None:
            where, share = "parameters", least.parameters / before.parameters
        allowed = f"at least {math.ceil(share * 1000) / 1000}: what the narrowest model has"
        fix = "Take more layers, or a smaller round_to."
        return InputError(Problem(where, self.flops or self.parameters, allowed, fix))


def _without(
    model: nn.Module, gone: Mapping[str, list[int]], work: CalibrationContext
) -> nn.Module:
    """Copy a model, and prune channels of the copy."""
    from limbeck.compress.channels import Channels as All
    from limbeck.compress.structure import spare

    trial = spare(model)
    All(trial, work).cut(gone)
    return trial


def _attempt(
    model: nn.Module, gone: Mapping[str, list[int]], work: CalibrationContext, like: Tensor
) -> tuple[nn.Module, str]:
    """Prune channels of a copy; return it, and why it differs from the masked model."""
    from limbeck.compress.channels import Channels as All
    from limbeck.compress.structure import adopt, spare, trouble
    from limbeck.compress.verify_structure import cut_and_trace, departs_from_masked

    trial = spare(model)
    if not gone:
        return trial, ""
    try:
        channels = All(trial, work)
        kept = cut_and_trace(trial, lambda: channels.cut(gone))
        wrong = trouble(trial, work, like)
        if wrong:
            return trial, f"the model does not run without them: {wrong}"
        change = adopt(copy.deepcopy(model), trial)
    except Exception as error:  # of Torch-Pruning, with many types
        return trial, f"Torch-Pruning cannot cut them ({type(error).__name__}: {error})"
    wrong = departs_from_masked(model, change, kept, work)
    return trial, f"the cut model is not the model with them set to zero: {wrong}" if wrong else ""


def _that_break(
    model: nn.Module, gone: Mapping[str, list[int]], work: CalibrationContext, like: Tensor
) -> dict[str, str]:
    """Find the groups whose channels cannot be removed, alone or together with those before."""
    reasons = {path: _attempt(model, {path: parts}, work, like)[1] for path, parts in gone.items()}
    if not any(reasons.values()):
        together: dict[str, list[int]] = {}
        for path, parts in gone.items():
            reasons[path] = _attempt(model, {**together, path: parts}, work, like)[1]
            if not reasons[path]:
                together[path] = parts
    return {path: wrong for path, wrong in reasons.items() if wrong}
