"""Lineage policy: the licences, terms, models, data and owners that a student may descend from.

It is checked before training. Without a policy file one rule applies: a model whose terms forbid
distillation may not be a teacher.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from limbeck.errors import InputError, Problem
from limbeck.passport.facts import DatasetFacts, ModelFacts
from limbeck.passport.licences import alternatives
from limbeck.passport.lineage import eldest_first
from limbeck.passport.risk import rank
from limbeck.passport.terms import odd_words, terms_of

Use = Literal["", "commercial", "research"]

_NOT_FOR_SALE = {"non-commercial", "research-only"}


@dataclass(frozen=True)
class Names:
    """Allowed and forbidden names, as patterns in which `*` matches anything; case is ignored.

    Attributes:
        allow: If not empty, only these names are accepted.
        forbid: Names that are never accepted, even if allowed.
    """

    allow: tuple[str, ...] = ()
    forbid: tuple[str, ...] = ()

    def accepts(self, name: str) -> bool:
        """Return whether a name is accepted.

        Example:
            >>> Names(forbid=("gpt-*",)).accepts("GPT-4")
            False
        """
        if _any(self.forbid, name):
            return False
        return not self.allow or _any(self.allow, name)


@dataclass(frozen=True)
class Policy:
    """Rules for the models and data of a lineage.

    Attributes:
        use: The student's use; `commercial` refuses models and data that are `non-commercial` or
            `research-only`.
        licences: SPDX ids and free texts. `A OR B` is accepted if one of both is, `A AND B` if both
            are.
        unstated_licence: Whether a model or data without a stated licence is accepted.
        terms: Forbidden terms; `no-distillation` unless a policy file allows it.
        models: Names of models.
        data: Names of data.
        owners: Names of owners.
        flags: Forbidden export-control flags.
        highest_risk: The highest class of risk that an ancestor may have; empty for any.
        require_signature: Whether verification requires a signature.
        keys: Files of the public keys, one of which must have signed a student.
    """

    use: Use = ""
    licences: Names = Names()
    unstated_licence: bool = True
    terms: frozenset[str] = frozenset({"no-distillation"})
    models: Names = Names()
    data: Names = Names()
    owners: Names = Names()
    flags: frozenset[str] = frozenset()
    highest_risk: str = ""
    require_signature: bool = False
    keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class Violation:
    """A rule that an ancestor violates.

    Attributes:
        ancestor: The model or data, as `model 'base'` or `data 'web pages'`.
        rule: The rule, by its path in the policy file.
        given: The ancestor's value.
        allowed: The values that the policy allows.
        fix: The suggested fix.
    """

    ancestor: str
    rule: str
    given: str
    allowed: str
    fix: str

    @property
    def problem(self) -> Problem:
        """Return the violation as a problem of an `InputError`."""
        return Problem(f"{self.ancestor} ({self.rule})", self.given, self.allowed, self.fix)

    def __str__(self) -> str:
        return str(self.problem)


def check(
    policy: Policy, teachers: Iterable[ModelFacts], data: Iterable[DatasetFacts] = ()
) -> list[Violation]:
    """Check a lineage against a policy: every ancestor of every generation, and all their data.

    Args:
        policy: The rules.
        teachers: The teachers, each with its ancestors.
        data: The data that the student is trained on.

    Returns:
        Every violation, models before data and in topological order; empty if all is allowed.

    Raises:
        InputError: An ancestor's terms, flags or class of risk are unknown words, so that no rule
            can be applied to them.

    Example:
        >>> closed = ModelFacts("large", terms=("no-distillation",))
        >>> student = ModelFacts("base", ancestors=(closed,))
        >>> [violation] = check(Policy(), [student])
        >>> print(violation)
        model 'large' (terms.forbid): got 'no-distillation'; allowed: other terms. Choose ...
    """
    models = eldest_first(teachers)
    used = [*data, *(item for model in models for item in model.data)]
    odd = list(odd_words(models, used))
    if odd:
        raise InputError(*dict.fromkeys(odd))
    family: list[ModelFacts | DatasetFacts] = [*models, *used]
    violations = (violation for item in family for violation in _broken(policy, item))
    return list(dict.fromkeys(violations))


def enforce(
    policy: Policy, teachers: Iterable[ModelFacts], data: Iterable[DatasetFacts] = ()
) -> None:
    """Raise an error that lists every violation, unless a lineage is allowed.

    Raises:
        InputError: There is a violation; or as `check`.

    Example:
        >>> enforce(Policy(), [ModelFacts("digits_cnn", licence="MIT")])
    """
    violations = check(policy, teachers, data)
    if violations:
        raise InputError(*(violation.problem for violation in violations))


def _broken(policy: Policy, item: ModelFacts | DatasetFacts) -> Iterator[Violation]:
    yield from _licence(policy, item)
    yield from _terms(policy, item)
    if isinstance(item, DatasetFacts):
        yield from _name(policy.data, item, "data", item.name)
        return
    yield from _name(policy.models, item, "models", item.name)
    yield from _name(policy.owners, item, "owners", item.owner)
    for flag in item.flags:
        if flag in policy.flags:
            fix = "Ask those who answer for export control, or choose another model."
            yield Violation(_called(item), "flags.forbid", flag, "other flags", fix)
    if policy.highest_risk and rank(item.risk) > rank(policy.highest_risk):
        allowed = f"{policy.highest_risk} or lower"
        fix = f"Choose a {_kind(item)} of a lower class."
        yield Violation(_called(item), "risk.highest", item.risk, allowed, fix)


def _licence(policy: Policy, item: ModelFacts | DatasetFacts) -> Iterator[Violation]:
    if not item.licence.strip():
        if not policy.unstated_licence:
            fix = f"State the licence of the {_kind(item)}, or choose another."
            yield Violation(_called(item), "licences.unstated", "not stated", "a licence", fix)
        return
    options = alternatives(item.licence)
    if not any(all(policy.licences.accepts(part) for part in option) for option in options):
        yield _refused(policy.licences, item, "licences", item.licence)


def _terms(policy: Policy, item: ModelFacts | DatasetFacts) -> Iterator[Violation]:
    terms = terms_of(item)
    fix = f"Choose another {_kind(item)}, or get leave in writing and allow it in the policy."
    for term in terms:
        if term in policy.terms:
            yield Violation(_called(item), "terms.forbid", term, "other terms", fix)
    if policy.use == "commercial":
        for term in terms:
            if term in _NOT_FOR_SALE:
                yield Violation(_called(item), "use", term, "what may be used commercially", fix)


def _name(
    names: Names, item: ModelFacts | DatasetFacts, rule: str, given: str
) -> Iterator[Violation]:
    if not names.accepts(given):
        yield _refused(names, item, rule, given)


def _refused(names: Names, item: ModelFacts | DatasetFacts, rule: str, given: str) -> Violation:
    forbidden = _any(names.forbid, given)
    part = "forbid" if forbidden else "allow"
    allowed = f"none of {', '.join(names.forbid)}" if forbidden else ", ".join(names.allow)
    fix = f"Choose another {_kind(item)}, or change {rule}.{part} in the policy."
    return Violation(_called(item), f"{rule}.{part}", given or "not stated", allowed, fix)


def _kind(item: ModelFacts | DatasetFacts) -> str:
    return "model" if isinstance(item, ModelFacts) else "data set"


def _called(item: ModelFacts | DatasetFacts) -> str:
    return f"{'model' if isinstance(item, ModelFacts) else 'data'} {item.name!r}"


def _any(patterns: Iterable[str], name: str) -> bool:
    return any(fnmatchcase(name.strip().lower(), pattern.lower()) for pattern in patterns)
