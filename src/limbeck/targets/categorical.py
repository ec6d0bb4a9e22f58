"""Soft targets over all classes, the top-k classes, or sampled classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, TypeVar, get_args

import torch
from torch import Tensor
from torch.nn.functional import pad

from limbeck.core.numbers import is_positive, is_whole
from limbeck.core.tensors import precise
from limbeck.errors import InputError, Problem, did_you_mean

Rows: TypeAlias = slice | Tensor
"""A selection of elements: a slice, or indices `[selected]`."""
Tail: TypeAlias = Literal["bucket", "renormalize"]


_T = TypeVar("_T", bound="Movable")


@dataclass(frozen=True, eq=False)
class Movable:
    """Targets whose tensors move between devices."""

    def to(self: _T, device: torch.device) -> _T:
        """Return the targets on a device."""
        tensors = {name: x.to(device) for name, x in vars(self).items() if isinstance(x, Tensor)}
        return replace(self, **tensors)


_R = TypeVar("_R", bound="RowTargets")


@dataclass(frozen=True, eq=False)
class RowTargets(Movable):
    """Targets whose tensors have one row per element."""

    def take(self: _R, rows: Rows) -> _R:
        """Return the targets of some elements."""
        tensors = {name: x[rows] for name, x in vars(self).items() if isinstance(x, Tensor)}
        return replace(self, **tensors)

    def select(self: _R, rows: Rows) -> _R:
        """Return the targets of some elements, in the same form."""
        return self.take(rows)


@dataclass(frozen=True, eq=False)
class DenseTargets(RowTargets):
    """All of the teacher's logits.

    Attributes:
        logits: One row per element, `[elements, classes]`; log-probabilities are valid, too.

    Example:
        >>> import torch
        >>> targets = DenseTargets(torch.zeros(2, 3))
        >>> targets.elements, targets.classes
        (2, 3)
    """

    logits: Tensor

    @property
    def elements(self) -> int:
        """Return the number of elements."""
        return self.logits.shape[0]

    @property
    def classes(self) -> int:
        """Return the teacher's number of classes."""
        return self.logits.shape[-1]

    @property
    def values(self) -> Tensor:
        """Return the logits, for losses on tensors."""
        return self.logits


@dataclass(frozen=True, eq=False)
class TopKTargets(RowTargets):
    """The top-k classes of each element, with a treatment of the tail.

    Attributes:
        ids: The classes, integers `[elements, k]`.
        log_probabilities: Their log-probabilities at a temperature of 1, `[elements, k]`.
        classes: The teacher's number of classes.
        tail: `bucket` merges all other classes into one more class; `renormalize` drops them, for
            the student, too.
        log_tail: The log-probability of all other classes together, `[elements]`. None uses 1 minus
            the sum, which is inexact for a confident teacher.

    Raises:
        InputError: Inconsistent shapes, dtypes or settings.

    Example:
        >>> import torch
        >>> TopKTargets.of(torch.tensor([[3.0, 0.0, 2.0]]), 2).ids
        tensor([[0, 2]])
        >>> TopKTargets(torch.tensor([[0, 2]]), torch.zeros(1, 3), classes=3)
        Traceback (most recent call last):
        ...
        limbeck.errors.InputError: TopKTargets.log_probabilities: got (1, 3); allowed: (1, 2), as
        the ids have
    """

    ids: Tensor
    log_probabilities: Tensor
    classes: int
    tail: Tail = "bucket"
    log_tail: Tensor | None = None

    def __post_init__(self) -> None:
        problems = [
            *_id_problems("TopKTargets", self.ids),
            *_shape_problems("TopKTargets.log_probabilities", self.log_probabilities, self.ids),
        ]
        if not is_whole(self.classes, least=1):
            problems.append(Problem("TopKTargets.classes", self.classes, "a whole number above 0"))
        if self.tail not in (tails := get_args(Tail)):
            fix = did_you_mean(self.tail, tails)
            problems.append(Problem("TopKTargets.tail", self.tail, ", ".join(tails), fix))
        if self.log_tail is not None and self.log_tail.shape != self.ids.shape[:1]:
            allowed = f"one per element, {tuple(self.ids.shape[:1])}"
            problems.append(Problem("TopKTargets.log_tail", tuple(self.log_tail.shape), allowed))
        if problems:
            raise InputError(*problems)

    @classmethod
    def of(cls, logits: Tensor, k: int, *, tail: Tail = "bucket") -> TopKTargets:
        """Return the k most probable classes of each element.

        Args:
            logits: The teacher's logits, `[elements, classes]`.
            k: The number of classes to keep, from 1 to all.
            tail: See the attribute.

        Raises:
            InputError: Logits that are not `[elements, classes]`, or a k out of range.
        """
        _check_logits(logits, where="TopKTargets.of.logits")
        if not (is_whole(k, least=1) and k <= logits.shape[1]):
            allowed = f"a whole number from 1 to {logits.shape[1]}"
            raise InputError(Problem("TopKTargets.of.k", k, allowed))
        logits = precise(logits.detach())
        highest, ids = logits.topk(k, dim=-1)
        others = logits.scatter(1, ids, -float("inf")).logsumexp(-1)
        total = logits.logsumexp(-1)
        return cls(ids, highest - total.unsqueeze(1), logits.shape[1], tail, others - total)

    @property
    def elements(self) -> int:
        """Return the number of elements."""
        return self.ids.shape[0]

    @classmethod
    def joined(cls, parts: Sequence[TopKTargets]) -> TopKTargets:
        """Return the targets of several groups of elements, with the same settings."""
        tails = [one.log_tail for one in parts if one.log_tail is not None]
        return replace(
            parts[0],
            ids=torch.cat([one.ids for one in parts]),
            log_probabilities=torch.cat([one.log_probabilities for one in parts]),
            log_tail=torch.cat(tails) if len(tails) == len(parts) else None,
        )


