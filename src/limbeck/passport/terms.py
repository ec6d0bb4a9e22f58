"""Vocabulary of licence terms and export-control flags: one spelling each, so none is missed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from limbeck.errors import Problem, did_you_mean
from limbeck.passport.facts import DatasetFacts, ModelFacts
from limbeck.passport.risk import CLASSES

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
