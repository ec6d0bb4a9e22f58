"""Soft targets as classes sampled from the teacher's distribution."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from limbeck.core.numbers import is_positive, is_whole
from limbeck.core.tensors import precise
from limbeck.errors import InputError, Problem
from limbeck.targets.categorical import Rows, check_logits, of_ids, of_shape


@dataclass(frozen=True, eq=False)
class SampledTargets:
    """Classes sampled from the teacher's distribution, an unbiased estimate of all of it.

    The teacher's probability of a sampled class is estimated by importance sampling, as
    counts/draws times probability over proposal probability, which is unbiased.

    Attributes:
        ids: The sampled classes, integers `[units, n]`. Rows may be padded with any class that has
            a count of 0.
        counts: The number of draws of each class, `[units, n]`.
        log_probabilities: The teacher's log-probabilities of these classes, at `temperature`,
            `[units, n]`.
        log_proposal: The log-probability of each class in one draw, `[units, n]`; None if classes
            were drawn with the teacher's own probabilities.
        temperature: The teacher's temperature at sampling.
        classes: The teacher's number of classes; None if equal to the student's.

    Raises:
        InputError: Inconsistent shapes, dtypes or settings.

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
        problems = [*of_ids(name, self.ids)]
        for field in ("counts", "log_probabilities", "log_proposal"):
            if (given := getattr(self, field)) is not None:
                whole = field == "counts"
                problems += of_shape(name, field, given, self.ids, floating=not whole)
        if not is_positive(self.temperature):
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
        """Sample classes from the teacher's distribution, or from a flatter or steeper one.

        Args:
            logits: The teacher's logits, `[units, classes]`.
            draws: The number of draws per element, with replacement.
            temperature: The teacher's temperature. The divergence must use the same one.
            proposal_power: The exponent of the teacher's probabilities in the proposal: below 1,
                rare classes are drawn more often, with a smaller weight.
            generator: The random generator, on the device of the logits.

        Raises:
            InputError: Logits that are not `[units, classes]`, or a number <= 0.
        """
        where = "SampledTargets.draw"
        check_logits(where, logits)
        _check_draws(where, draws, temperature, proposal_power)
        logs = (precise(logits.detach()) / temperature).log_softmax(-1)
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
        """Return the number of elements."""
        return self.ids.shape[0]

    def take(self, rows: Rows) -> SampledTargets:
        """Return the targets of some elements."""
        proposal = None if self.log_proposal is None else self.log_proposal[rows]
        return replace(
            self,
            ids=self.ids[rows],
            counts=self.counts[rows],
            log_probabilities=self.log_probabilities[rows],
            log_proposal=proposal,
        )


def _counted(drawn: Tensor) -> tuple[Tensor, Tensor]:
    """Merge repeated draws to ids and counts, padded with a count of 0."""
    ordered = drawn.sort(dim=1).values
    new = torch.ones_like(ordered, dtype=torch.bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    place = new.cumsum(1) - 1
    width = int(place.max()) + 1 if place.numel() else 1
    nothing = ordered.new_zeros((len(ordered), width))
    return nothing.scatter(1, place, ordered), nothing.scatter_add(1, place, torch.ones_like(place))


def _check_draws(where: str, draws: object, temperature: object, power: object) -> None:
    problems = []
    if not is_whole(draws, least=1):
        problems.append(Problem(f"{where}.draws", draws, "a whole number above 0"))
    for name, given in (("temperature", temperature), ("proposal_power", power)):
        if not is_positive(given):
            problems.append(Problem(f"{where}.{name}", given, "a finite number above 0"))
    if problems:
        raise InputError(*problems)