@dataclass(frozen=True, eq=False)
class SampledTargets(RowTargets):
    """Classes sampled from the teacher's distribution, an unbiased estimate of all of it.

    The teacher's probability of a sampled class is estimated by importance sampling, as
    counts/draws times probability over proposal probability.

    Attributes:
        ids: The sampled classes, integers `[elements, n]`. Rows may be padded with a class that has
            a count of 0.
        counts: The number of draws of each class, `[elements, n]`.
        log_probabilities: The teacher's log-probabilities of these classes, at `temperature`,
            `[elements, n]`.
        log_proposal: Log-probabilities of the classes in one draw, `[elements, n]`; None if classes
            were drawn with the teacher's own probabilities.
        temperature: The teacher's temperature at sampling.
        classes: The teacher's number of classes; None if equal to the student's.
        exact: Whether each log-probability is that of its class. If not, all of an element are
            their mean over the draws: `forward_kl` has the same value and gradient by them, other
            divergences need each.

    Raises:
        InputError: Inconsistent shapes, dtypes or settings.

    Example:
        >>> import torch
        >>> generator = torch.Generator().manual_seed(0)
        >>> targets = SampledTargets.draw(torch.tensor([[9.0, 0.0]]), draws=5, generator=generator)
        >>> targets.ids, targets.counts
        (tensor([[0]]), tensor([[5.]]))

    Source: Anshumann et al. 2025 (arXiv 2503.16870).
    """

    ids: Tensor
    counts: Tensor
    log_probabilities: Tensor
    log_proposal: Tensor | None = None
    temperature: float = 1.0
    classes: int | None = None
    exact: bool = True

    def __post_init__(self) -> None:
        problems = [*_id_problems("SampledTargets", self.ids)]
        for field in ("counts", "log_probabilities", "log_proposal"):
            if (given := getattr(self, field)) is not None:
                floating = field != "counts"
                where = f"SampledTargets.{field}"
                problems += _shape_problems(where, given, self.ids, floating=floating)
        problems += _positive_problems("SampledTargets", temperature=self.temperature)
        if not self.exact and self.log_proposal is not None:
            allowed = "True, with log_proposal: the weight of a class needs its probability"
            problems.append(Problem("SampledTargets.exact", False, allowed))
        if problems:
            raise InputError(*problems)

    @classmethod
    def draw(
        cls,
        logits: Tensor,
        *,
        draws: int,
        temperature: float = 1.0,
        proposal_power: float = 1.0,
        generator: torch.Generator | None = None,
        uniform: Tensor | None = None,
    ) -> SampledTargets:
        """Sample classes from the teacher's distribution, or from a flatter or steeper one.

        Args:
            logits: The teacher's logits, `[elements, classes]`.
            draws: The number of draws per element, with replacement.
            temperature: The teacher's temperature. The divergence must use the same one.
            proposal_power: The exponent of the teacher's probabilities in the proposal: below 1,
                rare classes are drawn more often, with a smaller weight.
            generator: The random generator, on the device of the logits.
            uniform: Numbers in [0, 1) to draw by, `[elements, draws]`, in place of a generator.

        Raises:
            InputError: Logits that are not `[elements, classes]`, or a number <= 0.
        """
        where = "SampledTargets.draw"
        _check_logits(logits, where=f"{where}.logits")
        problems = _positive_problems(where, temperature=temperature, proposal_power=proposal_power)
        if not is_whole(draws, least=1):
            problems.insert(0, Problem(f"{where}.draws", draws, "a whole number above 0"))
        if problems:
            raise InputError(*problems)
        logs = (precise(logits.detach()) / temperature).log_softmax(-1)
        same = proposal_power == 1
        proposal = logs if same else (logs * proposal_power).log_softmax(-1)
        drawn = logits.new_zeros((0, 1), dtype=torch.long)
        if uniform is not None:
            drawn = _inverse_transform(proposal, uniform)
        elif len(logits):
            drawn = torch.multinomial(proposal.exp(), draws, replacement=True, generator=generator)
        ids, counts = _merge_draws(drawn)
        log_proposal = None if same else proposal.gather(1, ids)
        counts, log_probabilities = counts.to(logs.dtype), logs.gather(1, ids)
        classes = logits.shape[1]
        return cls(ids, counts, log_probabilities, log_proposal, float(temperature), classes)

    @property
    def elements(self) -> int:
        """Return the number of elements."""
        return self.ids.shape[0]

    def mean_only(self) -> SampledTargets:
        """Return the same draws with the mean of the log-probabilities in place of each.

        They take a third of the memory, and are enough for `forward_kl`.
        """
        share = self.counts / self.counts.sum(1, keepdim=True)
        finite = self.log_probabilities.masked_fill(self.counts == 0, 0)
        mean = (share * finite).sum(1, keepdim=True).expand_as(finite)
        return replace(self, log_probabilities=mean, exact=False)

    @classmethod
    def joined(cls, parts: Sequence[SampledTargets]) -> SampledTargets:
        """Return the targets of several groups of elements, drawn with the same settings."""
        width = max(one.ids.shape[1] for one in parts)

        def joined(columns: Sequence[Tensor]) -> Tensor:
            return torch.cat([pad(one, (0, width - one.shape[1])) for one in columns])

        proposals = [one.log_proposal for one in parts if one.log_proposal is not None]
        return replace(
            parts[0],
            ids=joined([one.ids for one in parts]),
            counts=joined([one.counts for one in parts]),
            log_probabilities=joined([one.log_probabilities for one in parts]),
            log_proposal=joined(proposals) if len(proposals) == len(parts) else None,
        )


