"""The forms in which a teacher returns its soft targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from limbeck.core.numbers import is_positive, is_whole
from limbeck.core.random import keyed_uniform
from limbeck.errors import InputError, Problem, did_you_mean
from limbeck.targets import (
    Answer,
    BernoulliTargets,
    DenseTargets,
    HeadTargets,
    SampledTargets,
    Targets,
    TopKTargets,
    ValueTargets,
    expanded,
)
from limbeck.tasks import Batch, Kind, Output, Response

Form: TypeAlias = Literal["dense", "top_k", "sampled", "head"]
BLOCK = 2**26
"""The bytes of a teacher's logits that are formed at once."""


@dataclass(frozen=True)
class TargetForm:
    """The form of the targets of categorical outputs; other kinds have one form each.

    Attributes:
        form: `dense`: all logits; of an output with hidden states and a head in their place, these.
            `top_k`: the k most probable classes and the mass of the others. `sampled`: classes
            drawn from the teacher's distribution, an unbiased estimate of it. `head`: hidden states
            and the head, for tasks that give these.
        k: The number of classes of `top_k`.
        draws: The number of draws per element of `sampled`.
        temperature: The teacher's temperature of `sampled`; the divergence must use the same one.
        exact: Whether `sampled` has the log-probability of each class; their mean over the draws
            takes a third of the memory, and is enough for `forward_kl`.
        seed: The seed of `sampled`; draws depend on it and on the sample and view, never on the
            batch.

    Raises:
        InputError: An unknown form, or a number out of range.

    Example:
        >>> TargetForm("topk")
        Traceback (most recent call last):
        ...
        limbeck.errors.InputError: targets: got 'topk'; ... did you mean "top_k"?
    """

    form: Form = "dense"
    k: int = 16
    draws: int = 64
    temperature: float = 1.0
    seed: int = 0
    exact: bool = True

    def __post_init__(self) -> None:
        problems = []
        if self.form not in (forms := get_args(Form)):
            fix = did_you_mean(str(self.form), forms)
            problems.append(Problem("targets", self.form, ", ".join(forms), fix))
        problems += [
            Problem(f"targets.{name}", number, "a whole number above 0")
            for name, number in (("k", self.k), ("draws", self.draws))
            if not is_whole(number, least=1)
        ]
        if not is_positive(self.temperature):
            given = self.temperature
            problems.append(Problem("targets.temperature", given, "a finite number above 0"))
        if problems:
            raise InputError(*problems)

    def answer(self, response: Response, kinds: Mapping[str, Kind], batch: Batch) -> Answer:
        """Return a model's response as a teacher's answer, each output in its form.

        Raises:
            InputError: As for `targets`.
        """
        outputs = response.outputs.items()
        targets = {name: self.targets(one, kinds[name], batch) for name, one in outputs}
        return Answer(targets, response.taps)

    def targets(self, output: Output, kind: Kind, batch: Batch) -> Targets:
        """Return an output of the teacher in this form.

        Args:
            output: The teacher's output.
            kind: The kind of the output.
            batch: The batch; `sampled` needs its `index`, and uses its `view`.

        Raises:
            InputError: The output has no values, no head, or the batch no index.
        """
        if kind == "binary" and output.values is not None:
            return BernoulliTargets(output.values)
        if kind != "categorical" and output.values is not None:
            return ValueTargets(output.values)
        if self.form == "head" or (self.form == "dense" and output.values is None):
            return _head(output)
        if self.form == "dense" and output.values is not None:
            return DenseTargets(output.values)
        uniform = None
        if self.form == "sampled":
            uniform = keyed_uniform(_keys(output, batch), self.draws, seed=self.seed)
        if output.values is not None:
            return self._sparse(output.values, uniform)
        return self._in_blocks(output, uniform)

    def _sparse(self, logits: Tensor, uniform: Tensor | None) -> TopKTargets | SampledTargets:
        if uniform is None:
            return TopKTargets.of(logits, min(self.k, logits.shape[-1]))
        drawn = SampledTargets.draw(
            logits, draws=self.draws, temperature=self.temperature, uniform=uniform
        )
        return drawn if self.exact else drawn.mean_only()

    def _in_blocks(self, output: Output, uniform: Tensor | None) -> Targets:
        """Compute the logits of elements with weight a block at a time, and keep few of each."""
        head = _head(output)
        kept = output.weights > 0
        rows = kept.nonzero().flatten()
        if not len(rows):  # a batch of padding: any targets serve
            kept, rows = torch.ones_like(kept), torch.arange(len(kept), device=kept.device)
        size = max(1, BLOCK // (4 * head.classes))
        top: list[TopKTargets] = []
        drawn: list[SampledTargets] = []
        for some in rows.split(size):
            one = self._sparse(head.take(some).logits, None if uniform is None else uniform[some])
            if isinstance(one, TopKTargets):
                top.append(one)
            else:
                drawn.append(one)
        return expanded(TopKTargets.joined(top) if top else SampledTargets.joined(drawn), kept)


def _head(output: Output) -> HeadTargets:
    if output.hidden is None or output.head is None:
        allowed = "a task that gives hidden states and a head"
        fix = "Use targets='dense' or 'top_k', if it has logits."
        raise InputError(Problem("teacher.targets", "head", allowed, fix))
    weight, bias = output.head.weight, output.head.bias
    assert isinstance(weight, Tensor)
    own = bias if isinstance(bias, Tensor) else None
    return HeadTargets(output.hidden, weight, own, output.softcap)


def _keys(output: Output, batch: Batch) -> Tensor:
    """Return sample, view and position within the sample of each element, `[elements, 3]`."""
    if "index" not in batch:
        fix = "Take batches from a limbeck.data split, or use targets='dense' or 'top_k'."
        allowed = "index, int64 [n], by which targets are sampled"
        raise InputError(Problem("batch", list(batch), allowed, fix))
    index, sample_of = batch["index"], output.sample_of
    view = batch.get("view", torch.zeros_like(index))
    counts = torch.bincount(sample_of, minlength=len(index))
    starts = counts.cumsum(0) - counts
    position = torch.arange(len(sample_of), device=sample_of.device) - starts[sample_of]
    return torch.stack([index[sample_of], view[sample_of], position], dim=1)
