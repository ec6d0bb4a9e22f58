"""Hold a loss to the laws: limbeck's own, or one that you wrote.

The laws are numbered as in the design; law 0 is the contract of shapes and types.
`check_loss` stops at the first law that is broken, `audit_loss` tells of every one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeAlias, get_args

import torch
from torch import Tensor

from limbeck.errors import InputError, Problem, did_you_mean
from limbeck.testing import extremes, forms, fused, laws, masks, transforms
from limbeck.testing.subject import FILLED, Draw, Kind, Reference, Subject

__all__ = ["LAWS", "BrokenLawError", "Draw", "Kind", "Reference", "audit_loss", "check_loss"]

Law: TypeAlias = Callable[[Subject], Iterator[str]]

_SHOWN = 3  # breaches of one law that an audit tells of


class BrokenLawError(AssertionError):
    """A law that does not hold, with its number.

    Attributes:
        law: The number.
    """

    def __init__(self, law: int, what: str) -> None:
        self.law = law
        super().__init__(f"law {law}: {what}")


def check_loss(
    loss: Callable[..., Tensor],
    *,
    kind: Kind,
    reference: Reference | None = None,
    without: Iterable[int] = (),
    seed: int = 0,
    draw: Draw | None = None,
) -> list[int]:
    """Hold a loss to every law that applies to its kind.

    | kind | compares | answers with |
    |-|-|-|
    | `divergence` | logits `[units, classes]`, as distributions | one value a unit |
    | `response` | logits, in any way | one value a unit |
    | `hard_label` | logits and labels `[units]` | one value a unit |
    | `batch` | logits, over the batch as a whole | a scalar |
    | `feature` | features `[samples, ...]` | one value a sample |
    | `relation` | features, over the batch as a whole | a scalar |
    | `fused` | as `divergence`, from `(hidden, weight, targets)` | a mean, a scalar |

    Args:
        loss: A function (student, second, **keywords); bind what else it needs with
            `functools.partial`. A second parameter called `targets` is given each form of
            `limbeck.targets`. Of the keywords, a `temperature` and `labels` are given to it, and a
            `mask` and an `index` if it cannot do without.
        kind: What the loss compares.
        reference: The same in numpy and float64, written from the formula, for law 4; it is given
            the same keywords. Without it law 4 holds the gradient to differences of the loss's own
            values.
        without: Laws that are known not to apply. A split (law 6) is not asked of a scalar: a
            batch is its unit.
        seed: Decides the inputs.
        draw: Gives the inputs (student, second) for a generator and a scale, in float64, where the
            loss needs other shapes than six units of five logits or of features 3×2×2: both with
            samples first, each a tensor or a tuple of them.

    Returns:
        The numbers of the laws that were tried, all of which hold.

    Raises:
        BrokenLawError: The first law that does not hold, and what was seen.
        InputError: An unknown kind or law, or a loss with settings that are not bound.

    Example:
        >>> from limbeck.losses import logit_mse
        >>> check_loss(logit_mse, kind="response")
        [0, 1, 3, 4, 6, 7, 8, 9, 15]
        >>> check_loss(lambda student, teacher: (student - teacher).sum(1), kind="response")
        Traceback (most recent call last):
        ...
        limbeck.testing.BrokenLawError: law 0: half precision is to be computed in float32, not in
        torch.bfloat16
        >>> check_loss(logit_mse, kind="divergance")
        Traceback (most recent call last):
        ...
        limbeck.errors.InputError: check_loss.kind: got 'divergance'; ... did you mean "divergence"?
    """
    subject = Subject(loss, kind, reference, seed, draw)
    tried = _tried(subject, set(without))
    with torch.enable_grad():
        for law in tried:
            for broken, cause in _breaches(law, subject):
                raise BrokenLawError(law, broken) from cause
    return tried


def audit_loss(
    loss: Callable[..., Tensor],
    *,
    kind: Kind,
    reference: Reference | None = None,
    without: Iterable[int] = (),
    seed: int = 0,
    draw: Draw | None = None,
) -> dict[int, str | None]:
    """Try every law that applies, whatever the others say.

    Args:
        loss: As for `check_loss`, like all that follows.
        kind: What the loss compares.
        reference: The same in numpy and float64.
        without: Laws that are known not to apply.
        seed: Decides the inputs.
        draw: Gives the inputs.

    Returns:
        For each law that was tried: None if it holds, and otherwise the first few things that were
        seen. An exception that the loss raises is one, too.

    Raises:
        InputError: An unknown kind or law, or a loss with settings that are not bound.

    Example:
        >>> def averaged(student, teacher):
        ...     return (student - teacher.detach()).double().square().mean()
        >>> verdicts = audit_loss(averaged, kind="response")
        >>> [law for law, broken in verdicts.items() if broken]
        [0, 6, 9]
        >>> verdicts[6]
        'micro-batches give another gradient than the whole: it is off by ...
    """
    subject = Subject(loss, kind, reference, seed, draw)
    verdicts: dict[int, str | None] = {}
    with torch.enable_grad():
        for law in _tried(subject, set(without)):
            seen = islice(_breaches(law, subject), _SHOWN)
            verdicts[law] = "; ".join(broken for broken, _ in seen) or None
    return verdicts


def _tried(subject: Subject, without: set[int]) -> list[int]:
    _check(subject, without)
    return [law for law in LAWS if law not in without and _applies(law, subject)]


def _breaches(law: int, subject: Subject) -> Iterator[tuple[str, Exception | None]]:
    """Give what is seen to be broken, with the exception if the loss raised one."""
    try:
        yield from ((broken, None) for broken in LAWS[law](subject))
    except Exception as error:  # a loss of somebody's own may raise anything
        yield f"the loss raises {type(error).__name__}: {error}", error


LAWS: dict[int, Law] = {
    0: laws.contract,
    1: laws.minimum,
    2: laws.non_negative,
    3: laws.no_gradient_to_teacher,
    4: laws.definition,
    5: laws.temperature,
    6: laws.split,
    7: masks.masked,
    8: laws.symmetry,
    9: extremes.finite,
    10: fused.fused,
    11: forms.sparse,
    12: forms.padding,
    13: forms.ends,
    15: transforms.transforms,
}

_OF_KIND: dict[str, frozenset[int]] = {
    "divergence": frozenset(LAWS) - {10},
    "response": frozenset({0, 1, 3, 4, 5, 6, 7, 8, 9, 15}),
    "hard_label": frozenset({0, 2, 4, 6, 7, 8, 9, 12, 15}),
    "batch": frozenset({0, 1, 3, 4, 5, 7, 8, 9, 15}),
    "feature": frozenset({0, 1, 3, 4, 6, 7, 9, 15}),
    "relation": frozenset({0, 1, 3, 4, 7, 8, 9, 15}),
    "fused": frozenset(LAWS) - {6},
}


def _applies(law: int, subject: Subject) -> bool:
    if law == 5 and "temperature" not in subject.settings(subject.draw()):
        return False
    if law == 11 and not subject.takes_targets:
        return False
    if law == 13 and not _is_jsd(subject):
        return False
    return law in _OF_KIND[subject.kind]


def _is_jsd(subject: Subject) -> bool:
    """A beta beside labels weighs something else, and other kinds of divergence refuse it."""
    if not subject.has("beta") or (subject.has("labels") and subject.kind != "fused"):
        return False
    return subject.bound("kind").get("kind", "jsd") == "jsd"


def _check(subject: Subject, without: Iterable[int]) -> None:
    """Refuse what cannot be put on trial."""
    problems: list[Problem] = []
    kinds = get_args(Kind)
    if subject.kind not in kinds:
        fix = did_you_mean(subject.kind, kinds)
        problems.append(Problem("check_loss.kind", subject.kind, ", ".join(kinds), fix))
    problems += [
        Problem("check_loss.without", law, f"numbers of laws: {', '.join(map(str, LAWS))}")
        for law in without
        if law not in LAWS
    ]
    if not callable(subject.loss):
        problems.append(Problem("check_loss.loss", subject.loss, "a function"))
    elif subject.kind in kinds:
        problems += _unbound(subject)
    if problems:
        raise InputError(*problems)


def _unbound(subject: Subject) -> list[Problem]:
    variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return [
        Problem(
            f"check_loss.loss.{name}",
            "nothing",
            "a value",
            f"Bind it with functools.partial(loss, {name}=...).",
        )
        for name, parameter in subject.keywords.items()
        if name not in FILLED
        and parameter.default is parameter.empty
        and parameter.kind not in variable
    ]
