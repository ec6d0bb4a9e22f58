"""Layer pruning (depth pruning)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from limbeck.compress.method import CalibrationContext, CompressError, Method, TransformResult
from limbeck.errors import InputError, Problem

if TYPE_CHECKING:
    from torch import nn


class Layers(Method):
    """Layer pruning: removes whole residual blocks or transformer layers.

    A layer can be removed if it is an entry of an `nn.ModuleList` or `nn.Sequential` and its output
    has the shape of its input: its input then goes to the next layer. In a list, later layers move
    up, so that **their paths change**; a sequence keeps its paths.

    Criteria, unless `drop` lists the layers:

    - `sensitivity`: greedily, each time the layer whose removal gives the best score on the
      validation samples; ties are broken by the lowest loss on training samples;
    - `last`: the layers nearest to the output;
    - `uniform`: evenly spaced layers.

    Source: Fan, Grave and Joulin 2020 (LayerDrop, arXiv:1909.11556); Sajjad et al. 2023
    (arXiv:2004.03844).

    Example:
        >>> Layers(count=2, by="last").drop is None
        True
    """

    drop: Annotated[
        list[Annotated[int, Field(ge=-100_000, le=100_000)] | str] | None,
        Field(min_length=1, description="Layers by number (from 0), path or pattern."),
    ] = None
    count: Annotated[int | None, Field(ge=1, le=100_000, description="How many layers go.")] = None
    by: Annotated[
        Literal["sensitivity", "last", "uniform"],
        Field(description="With `count`: which layers go."),
    ] = "sensitivity"

    @model_validator(mode="after")
    def _one_choice(self) -> Layers:
        if (self.drop is None) == (self.count is None):
            found = "none" if self.drop is None else "both"
            raise ValueError(f"got {found}; allowed: exactly one of drop, count")
        if self.drop is not None and "by" in self.model_fields_set:
            raise ValueError("by says which layers go when there is a count; drop names them")
        return self

    def check(self, model: nn.Module, work: CalibrationContext) -> None:
        """Check that the layers can be removed.

        Raises:
            InputError: A layer does not exist or cannot be removed, or none would be left.
            CompressError: No layer can be removed.
        """
        self._found(model, work)

    def transform(self, model: nn.Module, work: CalibrationContext) -> TransformResult:
        """Remove layers of a model in place.

        Raises:
            InputError: As from `check`.
            CompressError: As from `check`, or the model's code does not run without the layers.
        """
        from limbeck.compress.changes import drop
        from limbeck.compress.drop_layers import least_important, spread, without
        from limbeck.compress.structure import answer, cost, trouble
        from limbeck.compress.verify_structure import departs_from_bypassed

        before, like = cost(model, work), answer(model, work)
        found = self._found(model, work)
        if self.drop is not None or self.count is None:
            gone = found
        elif self.by == "sensitivity":
            gone = least_important(model, found, self.count, work)
        else:
            gone = found[-self.count :] if self.by == "last" else spread(found, self.count)
        gone.sort(key=list(dict(model.named_modules())).index)
        wrong = trouble(without(model, gone), work, like)
        if wrong:
            raise CompressError(f"the model does not run without {', '.join(gone)}: {wrong}")
        change = {"kind": "drop", "layers": gone}
        wrong = departs_from_bypassed(model, change, gone, work)
        if wrong:
            raise CompressError(
                f"without {', '.join(gone)} the model does not predict as with their outputs "
                f"replaced by their inputs ({wrong}): its code counts layers, or uses more than "
                "what a layer returns. Choose other layers."
            )
        drop.apply(model, layers=gone)
        what = f"{len(gone)} layers taken out ({', '.join(gone)})"
        cost_now = before.to(cost(model, work))
        return TransformResult(change, f"{what}, {cost_now}")

    def _found(self, model: nn.Module, work: CalibrationContext) -> list[str]:
        """Return the layers set by the user, or else the candidates."""
        from limbeck.compress.drop_layers import blocks, candidates, named

        every = candidates(model, work)
        found = blocks(model, every)
        if not found:
            allowed = "an entry of a ModuleList or Sequential that puts out the shape it takes in"
            raise CompressError(f"no layer can be taken out; what can is {allowed}")
        if self.drop is not None:
            return named(found, every, self.drop)
        if self.count is not None and self.count >= len(found):
            allowed = f"at most {len(found) - 1}, which leaves one of {', '.join(found)}"
            raise InputError(Problem("count", self.count, allowed))
        return found
