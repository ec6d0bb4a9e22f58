"""Layer pruning (depth pruning)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from torch import nn

from limbeck.compress.changes import drop
from limbeck.compress.drop_layers import (
    blocks,
    candidates,
    evenly_spaced,
    least_important,
    resolve,
    without,
)
from limbeck.compress.method import CalibrationContext, CompressError, Method, TransformResult
from limbeck.compress.structure import cost, run_error, two_samples
from limbeck.compress.trace import predict
from limbeck.compress.verify_structure import departs_from_bypassed
from limbeck.errors import InputError, Problem


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

    drop: list[Annotated[int, Field(ge=-100_000, le=100_000)] | str] | None = Field(
        None, min_length=1, description="Layers by number (from 0), path or pattern."
    )
    count: int | None = Field(None, ge=1, le=100_000, description="Number of layers to remove.")
    by: Literal["sensitivity", "last", "uniform"] = Field(
        "sensitivity", description="With `count`: the criterion that selects the layers."
    )

    @model_validator(mode="after")
    def _one_choice(self) -> Layers:
        if (self.drop is None) == (self.count is None):
            found = "none" if self.drop is None else "both"
            raise ValueError(f"got {found}; allowed: exactly one of drop, count")
        if self.drop is not None and "by" in self.model_fields_set:
            raise ValueError("by selects the layers for a count; it cannot be combined with drop")
        return self

    def check(self, model: nn.Module, work: CalibrationContext) -> None:
        """Check that the layers can be removed."""
        self._layers(model, work)

    def transform(self, model: nn.Module, work: CalibrationContext) -> TransformResult:
        """Remove layers of a model in place."""
        before, shape = cost(model, work), predict(model, two_samples(work), work).shape
        gone = self._layers(model, work)
        if self.count is not None and self.by == "sensitivity":
            gone = least_important(model, gone, self.count, work)
        elif self.count is not None:
            gone = gone[-self.count :] if self.by == "last" else evenly_spaced(gone, self.count)
        gone.sort(key=list(dict(model.named_modules())).index)
        paths = ", ".join(gone)
        error = run_error(without(model, gone), work, shape)
        if error:
            raise CompressError(f"the model does not run without {paths}: {error}")
        change = {"kind": "drop", "layers": gone}
        error = departs_from_bypassed(model, change, gone, work)
        if error:
            raise CompressError(
                f"without {paths} the model does not predict as with their outputs replaced by "
                f"their inputs ({error}): its code counts layers, or uses more than what a layer "
                "returns. Select other layers."
            )
        drop.apply(model, layers=gone)
        what = f"{len(gone)} layers removed ({paths}), {before.to(cost(model, work))}"
        return TransformResult(change, what)

    def _layers(self, model: nn.Module, work: CalibrationContext) -> list[str]:
        """Return the layers set by the user, or else the candidates."""
        removable = candidates(model, work)
        found = blocks(model, removable)
        if not found:
            allowed = "an entry of a ModuleList or Sequential whose output has its input's shape"
            raise CompressError(f"no layer can be removed; allowed: {allowed}")
        if self.drop is not None:
            return resolve(found, removable, self.drop)
        if self.count is not None and self.count >= len(found):
            allowed = f"at most {len(found) - 1}, which leaves one of {', '.join(found)}"
            raise InputError(Problem("count", self.count, allowed))
        return found
