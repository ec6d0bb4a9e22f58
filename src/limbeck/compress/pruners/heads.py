"""Attention head pruning."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from limbeck.compress.method import CalibrationContext, CompressError, Method, TransformResult
from limbeck.errors import InputError, Problem

if TYPE_CHECKING:
    from torch import nn

    from limbeck.compress.attention_heads import Attention


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

    heads: Annotated[
        int | None, Field(ge=1, le=100_000, description="How many heads each layer loses.")
    ] = None
    ratio: Annotated[
        float | None,
        Field(gt=0, lt=1, description="Share of each layer's heads, to the nearest whole number."),
    ] = None
    importance: Annotated[
        Literal["magnitude", "taylor", "random"],
        Field(description="What tells how much a head counts."),
    ] = "magnitude"
    layers: Annotated[
        list[str] | None,
        Field(description="Paths or patterns of attentions; all that are known by default."),
    ] = None
    skip: Annotated[
        list[str],
        Field(default_factory=list, description="Paths or patterns of attentions to leave alone."),
    ]

    @model_validator(mode="after")
    def _one_amount(self) -> Heads:
        if (self.heads is None) == (self.ratio is None):
            found = "none" if self.heads is None else "both"
            raise ValueError(f"got {found}; allowed: exactly one of heads, ratio")
        return self

    def check(self, model: nn.Module, work: CalibrationContext) -> None:
        """Check the attention layers and their number of heads.

        Raises:
            InputError: A path or pattern matches none, weights are masked, or a layer would have no
                head left.
            CompressError: The model has no supported attention.
        """
        from limbeck.compress.structure import spare

        self._taken(spare(model))

    def transform(self, model: nn.Module, work: CalibrationContext) -> TransformResult:
        """Prune heads in place.

        Raises:
            InputError: As from `check`.
            CompressError: As from `check`; no head would be pruned; or the model's code does not
                run with fewer heads.
        """
        from limbeck.compress.structure import adopt, answer, cost, scores, spare, trouble
        from limbeck.compress.verify_structure import cut_and_trace, departs_from_masked

        before, like = cost(model, work), answer(model, work)
        trial = spare(model)
        taken = self._taken(trial)
        heads = {path: attention.heads for path, attention in taken.items()}
        found = scores(
            trial,
            work,
            importance=self.importance,
            parts=heads,
            total=lambda path, contribution: taken[path].total(contribution),
        )
        counts = {path: self._count(number) for path, number in heads.items()}
        gone = {
            path: found[path].argsort(stable=True)[:count].tolist()
            for path, count in counts.items()
            if count
        }
        if not gone:
            few = ", ".join(f"{path}: {number}" for path, number in heads.items())
            raise CompressError(f"no head would be cut; heads there are: {few}")

        def cut() -> None:
            for path, some in gone.items():
                taken[path].cut(some)

        kept = cut_and_trace(trial, cut)
        wrong = trouble(trial, work, like)
        if not wrong:
            planned = adopt(copy.deepcopy(model), trial)
            wrong = departs_from_masked(model, planned, kept, work)
        if wrong:
            raise CompressError(
                f"the model does not run with fewer heads, or not as without them: {wrong}"
            )
        change = adopt(model, trial)
        what = (
            f"{sum(counts.values())} of {sum(heads.values())} heads cut from {len(gone)} of "
            f"{len(heads)} layers, {before.to(cost(model, work))}"
        )
        return TransformResult(change, what, _notes(model, heads, gone))

    def _taken(self, model: nn.Module) -> dict[str, Attention]:
        from limbeck.compress.attention_heads import KINDS, attentions
        from limbeck.compress.trace import chosen

        known = attentions(model)
        if not known:
            names = " and ".join(kind.name for kind in KINDS)
            unknown = "".join(f". {note}" for note in _unknown(model))
            raise CompressError(f"no attention with heads to cut; kinds known: {names}{unknown}")
        kinds = tuple({type(attention.module) for attention in known.values()})
        named = chosen(model, kinds, self.layers, self.skip)
        taken = {path: attention for path, attention in known.items() if path in named}
        if not taken:
            raise CompressError("no attention is left to cut heads from: all are skipped")
        self._refuse_too_many(taken)
        return taken

    def _refuse_too_many(self, taken: Mapping[str, Attention]) -> None:
        few = {path: one.heads for path, one in taken.items() if one.heads <= (self.heads or 0)}
        if few:
            allowed = ", ".join(f"at most {heads - 1} for {path}" for path, heads in few.items())
            raise InputError(Problem("heads", self.heads, allowed, f"skip: [{', '.join(few)}]"))

    def _count(self, heads: int) -> int:
        if self.ratio is None:
            return self.heads or 0
        return min(int(self.ratio * heads + 0.5), heads - 1)


def _notes(model: nn.Module, heads: Mapping[str, int], gone: Iterable[str]) -> tuple[str, ...]:
    whole = [
        f"{path} (the share of {heads[path]} heads is none)" for path in set(heads) - set(gone)
    ]
    return (*([f"left: {', '.join(sorted(whole))}"] if whole else []), *_unknown(model))


def _unknown(model: nn.Module) -> tuple[str, ...]:
    from torch import nn

    found = [path for path, one in model.named_modules() if isinstance(one, nn.MultiheadAttention)]
    return (f"left: {', '.join(found)} (nn.MultiheadAttention cannot lose heads)",) * bool(found)
