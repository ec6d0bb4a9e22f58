"""Policies for a lineage, and the class of risk that a student inherits.

The four classes are those of the EU AI Act (Regulation 2024/1689): minimal, limited, high and
unacceptable. The law classifies a *use*; a student reproduces the behaviour of its teachers, so its
class is never lower than any of their classes without a written justification.
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

CLASSES = ("minimal", "limited", "high", "unacceptable")  # the classes, lowest first


@dataclass(frozen=True)
class Risk:
    """A student's class of risk and its derivation; classes that are not stated are empty.

    Attributes:
        risk: The class.
        own: The class of its own use.
        inherited: The highest class of its ancestors.
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
    """Return the rank of a class of risk; an unstated class ranks lowest."""
    return CLASSES.index(risk) if risk else -1


def inherit(own: str, ancestors: Iterable[ModelFacts], *, justification: str = "") -> Risk:
    """Compute a student's class: the highest of its own use and all its ancestors.

    A `justification` makes `own` the student's class, though lower than an ancestor's.

    Raises:
        InputError: A class is not one of the four, or there is a justification without `own`.

    Example:
        >>> inherit("minimal", [ModelFacts("credit scorer", risk="high")]).risk
        'high'
        >>> why = "It only sorts letters by their language."
        >>> inherit("minimal", [ModelFacts("scorer", risk="high")], justification=why).risk
        'minimal'
    """
    models = list(ancestors)
    for risk, where in ((own, "risk"), *((model.risk, f"{model.name}: risk") for model in models)):
        if risk:
            check_choice(risk, CLASSES, where=where)
    justification = justification.strip()
    if justification and not own:
        fix = "State the class that the justification is for."
        raise InputError(Problem("risk", own, ", ".join(CLASSES), fix))
    inherited = max((model.risk for model in models), key=rank, default="")
    lowered = rank(own) < rank(inherited)
    return Risk(
        risk=own if justification and lowered else max(own, inherited, key=rank),
        own=own,
        inherited=inherited,
        inherited_from=_names(model for model in models if inherited and model.risk == inherited),
        unstated=_names(model for model in models if not model.risk),
        justification=justification if lowered else "",
    )


def _names(models: Iterable[ModelFacts]) -> tuple[str, ...]:
    return tuple(sorted({model.name for model in models}))


# The restrictions and obligations in the terms of a model or of data.
TERMS = ("no-competition", "no-derivatives", "no-distillation", "non-commercial", "research-only")

# The export-control flags of a model, with the terms of the Wassenaar Arrangement.
FLAGS = ("dual-use", "export-controlled")
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


def unknown_words(models: Iterable[ModelFacts], data: Iterable[DatasetFacts]) -> Iterator[Problem]:
    """Yield unknown terms, flags and classes of risk: a typing error would forbid nothing."""
    words: list[tuple[str, str, tuple[str, ...]]] = []
    for model in models:
        words += [(f"{model.name}: terms", term, TERMS) for term in model.terms]
        words += [(f"{model.name}: flags", flag, FLAGS) for flag in model.flags]
        words += [(f"{model.name}: risk", model.risk, ("", *CLASSES))]
    words += [(f"{item.name}: terms", term, TERMS) for item in data for term in item.terms]
    for where, word, known in words:
        if word not in known:
            allowed = ", ".join(filter(None, known))
            yield Problem(where, word, allowed, did_you_mean(word, known))


Use = Literal["", "commercial", "research"]
_NOT_COMMERCIAL = {"non-commercial", "research-only"}


@dataclass(frozen=True)
class Names:
    """Allowed and forbidden names, as patterns in which `*` matches anything; case is ignored.

    If `allow` is not empty, only these names are accepted; `forbid` takes precedence.
    """

    allow: tuple[str, ...] = ()
    forbid: tuple[str, ...] = ()

    def accepts(self, name: str) -> bool:
        """Return whether a name is accepted."""
        return not _matches(self.forbid, name) and (not self.allow or _matches(self.allow, name))


