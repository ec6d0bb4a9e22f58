"""Inherited class of risk: the highest class among a student's own use and its ancestors.

The four classes are those of the EU AI Act (Regulation 2024/1689): minimal, limited, high and
unacceptable. The law classifies a *use*; a student reproduces what its teachers were trusted with,
so its class is never lower than theirs without a written justification.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from limbeck.errors import InputError, Problem, check_choice
from limbeck.passport.facts import ModelFacts

CLASSES = ("minimal", "limited", "high", "unacceptable")
"""The classes, lowest first."""


@dataclass(frozen=True)
class Risk:
    """A student's class of risk and its derivation.

    Attributes:
        risk: The class; empty if none is stated.
        own: The class of its own use; empty when not stated.
        inherited: The highest class of its ancestors; empty when none is stated.
        inherited_from: The names of the ancestors of that class.
        unstated: The names of the ancestors whose class is not stated.
        justification: Why the class is lower than the inherited one; empty if it is not.
    """

    risk: str
    own: str
    inherited: str
    inherited_from: tuple[str, ...]
    unstated: tuple[str, ...]
    justification: str


def rank(risk: str) -> int:
    """Return the rank of a class of risk; an unstated class ranks lowest.

    Example:
        >>> rank("") < rank("minimal") < rank("high")
        True
    """
    return CLASSES.index(risk) if risk else -1


def inherit(own: str, ancestors: Iterable[ModelFacts], *, justification: str = "") -> Risk:
    """Compute a student's class: the highest of its own use and all its ancestors.

    Args:
        own: The class of the student's own use; empty when not stated.
        ancestors: Every ancestor, of any generation.
        justification: Why `own`, though lower than an ancestor's, is the student's class.

    Raises:
        InputError: A class is not one of the four, or there is a justification without `own`.

    Example:
        >>> inherit("minimal", [ModelFacts("credit scorer", risk="high")]).risk
        'high'
        >>> why = "It only sorts letters by their language."
        >>> inherit("minimal", [ModelFacts("scorer", risk="high")], justification=why).risk
        'minimal'
    """
    family = list(ancestors)
    for risk, where in ((own, "risk"), *((model.risk, f"{model.name}: risk") for model in family)):
        if risk:
            check_choice(risk, CLASSES, where=where)
    justification = justification.strip()
    if justification and not own:
        fix = "State the class that the justification is for."
        raise InputError(Problem("risk", own, ", ".join(CLASSES), fix))
    inherited = max((model.risk for model in family), key=rank, default="")
    lowered = rank(own) < rank(inherited)
    return Risk(
        risk=own if justification and lowered else max(own, inherited, key=rank),
        own=own,
        inherited=inherited,
        inherited_from=_names(model for model in family if inherited and model.risk == inherited),
        unstated=_names(model for model in family if not model.risk),
        justification=justification if lowered else "",
    )


def _names(models: Iterable[ModelFacts]) -> tuple[str, ...]:
    return tuple(sorted({model.name for model in models}))
