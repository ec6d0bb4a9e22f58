"""Take out whole layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from limbeck.compress.change import Changed, CompressError
from limbeck.compress.method import Method, Work
from limbeck.errors import InputError, Problem

if TYPE_CHECKING:
    from torch import nn


class Layers(Method):
    """Take out whole layers: residual blocks, transformer layers.

    A layer can go if it is an entry of an `nn.ModuleList` or `nn.Sequential` and puts out what it
    takes in, in shape: what came before it then goes to what comes after it. In a list later
    layers move up, so that **their paths change**; a sequence keeps its paths.

    Which layers go, if they are not named in `drop`:

    - `sensitivity`: one by one, each time the layer without which the model does best on the
      validation samples; among equals, the one that leaves the lowest loss on training samples;
    - `last`: those nearest to the answer;
    - `uniform`: at even distances.

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

    def check(self, model: nn.Module, work: Work) -> None:
        """Find the layers that can go.

        Raises:
            InputError: A layer that does not exist or cannot go, or as many as there are.
            CompressError: No layer can go.
        """
        self._found(model, work)

    def change(self, model: nn.Module, work: Work) -> Changed:
        """Take layers out of a model in place.

        Raises:
            InputError: As from `check`.
            CompressError: As from `check`, or the model's code does not run without the layers.
        """
        from limbeck.compress.changes import drop
        from limbeck.compress.structure.drop import least_harmful, spread, without
        from limbeck.compress.structure.resize import answer, cost, trouble
        from limbeck.compress.structure.verify import departs_from_bypassed

        before, like = cost(model, work), answer(model, work)
        found = self._found(model, work)
        if self.drop is not None or self.count is None:
            gone = found
        elif self.by == "sensitivity":
            gone = least_harmful(model, found, self.count, work)
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
        return Changed(change, f"{what}, {cost_now}")

    def _found(self, model: nn.Module, work: Work) -> list[str]:
        """Give the layers that are named; without names, those to choose from."""
        from limbeck.compress.structure.drop import blocks, candidates, named

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