def _inverse_transform(log_probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Return the classes whose cumulative probabilities first exceed uniform numbers."""
    cumulative = log_probabilities.double().exp().cumsum(-1)
    # The last sum differs from 1 by rounding; classes of probability 0 after it must not be drawn.
    return torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)


def _merge_draws(drawn: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct ids of each row and their counts, padded with a count of 0."""
    ordered = drawn.sort(dim=1).values
    new = torch.ones_like(ordered, dtype=torch.bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    place = new.cumsum(1) - 1
    width = int(place.max()) + 1 if place.numel() else 1
    zeros = ordered.new_zeros((len(ordered), width))
    return zeros.scatter(1, place, ordered), zeros.scatter_add(1, place, torch.ones_like(place))


def _check_logits(logits: Tensor, *, where: str) -> None:
    if logits.ndim != 2 or logits.shape[1] == 0 or not logits.is_floating_point():
        given = f"{logits.dtype} {tuple(logits.shape)}"
        raise InputError(Problem(where, given, "floating-point [elements, classes]"))


def _id_problems(where: str, ids: Tensor) -> list[Problem]:
    if ids.dtype not in (torch.int64, torch.int32):
        fix = "Convert them with .long()."
        return [Problem(f"{where}.ids", str(ids.dtype), "whole numbers, int64 or int32", fix)]
    if ids.ndim != 2 or ids.shape[1] == 0:
        allowed = "a tensor [elements, k] with at least one class per element"
        return [Problem(f"{where}.ids", tuple(ids.shape), allowed)]
    return []


def _shape_problems(
    where: str, given: Tensor, ids: Tensor, *, floating: bool = True
) -> list[Problem]:
    if given.shape != ids.shape:
        return [Problem(where, tuple(given.shape), f"{tuple(ids.shape)}, as the ids have")]
    if floating and not given.is_floating_point():
        fix = "Convert it with .float()."
        return [Problem(where, str(given.dtype), "a floating-point tensor", fix)]
    return []


def _positive_problems(where: str, **numbers: object) -> list[Problem]:
    return [
        Problem(f"{where}.{name}", given, "a finite number above 0")
        for name, given in numbers.items()
        if not is_positive(given)
    ]
