"""Which form each tensor takes, when every form that is used at all has its price."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from limbeck.export.compact.forms import Plan

PIECE, CALL = 20, 45
"""About what the frame of a stored piece takes in a file, and a call. Only the choice rests on
these: whether a file gains is measured."""


@dataclass(frozen=True)
class Option:
    """A form that a tensor may take, what it would take in bytes, and what functions it needs."""

    plan: Plan
    bytes: int
    needs: frozenset[str]


def options(plans: Iterator[Plan], size: int) -> tuple[Option, ...]:
    """List the forms that take less than a tensor's own size, smallest first."""
    found = (Option(plan, _bytes(plan), frozenset(needs(plan))) for plan in plans)
    return tuple(
        sorted((one for one in found if one.bytes < size), key=lambda option: option.bytes)
    )


def needs(plan: Plan) -> Iterator[str]:
    """Name the functions that rebuild a tensor of a form.

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
    """Choose a form for each tensor so that all together take the fewest bytes, or nearly.

    A function costs its price once, however many tensors need it. Each tensor starts with its
    smallest form; then functions are given up one after another as long as the whole gets smaller.

    Args:
        tensors: The options of each tensor, smallest first.
        sizes: What each takes as it is.
        prices: What each function costs.

    Returns:
        An option for each tensor; None leaves it as it is.
    """
    allowed = set(prices)
    best, least = _with(tensors, sizes, prices, allowed)
    while True:
        used = {name for option in best if option is not None for name in option.needs}
        trials = [(_with(tensors, sizes, prices, allowed - {name}), name) for name in sorted(used)]
        if not trials:
            return best
        (tried, total), name = min(trials, key=lambda trial: trial[0][1])
        if total > least:
            return best
        best, least, allowed = tried, total, allowed - {name}


def _with(
    tensors: Sequence[tuple[Option, ...]],
    sizes: Sequence[int],
    prices: Mapping[str, int],
    allowed: set[str],
) -> tuple[list[Option | None], int]:
    """Choose with certain functions only; give the choice, and all that it takes in bytes."""
    chosen = [
        next((option for option in options if option.needs <= allowed), None) for options in tensors
    ]
    used = {name for option in chosen if option is not None for name in option.needs}
    total = sum(prices[name] for name in used)
    for option, size in zip(chosen, sizes, strict=True):
        total += size if option is None else option.bytes
    return chosen, total


def _bytes(plan: Plan) -> int:
    return plan.payload + PIECE * plan.pieces + CALL * len(list(needs(plan)))
