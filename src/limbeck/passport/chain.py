"""Lineage checks: consistency within a passport, and against the teachers passed to `verify`.

A model's reference is a hash of all that its passport states of it, including the references of its
teachers. One reference therefore covers every earlier generation: replacing a teacher changes the
reference of every descendant.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from limbeck.errors import InputError, Problem
from limbeck.passport import components
from limbeck.passport.document import PASSPORT, member, properties_of
from limbeck.passport.equivalence import read_robustness
from limbeck.passport.facts import ModelFacts
from limbeck.passport.folder import Finding, hash_file, survey
from limbeck.passport.lineage import (
    STUDENT,
    ancestors_of,
    as_teacher,
    by_reference,
    topological,
)
from limbeck.passport.policy import CLASSES, rank

_KINDS = {"machine-learning-model": "model", "data": "data"}
_SHOWN = ("digest", "licence", "terms", "owner", "flags", "risk", "architecture", "version")


def of_lineage(document: Mapping[str, Any], models: Mapping[str, ModelFacts]) -> Iterator[Finding]:
    """Yield the contradictions between the places where a passport states its lineage.

    Args:
        document: The passport.
        models: Its models, as returned by `read_lineage`.

    Raises:
        InputError: A part of it cannot be parsed.
    """
    found = by_reference(document)
    for reference, component in found.items():
        kind = _KINDS.get(str(component.get("type")))
        if kind is not None and reference != STUDENT:
            content = {key: value for key, value in component.items() if key != "bom-ref"}
            named = components.reference(kind, content)
            if named != reference:
                where = str(component.get("name"))
                yield Finding("lineage", where, repr(reference), f"contents that make {named!r}")
    graph = _graph(document, models)
    for reference, model in models.items():
        elders = ancestors_of(found[reference], reference)
        named_again = components.pedigree([found[elder] for elder in elders])
        if found[reference].get("pedigree", {}) != named_again:
            listed = f"the ancestors {_names(models, elders)}"
            yield Finding("lineage", model.name, listed, "others in its pedigree")
        if graph.get(reference) != set(elders):
            listed = f"the ancestors {_names(models, elders)}"
            yield Finding("lineage", model.name, listed, "others in the graph of dependencies")


def of_claims(document: Mapping[str, Any], student: ModelFacts) -> Iterator[Finding]:
    """Yield a class of risk or a robustness verdict that does not follow from the stated facts.

    Raises:
        InputError: A part of it cannot be parsed.
    """
    family = topological([student])
    strange = [model for model in family if model.risk and model.risk not in CLASSES]
    for model in strange:
        yield Finding("risk", model.name, f"one of {', '.join(CLASSES)}", repr(model.risk))
    if not strange:
        highest = max((model.risk for model in family), key=rank)
        if rank(student.risk) < rank(highest) and not student.risk_justification.strip():
            listed = f"{highest!r}, the class of an ancestor, or a reason why not"
            yield Finding("risk", student.name, listed, repr(student.risk))
    component = member(
        member(document, "metadata", dict, "passport"), "component", dict, "metadata"
    )
    robustness = properties_of(component, "metadata.component").get("limbeck:robustness")
    if robustness is not None:
        try:
            read_robustness(robustness, "limbeck:robustness")
        except InputError as error:
            listed = "verdicts that follow from their figures"
            yield Finding("robustness", student.name, listed, str(error))


def of_teacher(models: Mapping[str, ModelFacts], place: Path) -> Iterator[Finding]:
    """Check that the lineage names a teacher.

    Args:
        models: The student's lineage, as returned by `read_lineage`.
        place: A folder with a passport, whose whole content must be in the lineage; or a folder or
            file without one, of which one file must be named there by its hash.

    Raises:
        InputError: There is no such folder or file.
    """
    ancestors = [model for reference, model in models.items() if reference != STUDENT]
    if os.path.lexists(passport_of(place)):
        try:
            yield from _of_generation(ancestors, as_teacher(passport_of(place)))
        except InputError as error:
            yield Finding("lineage", place.name, "a teacher's passport", str(error))
    elif not place.exists():
        raise InputError(Problem("lineage", str(place), "a teacher's folder or file of weights"))
    else:
        hashes = _hashes(place)
        if not any(model.digest in hashes for model in ancestors):
            listed = _digests(ancestors)
            yield Finding("lineage", place.name, listed, "none of these among its files")


def passport_of(place: Path) -> Path:
    """Return the path of a folder's passport, or the path itself if it is a passport."""
    return place if place.suffix == ".json" and place.is_file() else place / PASSPORT


def _of_generation(ancestors: list[ModelFacts], given: ModelFacts) -> Iterator[Finding]:
    # Both are rewritten, so that the limbeck version that wrote them makes no difference.
    written = components.models([*ancestors, given])
    reference = written[id(given)]["bom-ref"]
    if reference in {written[id(model)]["bom-ref"] for model in ancestors}:
        return
    same = [model for model in ancestors if given.digest and model.digest == given.digest]
    called = same or [model for model in ancestors if model.name == given.name]
    if not called:
        found = f"a teacher of sha256 {given.digest or 'that is not stated'}"
        yield Finding("lineage", given.name, _digests(ancestors), found)
    for model in called[:1]:
        for field in _SHOWN:
            listed, found = getattr(model, field), getattr(given, field)
            if listed != found:
                yield Finding("lineage", given.name, f"{field} {listed!r}", f"{field} {found!r}")
        for field in ("name", "data", "metrics", "ancestors"):
            listed, found = (_named(written, one, field) for one in (model, given))
            if listed != found:
                yield Finding("lineage", given.name, f"{field} {listed}", f"{field} {found}")


def _named(written: Mapping[int, Mapping[str, Any]], model: ModelFacts, field: str) -> str:
    component = written[id(model)]
    if field == "ancestors":
        return repr(sorted(str(written[id(one)]["bom-ref"]) for one in model.ancestors))
    if field == "data":
        return repr(sorted(str(components.data(one)["bom-ref"]) for one in model.data))
    if field == "metrics":
        return repr([(one.name, one.value) for one in model.metrics])
    return repr(component["name"])


def _graph(document: Mapping[str, Any], models: Mapping[str, ModelFacts]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for number, entry in enumerate(member(document, "dependencies", list, "passport")):
        where = f"dependencies[{number}]"
        needs = member(entry, "dependsOn", list, where)
        taught_by = {need for need in needs if isinstance(need, str) and need in models}
        found[member(entry, "ref", str, where)] = taught_by
    return found


def _hashes(place: Path) -> set[str]:
    if place.is_dir():
        return {contents.sha256 for contents in survey(place, apart=()).files.values()}
    return {hash_file(place).sha256} if place.is_file() else set()


def _names(models: Mapping[str, ModelFacts], references: list[str]) -> str:
    return ", ".join(repr(models[reference].name) for reference in references) or "none"


def _digests(ancestors: list[ModelFacts]) -> str:
    shown = [f"{model.name!r} of sha256 {model.digest or 'not stated'}" for model in ancestors[:5]]
    more = f" and {len(ancestors) - 5} more" if len(ancestors) > 5 else ""
    return ("the teachers " + ", ".join(shown) + more) if shown else "no teacher"
