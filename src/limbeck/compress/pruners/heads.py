"""Attention head pruning."""

from __future__ import annotations

import copy
import math
from typing import Literal

from pydantic import Field, model_validator
from torch import nn

from limbeck.compress.attention_heads import KINDS, Attention, attentions
from limbeck.compress.method import CalibrationContext, CompressError, Method, TransformResult
from limbeck.compress.structure import adopt, cost, run_error, scores, trainable_copy, two_samples
from limbeck.compress.trace import predict, select_layers
from limbeck.compress.verify_structure import cut_and_trace, departs_from_masked
from limbeck.errors import InputError, Problem


class Heads(Method):
    r"""Attention head pruning: removes the least important heads and shrinks the projections.

    The pruned model computes the same as the whole model with the removed heads' outputs set to
    zero. Supported are the attention of BERT (and of its relatives in transformers) and of timm's
    vision transformers. torch's own `nn.MultiheadAttention` is not: its width is that of its
    inputs.

    Importance scores, ranked within each layer:

    - `magnitude`: the sum of the squares of a head's weights, in all four projections;
    - `taylor`: |Σ w · ∂L/∂w| over them, summed over projections and batches;
    - `random`: a random control.

    Source: Michel, Levy and Neubig 2019 (arXiv:1905.10650).

    Example:
        >>> Heads(ratio=0.25, importance="taylor").heads is None
        True
    """

    heads: int | None = Field(
        None, ge=1, le=100_000, description="Number of heads to remove from each layer."
    )
    ratio: float | None = Field(
        None, gt=0, lt=1, description="Share of each layer's heads, rounded to the nearest number."
    )
    importance: Literal["magnitude", "taylor", "random"] = Field(
        "magnitude", description="Importance score of a head."
    )
    layers: list[str] | None = Field(
        None, description="Paths or patterns of attentions; all supported ones by default."
    )
    skip: list[str] = Field(
        default_factory=list, description="Paths or patterns of attentions to skip."
    )

    @model_validator(mode="after")
    def _one_amount(self) -> Heads:
        if (self.heads is None) == (self.ratio is None):
            found = "none" if self.heads is None else "both"
            raise ValueError(f"got {found}; allowed: exactly one of heads, ratio")
        return self

    def check(self, model: nn.Module, work: CalibrationContext) -> None:
        """Check the attention layers and their number of heads."""
        self._select(trainable_copy(model))

    def transform(self, model: nn.Module, work: CalibrationContext) -> TransformResult:
        """Prune heads in place."""
        before, shape = cost(model, work), predict(model, two_samples(work), work).shape
        trial = trainable_copy(model)
        selected = self._select(trial)
        heads = {path: attention.heads for path, attention in selected.items()}
        importance = scores(
            trial,
            work,
            importance=self.importance,
            parts=heads,
            total=lambda path, contribution: selected[path].total(contribution),
        )
        counts = {path: self._count(number) for path, number in heads.items()}
        gone = {
            path: importance[path].argsort(stable=True)[:count].tolist()
            for path, count in counts.items()
            if count
        }

        def remove() -> None:
            for path, removed in gone.items():
                selected[path].remove(removed)

        kept = cut_and_trace(trial, remove)
        error = run_error(trial, work, shape)
        if not error:
            change = adopt(copy.deepcopy(model), trial)
            error = departs_from_masked(model, change, kept, work)
        if error:
            raise CompressError(
                "the model does not run with fewer heads, or differs from the model with their "
                f"outputs set to zero: {error}"
            )
        change = adopt(model, trial)
        what = (
            f"{sum(counts.values())} of {sum(heads.values())} heads removed from {len(gone)} of "
            f"{len(heads)} layers, {before.to(cost(model, work))}"
        )
        whole = [
            f"{path} (the share of {heads[path]} heads rounds to none)"
            for path in sorted(heads.keys() - gone.keys())
        ]
        notes = [f"skipped: {', '.join(whole)}"] if whole else []
        return TransformResult(change, what, (*notes, *_unsupported(model)))

    def _select(self, model: nn.Module) -> dict[str, Attention]:
        known = attentions(model)
        if not known:
            names = " and ".join(kind.name for kind in KINDS)
            unsupported = "".join(f". {note}" for note in _unsupported(model))
            raise CompressError(
                f"no attention with heads to prune; supported: {names}{unsupported}"
            )
        kinds = tuple({type(attention.module) for attention in known.values()})
        named = select_layers(model, kinds, self.layers, self.skip)
        selected = {path: attention for path, attention in known.items() if path in named}
        if not selected:
            raise CompressError("no attention with heads to prune: all are skipped")
        few = {path: one.heads for path, one in selected.items() if one.heads <= (self.heads or 0)}
        if few:
            allowed = ", ".join(f"at most {heads - 1} for {path}" for path, heads in few.items())
            raise InputError(Problem("heads", self.heads, allowed, f"skip: [{', '.join(few)}]"))
        if not any(self._count(one.heads) for one in selected.values()):
            most = max(one.heads for one in selected.values())
            heads = ", ".join(f"{path}: {one.heads}" for path, one in selected.items())
            if most == 1:
                raise CompressError(f"no head would be removed; heads per layer: {heads}")
            least = math.ceil(1000 * 0.5 / most) / 1000
            allowed = f"at least {least:g}: below, no head is removed (heads: {heads})"
            raise InputError(Problem("ratio", self.ratio, allowed))
        return selected

    def _count(self, heads: int) -> int:
        if self.ratio is None:
            return self.heads or 0
        return min(int(self.ratio * heads + 0.5), heads - 1)


def _unsupported(model: nn.Module) -> list[str]:
    found = [path for path, one in model.named_modules() if isinstance(one, nn.MultiheadAttention)]
    note = f"skipped: {', '.join(found)} (heads of nn.MultiheadAttention cannot be removed)"
    return [note] if found else []
