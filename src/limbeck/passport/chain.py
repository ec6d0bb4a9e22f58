"""Lineage checks: consistency within a passport, and against the teachers passed to `verify`.

A model's reference is a hash of all that its passport states of it, including the references of its
teachers. One reference therefore covers every earlier generation: replacing a teacher changes the
reference of every descendant.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from limbeck.errors import InputError, Problem
from limbeck.passport import components
from limbeck.passport.components import Component
from limbeck.passport.document import PASSPORT, member, properties_of
from limbeck.passport.equivalence import read_robustness
from limbeck.passport.facts import ModelFacts
from limbeck.passport.folder import Issue, hash_file, scan_folder
from limbeck.passport.lineage import STUDENT, ancestors_of, as_teacher, by_reference, topological
from limbeck.passport.policy import CLASSES, rank

_KINDS = {"machine-learning-model": "model", "data": "data"}
_COMPARED = ("digest", "licence", "terms", "owner", "flags", "risk", "architecture", "version")


def check_lineage(document: Mapping[str, Any], models: Mapping[str, ModelFacts]) -> Iterator[Issue]:
    """Yield the contradictions between a passport's models, pedigrees and graph of dependencies."""
    found = by_reference(document)
    for reference, component in found.items():
        kind = _KINDS.get(str(component.get("type")))
        if kind is not None and reference != STUDENT:
            content = {key: value for key, value in component.items() if key != "bom-ref"}
            computed = components.reference(kind, content)
            if computed != reference:
                where = str(component.get("name"))
                yield Issue("lineage", where, repr(reference), f"contents that make {computed!r}")
    graph: dict[str, set[str]] = {}
    for number, entry in enumerate(member(document, "dependencies", list, "passport")):
        where = f"dependencies[{number}]"
        needs = member(entry, "dependsOn", list, where)
        teachers = {need for need in needs if isinstance(need, str) and need in models}
        graph[member(entry, "ref", str, where)] = teachers
    for reference, model in models.items():
        ancestors = ancestors_of(found[reference], reference)
        names = ", ".join(repr(models[ancestor].name) for ancestor in ancestors) or "none"
        pedigree = components.pedigree([found[ancestor] for ancestor in ancestors])
        if found[reference].get("pedigree", {}) != pedigree:
            yield Issue("lineage", model.name, f"the ancestors {names}", "others in its pedigree")
        if graph.get(reference) != set(ancestors):
            others = "others in the graph of dependencies"
            yield Issue("lineage", model.name, f"the ancestors {names}", others)


def check_claims(document: Mapping[str, Any], student: ModelFacts) -> Iterator[Issue]:
    """Yield a class of risk or a robustness verdict that does not follow from the stated facts."""
    lineage = topological([student])
    unknown = [model for model in lineage if model.risk and model.risk not in CLASSES]
    for model in unknown:
        yield Issue("risk", model.name, f"one of {', '.join(CLASSES)}", repr(model.risk))
    if not unknown:
        highest = max((model.risk for model in lineage), key=rank)
        if rank(student.risk) < rank(highest) and not student.risk_justification.strip():
            listed = f"{highest!r}, the class of an ancestor, or a reason why not"
            yield Issue("risk", student.name, listed, repr(student.risk))
    metadata = member(document, "metadata", dict, "passport")
    component = member(metadata, "component", dict, "metadata")
    robustness = properties_of(component, "metadata.component").get("limbeck:robustness")
    if robustness is not None:
        try:
            read_robustness(robustness, "limbeck:robustness")
        except InputError as error:
            listed = "verdicts that follow from their figures"
            yield Issue("robustness", student.name, listed, str(error))


def check_teacher(models: Mapping[str, ModelFacts], place: Path) -> Iterator[Issue]:
    """Check that the lineage names the teacher at a path.

    The whole content of its passport must be in the lineage; of a folder or file without a passport
    one file must be named there by its hash.
    """
    ancestors = [model for reference, model in models.items() if reference != STUDENT]
    if os.path.lexists(passport_of(place)):
        try:
            yield from _compare_teacher(ancestors, as_teacher(passport_of(place)))
        except InputError as error:
            yield Issue("lineage", place.name, "a teacher's passport", str(error))
        return
    if place.is_dir():
        hashes = {contents.sha256 for contents in scan_folder(place, exclude=()).files.values()}
    else:
        hashes = {hash_file(place).sha256}
    if not any(model.digest in hashes for model in ancestors):
        yield Issue("lineage", place.name, _digests(ancestors), "none of these among its files")


def check_exists(place: Path) -> None:
    """Raise an `InputError` unless a teacher is a folder or a regular file."""
    if not (os.path.isdir(place) or os.path.isfile(place)):
        fix = "This is not a regular file." if os.path.lexists(place) else "There is no such file."
        allowed = "a teacher's folder or file of weights"
        raise InputError(Problem("lineage", str(place), allowed, fix))


def passport_of(place: Path) -> Path:
    """Return the path of a folder's passport, or the path itself if it is a passport."""
    return place if place.suffix == ".json" and place.is_file() else place / PASSPORT


def _compare_teacher(ancestors: Sequence[ModelFacts], given: ModelFacts) -> Iterator[Issue]:
    # Both are rewritten, so that the limbeck version that wrote them makes no difference.
    written = components.models([*ancestors, given])
    reference = written[id(given)]["bom-ref"]
    if reference in {written[id(model)]["bom-ref"] for model in ancestors}:
        return
    same = [model for model in ancestors if given.digest and model.digest == given.digest]
    same = same or [model for model in ancestors if model.name == given.name]
    if not same:
        found = f"a teacher of sha256 {given.digest or 'that is not stated'}"
        yield Issue("lineage", given.name, _digests(ancestors), found)
        return
    stated, current = (_compared_fields(written, model) for model in (same[0], given))
    for field in stated:
        if stated[field] != current[field]:
            listed, found = f"{field} {stated[field]}", f"{field} {current[field]}"
            yield Issue("lineage", given.name, listed, found)


def _compared_fields(written: Mapping[int, Component], model: ModelFacts) -> dict[str, str]:
    content = {
        **{field: getattr(model, field) for field in _COMPARED},
        "name": written[id(model)]["name"],
        "data": sorted(str(components.data(one)["bom-ref"]) for one in model.data),
        "metrics": [(one.name, one.value) for one in model.metrics],
        "ancestors": sorted(str(written[id(one)]["bom-ref"]) for one in model.ancestors),
    }
    # As text, so that a NaN equals another.
    return {field: repr(value) for field, value in content.items()}


def _digests(ancestors: Sequence[ModelFacts]) -> str:
    shown = [f"{model.name!r} of sha256 {model.digest or 'not stated'}" for model in ancestors[:5]]
    more = f" and {len(ancestors) - 5} more" if len(ancestors) > 5 else ""
    return ("the teachers " + ", ".join(shown) + more) if shown else "no teacher"
