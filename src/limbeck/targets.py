"""The forms that a teacher's soft answer takes.

A form says what was kept of the teacher's distribution: all logits, the likeliest classes, some
classes drawn by chance, or the hidden states that the logits are made of.
`limbeck.losses.divergence` and `fused_divergence` take any of them.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from limbeck.errors import InputError, Problem, did_you_mean

Rows: TypeAlias = slice | Tensor
"""Which units: a slice, or their numbers `[chosen]`."""

Tail: TypeAlias = Literal["bucket", "renormalize"]


@dataclass(frozen=True, eq=False)
class DenseTargets:
    """All of the teacher's logits.

    Attributes:
        logits: One row a unit, `[units, classes]`; log-probabilities serve as well.

    Example:
        >>> import torch
        >>> targets = DenseTargets(torch.zeros(2, 3))
        >>> targets.units, targets.classes
        (2, 3)
    """

    logits: Tensor

    @property
    def units(self) -> int:
        """How many units are answered."""
        return self.logits.shape[0]

    @property
    def classes(self) -> int:
        """How many classes the teacher knows."""
        return self.logits.shape[-1]

    def take(self, rows: Rows) -> DenseTargets:
        """Give the answer to some of the units."""
        return DenseTargets(self.logits[rows])


@dataclass(frozen=True, eq=False)
class TopKTargets:
    """The likeliest classes of each unit, and what becomes of the others.

    Attributes:
        ids: The classes, `[units, k]`, whole numbers.
        log_probabilities: Theirs at a temperature of 1, `[units, k]`.
        classes: How many classes the teacher knows.
        tail: `bucket` takes all other classes together as one more class; `renormalize` leaves
            them out, for the student, too.
        log_tail: The log-probability of all other classes together, `[units]`. None takes what is
            missing to 1, of which rounding leaves little where the teacher is sure.

    Raises:
        InputError: Shapes, types or settings that do not go together.

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
            *_of_ids("TopKTargets", self.ids),
            *_of_shape("TopKTargets", "log_probabilities", self.log_probabilities, self.ids),
        ]
        if isinstance(self.classes, bool) or not isinstance(self.classes, int) or self.classes < 1:
            problems.append(Problem("TopKTargets.classes", self.classes, "a whole number above 0"))
        if self.tail not in get_args(Tail):
            tails = get_args(Tail)
            fix = did_you_mean(self.tail, tails)
            problems.append(Problem("TopKTargets.tail", self.tail, ", ".join(tails), fix))
        if self.log_tail is not None and self.log_tail.shape != self.ids.shape[:1]:
            given, allowed = tuple(self.log_tail.shape), f"one a unit, {tuple(self.ids.shape[:1])}"
            problems.append(Problem("TopKTargets.log_tail", given, allowed))
        if problems:
            raise InputError(*problems)

    @classmethod
    def of(cls, logits: Tensor, k: int, *, tail: Tail = "bucket") -> TopKTargets:
        """Keep the k likeliest classes of each unit.

        Args:
            logits: The teacher's, `[units, classes]`.
            k: How many, from 1 to the number of classes.
            tail: As the attribute.

        Raises:
            InputError: Logits that are not `[units, classes]`, or a k out of range.
        """
        _check_logits("TopKTargets.of", logits)
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= logits.shape[1]:
            allowed = f"a whole number from 1 to {logits.shape[1]}"
            raise InputError(Problem("TopKTargets.of.k", k, allowed))
        logits = _precise(logits.detach())
        highest, ids = logits.topk(k, dim=-1)
        others = logits.scatter(1, ids, -float("inf")).logsumexp(-1)
        total = logits.logsumexp(-1)
        return cls(ids, highest - total.unsqueeze(1), logits.shape[1], tail, others - total)

    @property
    def units(self) -> int:
        """How many units are answered."""
        return self.ids.shape[0]

    def take(self, rows: Rows) -> TopKTargets:
        """Give the answer to some of the units."""
        tail = None if self.log_tail is None else self.log_tail[rows]
        kept = self.log_probabilities[rows]
        return replace(self, ids=self.ids[rows], log_probabilities=kept, log_tail=tail)


