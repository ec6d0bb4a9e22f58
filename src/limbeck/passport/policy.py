"""Inherited class of risk: the highest class among a student's own use and its ancestors.

The four classes are those of the EU AI Act (Regulation 2024/1689): minimal, limited, high and
unacceptable. The law classifies a *use*; a student reproduces what its teachers were trusted with,
so its class is never lower than theirs without a written justification.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from limbeck.errors import InputError, Problem, check_choice, did_you_mean
from limbeck.passport.facts import DatasetFacts, ModelFacts
from limbeck.passport.licences import alternatives
from limbeck.passport.lineage import topological

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


TERMS = (
    "no-competition",
    "no-derivatives",
    "no-distillation",
    "non-commercial",
    "research-only",
)
"""The restrictions and obligations in the terms of a model or of data."""

FLAGS = ("dual-use", "export-controlled")
"""The export-control flags of a model, in the words of the Wassenaar Arrangement."""

_PARTS = {"NC": "non-commercial", "ND": "no-derivatives"}
_CREATIVE_COMMONS = re.compile(r"\bCC[- ]BY((?:[- ](?:NC|ND|SA))*)\b", re.IGNORECASE)
_NON_COMMERCIAL = re.compile(r"non[- ]?commercial", re.IGNORECASE)


def terms_of(model: ModelFacts | DatasetFacts) -> tuple[str, ...]:
    """Return the terms of a model or data: those stated, and those implied by its licence's name.

    Example:
        >>> terms_of(DatasetFacts("photographs", licence="CC-BY-NC-4.0"))
        ('non-commercial',)
    """
    implied = {
        _PARTS[part]
        for found in _CREATIVE_COMMONS.finditer(model.licence)
        for part in re.split(r"[- ]", found[1].upper())
        if part in _PARTS
    }
    if _NON_COMMERCIAL.search(model.licence):
        implied.add("non-commercial")
    return tuple(sorted(implied | set(model.terms)))


def odd_words(models: Iterable[ModelFacts], data: Iterable[DatasetFacts]) -> Iterator[Problem]:
    """Yield unknown terms, flags and classes of risk: a typing error would forbid nothing.

    Example:
        >>> [problem] = odd_words([ModelFacts("large", terms=("no-distilation",))], [])
        >>> print(problem)
        large: terms: got 'no-distilation'; allowed: ... did you mean "no-distillation" ...?
    """
    for model in models:
        yield from _odd(model.terms, TERMS, f"{model.name}: terms")
        yield from _odd(model.flags, FLAGS, f"{model.name}: flags")
        yield from _odd([model.risk] if model.risk else [], CLASSES, f"{model.name}: risk")
    for item in data:
        yield from _odd(item.terms, TERMS, f"{item.name}: terms")


def _odd(given: Iterable[str], known: tuple[str, ...], where: str) -> Iterator[Problem]:
    for word in given:
        if word not in known:
            yield Problem(where, word, ", ".join(known), did_you_mean(word, known))


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
    models = topological(teachers)
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
