"""Low-rank factorisation by SVD of the weights, or of the layer outputs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from limbeck.compress.method import CalibrationContext, Method, NothingGainedError, TransformResult
from limbeck.errors import InputError, Problem

if TYPE_CHECKING:
    from torch import nn

    from limbeck.compress.low_rank import Decomposition
    from limbeck.compress.low_rank_plan import Plan

_TARGETS = ("rank", "energy", "parameters", "flops")
Share = Annotated[float, Field(gt=0, lt=1)]
Rank = Annotated[int, Field(ge=1, le=1_000_000)]


class Svd(Method):
    """Low-rank factorisation by SVD: each layer becomes two smaller ones.

    Supports linear layers, convolutions and, optionally, embeddings; `compress/low_rank/forms`
    defines the forms, `compress/low_rank/factors` the mathematics. A layer is skipped, and listed,
    if two would be no smaller, if its channels are grouped, if its weight is shared or read from
    outside, or if it is recurrent. Masks and quantisers of the weights are removed: factors are
    dense.

    Exactly one of `rank`, `energy`, `parameters` and `flops` sets the amount. With the last two,
    ranks are chosen for all layers together (`compress/low_rank/rank`) to minimise the summed loss
    at which the target is met. By `energy`, a layer's loss is the share of its energy. By
    `sensitivity`, that share is weighted by the change of the model's outputs when that layer alone
    is cut to half of the largest rank that saves.

    Source: Denton et al. 2014 (arXiv:1404.0736); `compress/low_rank/` has more.

    Example:
        >>> Svd(energy=0.9, whiten=True).convolutions
        'channel'
    """

    rank: Annotated[
        Rank | dict[str, Rank] | None,
        Field(
            description="A rank for all layers, or one for each path or pattern such as `*.fc`; of "
            "several that name a layer, the last."
        ),
    ] = None
    energy: Annotated[
        float | None,
        Field(
            gt=0, le=1, description="Share of the squared singular values that each layer keeps."
        ),
    ] = None
    parameters: Annotated[
        Share | None, Field(description="Share of the model's parameters that may remain.")
    ] = None
    flops: Annotated[
        Share | None, Field(description="Share of the model's operations that may remain.")
    ] = None
    by: Annotated[
        Literal["energy", "sensitivity"],
        Field(description="With `parameters` or `flops`: what a layer's loss is measured by."),
    ] = "energy"
    whiten: Annotated[
        bool, Field(description="Keep what training samples make of the layers, not the weights.")
    ] = False
    convolutions: Annotated[
        Literal["channel", "spatial"],
        Field(description="k × k then 1 × 1, or k × 1 then 1 × k."),
    ] = "channel"
    embeddings: Annotated[bool, Field(description="Factorise embeddings too.")] = False
    layers: Annotated[
        list[str] | None, Field(description="Paths or patterns; all layers that fit by default.")
    ] = None
    skip: Annotated[
        list[str],
        Field(default_factory=list, description="Paths or patterns of layers to leave alone."),
    ]

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
        """Check the layers, and whether the target can be met.

        Raises:
            InputError: A path or pattern matches no layer, a rank exceeds a layer's full rank, or
                no ranks meet the target.
            CompressError: No layer can be factorised, or no rank makes one smaller.
        """
        plan = self._plan(model, work)
        self._saving(plan)
        if self.rank is not None:
            _those_that_pay(self._given(plan), plan)

    def transform(self, model: nn.Module, work: CalibrationContext) -> TransformResult:
        """Factorise a model in place.

        Raises:
            InputError: As from `check`.
            CompressError: No layer becomes smaller, weights are not finite, or the model's code
                fails with two layers instead of one.
        """
        from limbeck.compress.low_rank_plan import answers, cut, decompositions, swap
        from limbeck.evaluate.flops import parameters

        plan = self._plan(model, work)
        wanted, saving = self._given(plan), self._saving(plan)
        found = decompositions(model, plan.forms, work, whiten=self.whiten)
        if self.energy is not None:
            wanted = _by_energy(found, self.energy)
        if saving:
            wanted = self._by_budget(model, plan, found, saving, work)
        ranks = _those_that_pay(wanted, plan)
        two = {
            path: cut(model.get_submodule(path), plan.forms[path], found[path], rank)
            for path, rank in ranks.items()
        }
        answers(model, two, work)
        before = parameters(model)
        notes = [*plan.notes, *_undressed(swap(model, two))]
        sizes = f"{before:,} to {parameters(model):,} parameters"
        layers = {path: {"rank": rank, "form": plan.forms[path]} for path, rank in ranks.items()}
        what = (
            f"{len(ranks)} layers factorised, rank {min(ranks.values())} to {max(ranks.values())}"
        )
        return TransformResult(
            {"kind": "factors", "layers": layers}, f"{what}, {sizes}", tuple(notes)
        )

    def _plan(self, model: nn.Module, work: CalibrationContext) -> Plan:
        from torch import nn

        from limbeck.compress.low_rank_plan import plan
        from limbeck.compress.trace import chosen

        kinds: tuple[type[nn.Module], ...] = (nn.Linear, nn.Conv1d, nn.Conv2d)
        kinds += (nn.Embedding,) if self.embeddings else ()
        named = list(self.rank) if isinstance(self.rank, dict) else self.layers
        try:
            layers = chosen(model, kinds, named, self.skip)
        except InputError as error:
            wheres = {"layers": "layers" if self.layers else "rank", "skip": "skip"}
            problems = [
                replace(found, where=wheres.get(found.where, found.where))
                for found in error.problems
            ]
            raise InputError(*problems) from error
        return plan(
            model,
            layers,
            work,
            convolutions=self.convolutions,
            in_operations=self.flops is not None,
        )

    def _given(self, plan: Plan) -> dict[str, int]:
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
        full = {path: plan.costs[path].highest for path in ranks}
        high = {path: rank for path, rank in ranks.items() if rank > full[path]}
        if high:
            allowed = ", ".join(f"at most {full[path]} for {path}" for path in high)
            fix = f"Skip what is too small: skip: [{', '.join(high)}]"
            raise InputError(Problem("rank", max(high.values()), allowed, fix))
        return ranks

    def _saving(self, plan: Plan) -> int:
        """Return the amount to save, in the unit of the target; 0 without a target."""
        if self._share is None:
            return 0
        saving = plan.total - math.floor(self._share * plan.total)
        most = sum(cost.saving for cost in plan.costs.values())
        if saving > most:
            where = "parameters" if self.flops is None else "flops"
            least = math.ceil(1000 * (1 - most / plan.total)) / 1000
            allowed = f"at least {least}: what rank 1 everywhere leaves"
            raise InputError(Problem(where, self._share, allowed, "Take more layers, or prune."))
        return saving

    def _by_budget(
        self,
        model: nn.Module,
        plan: Plan,
        found: Mapping[str, Decomposition],
        saving: int,
        work: CalibrationContext,
    ) -> dict[str, int]:
        from limbeck.compress.low_rank_plan import by_budget, cut, residual_energy, sensitivities

        losses = {path: residual_energy(one.energies.cpu().numpy()) for path, one in found.items()}
        if self.by == "sensitivity":
            halves = {path: max(1, cost.most // 2) for path, cost in plan.costs.items()}
            cuts = {
                path: cut(model.get_submodule(path), plan.forms[path], found[path], rank)
                for path, rank in halves.items()
            }
            moved = sensitivities(model, cuts, work)
            for path, rank in halves.items():
                share = losses[path][rank - 1]
                losses[path] = losses[path] * (moved[path] / share if share else 1.0)
        return by_budget(plan.costs, losses, saving)


def _by_energy(found: Mapping[str, Decomposition], energy: float) -> dict[str, int]:
    from limbeck.compress.low_rank_plan import by_energy, residual_energy

    return {
        path: by_energy(residual_energy(one.energies.cpu().numpy()), energy)
        for path, one in found.items()
    }


def _those_that_pay(wanted: Mapping[str, int], plan: Plan) -> dict[str, int]:
    """Keep the ranks at which the pair is smaller, and record the skipped layers."""
    ranks = {path: rank for path, rank in wanted.items() if rank <= plan.costs[path].most}
    for path in plan.forms:
        if path in wanted and path not in ranks:
            plan.left[path] = f"two layers of rank {wanted[path]} are no smaller"
        elif path not in ranks:
            pays = plan.costs[path].most
            plan.left[path] = "the target is met without" if pays else "no rank makes it smaller"
    if not ranks:
        raise NothingGainedError(f"no layer would become smaller. {'; '.join(plan.notes)}")
    return ranks


def _undressed(replaced: Mapping[str, nn.Module]) -> list[str]:
    """Return the layers whose parametrizations were removed."""
    from torch.nn.utils import parametrize

    lost = [path for path, layer in replaced.items() if parametrize.is_parametrized(layer)]
    return [f"factors are dense, masks and quantisers went: {', '.join(lost)}"] if lost else []