@dataclass(frozen=True, eq=False)
class SampledTargets:
    """Classes drawn by chance: few of them, and on average the whole distribution.

    The teacher's probability of a drawn class is estimated as counts/draws times probability over
    the probability of drawing it, which no choice of classes biases.

    Attributes:
        ids: The drawn classes, `[units, n]`, whole numbers. Rows may be filled up with any class
            that is counted 0 times.
        counts: How often each was drawn, `[units, n]`.
        log_probabilities: The teacher's of these classes, at `temperature`, `[units, n]`.
        log_proposal: Of drawing each of these classes in one draw, `[units, n]`; None if they were
            drawn with the teacher's own probabilities.
        temperature: The teacher's when it was sampled.
        classes: How many classes the teacher knows; None if as many as the student.

    Raises:
        InputError: Shapes, types or settings that do not go together.

    Example:
        >>> import torch
        >>> chance = torch.Generator().manual_seed(0)
        >>> targets = SampledTargets.draw(torch.tensor([[9.0, 0.0]]), draws=5, generator=chance)
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

    def __post_init__(self) -> None:
        name = "SampledTargets"
        problems = [*_of_ids(name, self.ids)]
        for field in ("counts", "log_probabilities", "log_proposal"):
            if (given := getattr(self, field)) is not None:
                whole = field == "counts"
                problems += _of_shape(name, field, given, self.ids, floating=not whole)
        if not _is_positive(self.temperature):
            allowed = "a finite number above 0"
            problems.append(Problem(f"{name}.temperature", self.temperature, allowed))
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
    ) -> SampledTargets:
        """Draw classes from the teacher's distribution, or from a flatter or steeper one.

        Args:
            logits: The teacher's, `[units, classes]`.
            draws: How many a unit; a class may be drawn again.
            temperature: Of the teacher. The divergence has to be taken at the same one.
            proposal_power: Classes are drawn with the teacher's probabilities to this power: below
                1 rare classes come more often, and count less.
            generator: Of random numbers, on the device of the logits.

        Raises:
            InputError: Logits that are not `[units, classes]`, or a number not above 0.
        """
        where = "SampledTargets.draw"
        _check_logits(where, logits)
        _check_draws(where, draws, temperature, proposal_power)
        logs = (_precise(logits.detach()) / temperature).log_softmax(-1)
        proposal = logs if proposal_power == 1 else (logs * proposal_power).log_softmax(-1)
        chance = proposal.exp()
        drawn = (
            torch.multinomial(chance, draws, replacement=True, generator=generator)
            if len(logits)
            else logits.new_zeros((0, 1), dtype=torch.long)
        )
        ids, counts = _counted(drawn)
        return cls(
            ids,
            counts.to(logs.dtype),
            logs.gather(1, ids),
            None if proposal_power == 1 else proposal.gather(1, ids),
            float(temperature),
            logits.shape[1],
        )

    @property
    def units(self) -> int:
        """How many units are answered."""
        return self.ids.shape[0]

    def take(self, rows: Rows) -> SampledTargets:
        """Give the answer to some of the units."""
        proposal = None if self.log_proposal is None else self.log_proposal[rows]
        return replace(
            self,
            ids=self.ids[rows],
            counts=self.counts[rows],
            log_probabilities=self.log_probabilities[rows],
            log_proposal=proposal,
        )


@dataclass(frozen=True, eq=False)
class HeadTargets:
    """The teacher's last hidden states and its head; logits are formed a few rows at a time.

    Logits are hidden · weightᵀ + bias, then `softcap` · tanh(logits / softcap) if there is one.

    Attributes:
        hidden: `[units, features]`.
        weight: `[classes, features]`.
        bias: `[classes]`, if the head has one.
        softcap: The bound that logits are bent to, if there is one.

    Raises:
        InputError: Shapes or types that do not go together.

    Example:
        >>> import torch
        >>> HeadTargets(torch.ones(2, 4), torch.eye(4)).take(slice(0, 1)).logits
        tensor([[1., 1., 1., 1.]])
    """

    hidden: Tensor
    weight: Tensor
    bias: Tensor | None = None
    softcap: float | None = None

    def __post_init__(self) -> None:
        problems = list(head_problems("HeadTargets", self.hidden, self.weight, self.bias))
        if self.softcap is not None and not _is_positive(self.softcap):
            allowed = "a finite number above 0, or None"
            problems.append(Problem("HeadTargets.softcap", self.softcap, allowed))
        if problems:
            raise InputError(*problems)

    @property
    def units(self) -> int:
        """How many units are answered."""
        return self.hidden.shape[0]

    @property
    def classes(self) -> int:
        """How many classes the teacher knows."""
        return self.weight.shape[0]

    def take(self, rows: Rows) -> DenseTargets:
        """Form the logits of some of the units."""
        weight, bias = self.weight.detach(), self.bias
        # An autocast would give other logits forward than backward, where there is none.
        with _without_autocast(weight.device.type):
            logits = self.hidden.detach()[rows].to(weight.dtype) @ weight.T
        if bias is not None:
            logits += bias.detach().to(logits.dtype)
        return DenseTargets(capped(logits, self.softcap))

    def cut(self, classes: int) -> HeadTargets:
        """Leave out the classes from this number on; no copy is made."""
        bias = None if self.bias is None else self.bias[:classes]
        return replace(self, weight=self.weight[:classes], bias=bias)


Targets: TypeAlias = DenseTargets | TopKTargets | SampledTargets | HeadTargets


def capped(logits: Tensor, softcap: float | None) -> Tensor:
    """Bend fresh logits to ±softcap, in place.

    Example:
        >>> capped(torch.tensor([1000.0]), 30.0)
        tensor([30.])
    """
    return logits if softcap is None else logits.div_(softcap).tanh_().mul_(softcap)


def head_problems(
    where: str, hidden: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Problem, ...]:
    """Say what keeps hidden states and a head from making logits.

    Example:
        >>> head_problems("head", torch.zeros(2, 3), torch.zeros(5, 3), None)
        ()
    """
    if not (hidden.ndim == 2 and hidden.is_floating_point()):
        given = f"{hidden.dtype} {tuple(hidden.shape)}"
        fix = "Flatten to one row a unit: hidden.flatten(0, -2)."
        return (Problem(f"{where}.hidden", given, "floating-point [units, features]", fix),)
    features = hidden.shape[1]
    if not (weight.ndim == 2 and weight.shape[0] > 0 and weight.shape[1] == features):
        allowed = f"[classes, {features}], as the hidden states have {features} features"
        return (Problem(f"{where}.weight", tuple(weight.shape), allowed),)
    if bias is not None and bias.shape != weight.shape[:1]:
        return (Problem(f"{where}.bias", tuple(bias.shape), f"[{weight.shape[0]}], one a class"),)
    return ()


def _without_autocast(device: str) -> AbstractContextManager[object]:
    available = torch.amp.is_autocast_available(device)
    return torch.autocast(device, enabled=False) if available else nullcontext()


def _precise(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _counted(drawn: Tensor) -> tuple[Tensor, Tensor]:
    """Merge what was drawn more than once: ids and counts, filled up with a count of 0."""
    ordered = drawn.sort(dim=1).values
    new = torch.ones_like(ordered, dtype=torch.bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    place = new.cumsum(1) - 1
    width = int(place.max()) + 1 if place.numel() else 1
    nothing = ordered.new_zeros((len(ordered), width))
    return nothing.scatter(1, place, ordered), nothing.scatter_add(1, place, torch.ones_like(place))


def _of_ids(where: str, ids: Tensor) -> tuple[Problem, ...]:
    if ids.dtype not in (torch.int64, torch.int32):
        fix = "Convert them with .long()."
        return (Problem(f"{where}.ids", str(ids.dtype), "whole numbers, int64 or int32", fix),)
    if ids.ndim != 2 or ids.shape[1] == 0:
        allowed = "a tensor [units, k] with at least one class a unit"
        return (Problem(f"{where}.ids", tuple(ids.shape), allowed),)
    return ()


def _of_shape(
    where: str, name: str, given: Tensor, ids: Tensor, *, floating: bool = True
) -> tuple[Problem, ...]:
    if given.shape != ids.shape:
        allowed = f"{tuple(ids.shape)}, as the ids have"
        return (Problem(f"{where}.{name}", tuple(given.shape), allowed),)
    if floating and not given.is_floating_point():
        fix = "Convert it with .float()."
        return (Problem(f"{where}.{name}", str(given.dtype), "a floating-point tensor", fix),)
    return ()


def _check_logits(where: str, logits: Tensor) -> None:
    if logits.ndim != 2 or logits.shape[1] == 0 or not logits.is_floating_point():
        given = f"{logits.dtype} {tuple(logits.shape)}"
        raise InputError(Problem(f"{where}.logits", given, "floating-point [units, classes]"))


def _check_draws(where: str, draws: object, temperature: object, power: object) -> None:
    problems = []
    if isinstance(draws, bool) or not isinstance(draws, int) or draws < 1:
        problems.append(Problem(f"{where}.draws", draws, "a whole number above 0"))
    for name, given in (("temperature", temperature), ("proposal_power", power)):
        if not _is_positive(given):
            problems.append(Problem(f"{where}.{name}", given, "a finite number above 0"))
    if problems:
        raise InputError(*problems)


def _is_positive(given: object) -> bool:
    number = isinstance(given, int | float) and not isinstance(given, bool)
    return number and 0 < given < float("inf")  # type: ignore[operator]
