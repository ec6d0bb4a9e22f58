"""Choice of a storage form per tensor, under a fixed cost per decoder function."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from limbeck.export.compact.codes import Plan

PIECE, CALL = 20, 45
"""Approximate bytes of a stored piece's frame in a file, and of a call. Used only for the choice:
the gain of a file is measured.
"""


@dataclass(frozen=True)
class Option:
    """A storage form of a tensor, with its bytes and required functions."""

    plan: Plan
    bytes: int
    needs: frozenset[str]


def options(plans: Iterator[Plan], size: int) -> tuple[Option, ...]:
    """Return the forms smaller than a tensor's own size, smallest first."""
    found = []
    for plan in plans:
        calls = list(needs(plan))
        option = Option(
            plan, plan.payload + PIECE * plan.pieces + CALL * len(calls), frozenset(calls)
        )
        if option.bytes < size:
            found.append(option)
    return tuple(sorted(found, key=lambda option: option.bytes))


def needs(plan: Plan) -> Iterator[str]:
    """Yield the names of the functions that decode a form.

    Example:
        >>> sorted(needs(Plan(payload=100, code_bits=2, by="steps", place_bits=8)))
        ['bits2', 'look', 'steps']
    """
    if plan.code_bits:
        yield "look"
    if plan.by is not None:
        yield plan.by
    yield from (f"bits{bits}" for bits in (plan.code_bits, plan.place_bits) if 0 < bits < 8)


def choose(
    tensors: Sequence[tuple[Option, ...]], sizes: Sequence[int], prices: Mapping[str, int]
) -> list[Option | None]:
    """Choose a form per tensor to minimise the total bytes, approximately.

    A function costs its price once for all tensors. Greedy: each tensor starts with its smallest
    form; then functions are removed one by one while the total decreases.

    Args:
        tensors: The options of each tensor, smallest first.
        sizes: Bytes of each tensor in its original form.
        prices: Bytes of each function.

    Returns:
        An option per tensor; None keeps the original form.
    """

    def smallest(allowed: set[str]) -> tuple[int, list[Option | None], set[str]]:
        chosen = [
            next((option for option in options if option.needs <= allowed), None)
            for options in tensors
        ]
        used = {name for option in chosen if option is not None for name in option.needs}
        total = sum(prices[name] for name in used)
        for option, size in zip(chosen, sizes, strict=True):
            total += size if option is None else option.bytes
        return total, chosen, used

    allowed = set(prices)
    least, best, used = smallest(allowed)
    while used:
        trials = [(smallest(allowed - {name}), name) for name in sorted(used)]
        (total, chosen, remaining), removed = min(trials, key=lambda trial: trial[0][0])
        if total > least:
            break
        least, best, used, allowed = total, chosen, remaining, allowed - {removed}
    return best