@dataclass(frozen=True)
class Policy:
    """Rules for the models and data of a lineage.

    Attributes:
        use: The student's use; `commercial` refuses models and data that are `non-commercial` or
            `research-only`.
        licences: SPDX ids and free texts. `A OR B` is accepted if one of both is, `A AND B` if both
            are accepted.
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

    The ancestor is stated as `model 'base'` or `data 'web pages'`, and the rule by its path in the
    policy file.
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
    """Check teachers, their ancestors and all data used for training against a policy.

    Returns:
        Every violation, models before data and in topological order.

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
    datasets = [*data, *(item for model in models for item in model.data)]
    unknown = dict.fromkeys(unknown_words(models, datasets))
    if unknown:
        raise InputError(*unknown)
    lineage: list[ModelFacts | DatasetFacts] = [*models, *datasets]
    violations = (violation for item in lineage for violation in _violations(policy, item))
    return list(dict.fromkeys(violations))


def enforce(
    policy: Policy, teachers: Iterable[ModelFacts], data: Iterable[DatasetFacts] = ()
) -> None:
    """Check a lineage as `check` does, and raise an error that lists every violation.

    Raises:
        InputError: There is a violation; or as `check`.

    Example:
        >>> enforce(Policy(), [ModelFacts("digits_cnn", licence="MIT")])
    """
    violations = check(policy, teachers, data)
    if violations:
        raise InputError(*(violation.problem for violation in violations))


def _violations(policy: Policy, item: ModelFacts | DatasetFacts) -> Iterator[Violation]:
    is_model = isinstance(item, ModelFacts)
    kind = "model" if is_model else "data set"
    ancestor = f"{'model' if is_model else 'data'} {item.name!r}"

    def refused(names: Names, rule: str, given: str) -> Violation:
        forbidden = _matches(names.forbid, given)
        part = "forbid" if forbidden else "allow"
        allowed = f"none of {', '.join(names.forbid)}" if forbidden else ", ".join(names.allow)
        fix = f"Choose another {kind}, or change {rule}.{part} in the policy."
        return Violation(ancestor, f"{rule}.{part}", given or "not stated", allowed, fix)

    if item.licence.strip():
        options = alternatives(item.licence)
        if not any(all(policy.licences.accepts(part) for part in option) for option in options):
            yield refused(policy.licences, "licences", item.licence)
    elif not policy.unstated_licence:
        fix = f"State the licence of the {kind}, or choose another."
        yield Violation(ancestor, "licences.unstated", "not stated", "a licence", fix)
    terms = terms_of(item)
    fix = f"Choose another {kind}, or obtain permission in writing and allow it in the policy."
    for term in terms:
        if term in policy.terms:
            yield Violation(ancestor, "terms.forbid", term, "other terms", fix)
    for term in terms if policy.use == "commercial" else ():
        if term in _NOT_COMMERCIAL:
            yield Violation(ancestor, "use", term, "terms that allow commercial use", fix)
    names = policy.models if is_model else policy.data
    if not names.accepts(item.name):
        yield refused(names, "models" if is_model else "data", item.name)
    if isinstance(item, DatasetFacts):
        return
    if not policy.owners.accepts(item.owner):
        yield refused(policy.owners, "owners", item.owner)
    for flag in item.flags:
        if flag in policy.flags:
            fix = "Contact the export-control officer, or choose another model."
            yield Violation(ancestor, "flags.forbid", flag, "other flags", fix)
    if policy.highest_risk and rank(item.risk) > rank(policy.highest_risk):
        allowed = f"{policy.highest_risk} or lower"
        yield Violation(
            ancestor, "risk.highest", item.risk, allowed, "Choose a model of a lower class."
        )


def _matches(patterns: Iterable[str], name: str) -> bool:
    return any(fnmatchcase(name.strip().lower(), pattern.lower()) for pattern in patterns)
