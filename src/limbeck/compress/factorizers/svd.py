"""Low-rank factorisation by SVD of the weights, or of the layer outputs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import nn
from torch.nn.utils import parametrize

from limbeck.compress.low_rank import Decomposition
from limbeck.compress.low_rank_plan import (
    Plan,
    approximate,
    by_budget,
    by_energy,
    decompositions,
    make_plan,
    predict_with,
    residual_energy,
    sensitivities,
    swap,
)
from limbeck.compress.method import CalibrationContext, Method, NothingGainedError, TransformResult
from limbeck.compress.trace import select_layers
from limbeck.errors import InputError, Problem
from limbeck.evaluate.flops import parameters

_TARGETS = ("rank", "energy", "parameters", "flops")
Share = Annotated[float, Field(gt=0, lt=1)]
Rank = Annotated[int, Field(ge=1, le=1_000_000)]


class Svd(Method):
    """Low-rank factorisation by SVD: each layer becomes two smaller ones.

    Supports linear layers, convolutions and, optionally, embeddings, in the forms of
    `limbeck.compress.changes.factors`; `limbeck.compress.low_rank` has the mathematics. A layer is
    skipped, and listed, if two would be no smaller, if its channels are grouped, if its weight is
    shared or read by other code, or if it is recurrent. Masks and quantisers of the weights are
    removed: factors are dense.

    Exactly one of `rank`, `energy`, `parameters` and `flops` sets the amount. With the last two,
    ranks are chosen for all layers together to minimise the summed loss at which the target is met.
    By `energy`, a layer's loss is the residual share of its energy. By `sensitivity`, that share is
    weighted by the change of the model's outputs when that layer alone has half of the largest rank
    that saves.

    Source: Denton et al. 2014 (arXiv:1404.0736).

    Example:
        >>> Svd(energy=0.9, whiten=True).convolutions
        'channel'
    """

    rank: Rank | dict[str, Rank] | None = Field(
        None,
        description="A rank for all layers, or one for each path or pattern such as `*.fc`; if "
        "several match a layer, the last.",
    )
    energy: float | None = Field(
        None, gt=0, le=1, description="Share of the squared singular values that each layer keeps."
    )
    parameters: Share | None = Field(
        None, description="Maximum share of the model's parameters that remains."
    )
    flops: Share | None = Field(
        None, description="Maximum share of the model's FLOPs that remains."
    )
    by: Literal["energy", "sensitivity"] = Field(
        "energy", description="With `parameters` or `flops`: the measure of a layer's loss."
    )
    whiten: bool = Field(
        False, description="Approximate the outputs for training samples, not the weights."
    )
    convolutions: Literal["channel", "spatial"] = Field(
        "channel", description="k × k then 1 × 1, or k × 1 then 1 × k."
    )
    embeddings: bool = Field(False, description="Factorise embeddings too.")
    layers: list[str] | None = Field(
        None, description="Paths or patterns; all supported layers by default."
    )
    skip: list[str] = Field(
        default_factory=list, description="Paths or patterns of layers to skip."
    )

    @model_validator(mode="after")
    def _one_target(self) -> Svd:
        given = [name for name in _TARGETS if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ValueError(f"got {found}; allowed: exactly one of {', '.join(_TARGETS)}")
        if self.by == "sensitivity" and self._share is None:
            raise ValueError(f"by: sensitivity needs parameters or flops, not {given[0]}")
        if isinstance(self.rank, dict) and self.layers is not None:
            raise ValueError("rank names the layers already; leave layers out")
        return self

    @property
    def _share(self) -> float | None:
        return self.parameters if self.flops is None else self.flops

    def check(self, model: nn.Module, work: CalibrationContext) -> None:
        """Check the layers, and whether the target can be met."""
        plan = self._plan(model, work)
        self._saving(plan)
        if not any(cost.most for cost in plan.costs.values()):
            _smaller(dict.fromkeys(plan.forms, 1), plan)
        if self.rank is not None:
            _smaller(self._given_ranks(plan), plan)

    def transform(self, model: nn.Module, work: CalibrationContext) -> TransformResult:
        """Factorise a model in place."""
        plan = self._plan(model, work)
        wanted, saving = self._given_ranks(plan), self._saving(plan)
        found = decompositions(model, plan.forms, work, whiten=self.whiten)
        losses = {path: residual_energy(one.energies.cpu().numpy()) for path, one in found.items()}
        if self.energy is not None:
            wanted = {path: by_energy(loss, self.energy) for path, loss in losses.items()}
        if saving and self.by == "sensitivity":
            halves = {path: max(1, cost.most // 2) for path, cost in plan.costs.items()}
            moved = sensitivities(model, _pairs(model, plan, found, halves), work)
            for path, rank in halves.items():
                share = losses[path][rank - 1]
                losses[path] = losses[path] * (moved[path] / share if share else 1.0)
        if saving:
            wanted = by_budget(plan.costs, losses, saving)
        ranks = _smaller(wanted, plan, losses)
        pairs = _pairs(model, plan, found, ranks)
        predict_with(model, pairs, work)
        before = parameters(model)
        replaced = swap(model, pairs)
        removed = [path for path, layer in replaced.items() if parametrize.is_parametrized(layer)]
        notes = [f"masks and quantisers removed: {', '.join(removed)}"] if removed else []
        layers = {path: {"rank": rank, "form": plan.forms[path]} for path, rank in ranks.items()}
        what = (
            f"{len(ranks)} layers factorised, rank {min(ranks.values())} to {max(ranks.values())}, "
            f"{before:,} to {parameters(model):,} parameters"
        )
        change = {"kind": "factors", "layers": layers}
        return TransformResult(change, what, (*plan.notes, *notes))

    def _plan(self, model: nn.Module, work: CalibrationContext) -> Plan:
        kinds: tuple[type[nn.Module], ...] = (nn.Linear, nn.Conv1d, nn.Conv2d)
        kinds += (nn.Embedding,) if self.embeddings else ()
        named = list(self.rank) if isinstance(self.rank, dict) else self.layers
        try:
            layers = select_layers(model, kinds, named, self.skip)
        except InputError as error:
            names = {} if self.layers else {"layers": "rank"}
            problems = [
                replace(one, where=names.get(one.where, one.where)) for one in error.problems
            ]
            raise InputError(*problems) from error
        convolutions, in_operations = self.convolutions, self.flops is not None
        return make_plan(
            model, layers, work, convolutions=convolutions, in_operations=in_operations
        )

    def _given_ranks(self, plan: Plan) -> dict[str, int]:
        """Return the rank of each layer as set by the user; empty if none is set."""
        if self.rank is None:
            return {}
        named = self.rank if isinstance(self.rank, dict) else {"*": self.rank}
        ranks = {
            path: rank
            for pattern, rank in named.items()
            for path in plan.forms
            if fnmatchcase(path, pattern)
        }
        high = {path: rank for path, rank in ranks.items() if rank > plan.costs[path].highest}
        if high:
            allowed = ", ".join(f"at most {plan.costs[path].highest} for {path}" for path in high)
            fix = f"Skip layers that are too small: skip: [{', '.join(high)}]"
            raise InputError(Problem("rank", max(high.values()), allowed, fix))
        return ranks

    def _saving(self, plan: Plan) -> int:
        """Return the amount to save, in the unit of the target; 0 without a target."""
        if self._share is None:
            return 0
        saving = plan.total - math.floor(self._share * plan.total)
        largest = sum(cost.saving for cost in plan.costs.values())
        if saving > largest:
            where = "parameters" if self.flops is None else "flops"
            least = math.ceil(1000 * (1 - largest / plan.total)) / 1000
            allowed = f"at least {least}, the share with rank 1 in every layer"
            fix = "Select more layers, or prune."
            raise InputError(Problem(where, self._share, allowed, fix))
        return saving


def _pairs(
    model: nn.Module, plan: Plan, found: Mapping[str, Decomposition], ranks: Mapping[str, int]
) -> dict[str, nn.Module]:
    return {
        path: approximate(model.get_submodule(path), plan.forms[path], found[path], rank)
        for path, rank in ranks.items()
    }


def _smaller(
    wanted: Mapping[str, int],
    plan: Plan,
    losses: Mapping[str, NDArray[np.float64]] | None = None,
) -> dict[str, int]:
    """Return the ranks at which the pair is smaller, and record the skipped layers.

    Raises:
        NothingGainedError: There are none. With the losses per rank, the fix names the largest
            energy at which there would be one.
    """
    ranks = {path: rank for path, rank in wanted.items() if rank <= plan.costs[path].most}
    for path in plan.forms:
        if path in wanted and path not in ranks:
            plan.skipped[path] = f"two layers of rank {wanted[path]} are not smaller"
        elif path not in ranks:
            can_save = plan.costs[path].most
            plan.skipped[path] = "the target is met without it" if can_save else "no rank saves"
    if not ranks:
        fix = "Select larger layers, with `layers`, or prune."
        largest = [plan.costs[path].most for path in plan.forms]
        if any(largest):
            fix = f"Set `rank` to at most {max(largest)}, or `parameters`."
        if any(largest) and losses:
            costs = plan.costs.items()
            kept = max(1 - losses[path][cost.most - 1] for path, cost in costs if cost.most)
            fix = f"Set `energy` to at most {math.floor(1000 * kept) / 1000:g}, or `parameters`."
        raise NothingGainedError(f"no layer would become smaller. {'; '.join(plan.notes)}. {fix}")
    return ranks
