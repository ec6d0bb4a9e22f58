"""Lineage: the models behind a student in topological order, and a student used as a teacher."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from limbeck.passport.document import (
    CONTENT,
    content_sha256,
    json_of,
    member,
    properties_of,
    read,
    refuse,
    sha256_of,
)
from limbeck.passport.facts import DatasetFacts, MetricFacts, ModelFacts

STUDENT = "student"  # the reference of the student in its own passport


def topological(models: Iterable[ModelFacts]) -> list[ModelFacts]:
    """Return models and all their ancestors in topological order, ancestors first."""
    found: dict[int, ModelFacts] = {}
    pending = list(models)
    while pending:
        model = pending.pop()
        if id(model) not in found:
            found[id(model)] = model
            pending.extend(model.ancestors)
    graph = {key: [id(ancestor) for ancestor in model.ancestors] for key, model in found.items()}
    return [found[key] for key in TopologicalSorter(graph).static_order()]


def as_teacher(passport: Path) -> ModelFacts:
    """Read the passport of a student used as a teacher, with all its ancestors.

    The files beside it are not checked (`verify` does that).

    Raises:
        InputError: It is not a passport, or it was edited after it was written.
    """
    document, _ = read(passport)
    stated = properties_of(document, "passport").get(CONTENT)
    found = content_sha256(document)
    if stated != found:
        refuse(f"{passport}: {CONTENT}", stated, f"the hash of its content, {found}")
    return read_lineage(document)[STUDENT]


def read_lineage(document: Mapping[str, Any]) -> dict[str, ModelFacts]:
    """Read every model of a passport, including the student, by its reference."""
    components = by_reference(document)
    data = {
        reference: _dataset(item, reference)
        for reference, item in components.items()
        if item.get("type") == "data"
    }
    graph = {
        reference: ancestors_of(item, reference)
        for reference, item in components.items()
        if item.get("type") == "machine-learning-model"
    }
    for reference, ancestors in graph.items():
        for ancestor in ancestors:
            if ancestor not in graph:
                refuse(f"{reference}: limbeck:ancestors", ancestor, "a model of this passport")
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        allowed = "a lineage in which no model descends from itself"
        refuse("limbeck:ancestors", error.args[1], allowed)
    if STUDENT not in graph:
        refuse("metadata.component.type", None, "machine-learning-model")
    models: dict[str, ModelFacts] = {}
    for reference in order:
        models[reference] = _model(components[reference], reference, models, data)
    return models


def ancestors_of(component: Mapping[str, Any], where: str) -> list[str]:
    """Read the references of a model's ancestors."""
    return _texts(properties_of(component, where), "ancestors", where)


def by_reference(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the student and every component of a passport by its reference."""
    student = member(member(document, "metadata", dict, "passport"), "component", dict, "metadata")
    found = {STUDENT: student}
    for number, item in enumerate(member(document, "components", list, "passport")):
        reference = member(item, "bom-ref", str, f"components[{number}]")
        if reference in found:
            refuse(f"components[{number}].bom-ref", reference, "each reference once")
        found[reference] = item
    return found


def _model(
    component: dict[str, Any],
    where: str,
    models: Mapping[str, ModelFacts],
    data: Mapping[str, DatasetFacts],
) -> ModelFacts:
    stated = properties_of(component, where)
    card = _optional(component, "modelCard", dict, where)
    parameters = _optional(card, "modelParameters", dict, where)
    analysis = _optional(card, "quantitativeAnalysis", dict, where)
    metrics = _optional(analysis, "performanceMetrics", list, where)
    datasets = _optional(parameters, "datasets", list, where)
    references = [member(item, "ref", str, where) for item in datasets]
    for reference in references:
        if reference not in data:
            refuse(f"{where}.datasets", reference, "data of this passport")
    digest = stated.get("limbeck:digest", "")
    return ModelFacts(
        name=member(component, "name", str, where),
        source=stated.get("limbeck:source", ""),
        digest=sha256_of(component, where) if where == STUDENT else digest,
        version=_optional(component, "version", str, where),
        licence=_licence(component, where),
        architecture=_optional(parameters, "modelArchitecture", str, where),
        metrics=tuple(_metric(item, where) for item in metrics),
        data=tuple(data[reference] for reference in references),
        ancestors=tuple(models[reference] for reference in ancestors_of(component, where)),
        owner=stated.get("limbeck:owner", ""),
        terms=tuple(_texts(stated, "terms", where)),
        flags=tuple(_texts(stated, "flags", where)),
        risk=stated.get("limbeck:risk", ""),
        risk_justification=stated.get("limbeck:risk-justification", ""),
    )


def _dataset(component: dict[str, Any], where: str) -> DatasetFacts:
    stated = properties_of(component, where)
    counts = json_of(stated.get("limbeck:counts", "{}"), dict, f"{where}: limbeck:counts")
    return DatasetFacts(
        name=member(component, "name", str, where),
        source=stated.get("limbeck:source", ""),
        fingerprint=stated.get("limbeck:fingerprint", ""),
        licence=_licence(component, where),
        classes=tuple(_texts(stated, "classes", where)),
        counts={key: member(counts, key, int, where) for key in counts},
        terms=tuple(_texts(stated, "terms", where)),
    )


def _metric(item: Any, where: str) -> MetricFacts:
    # The name keeps its unit, so that a round trip is exact.
    interval = _optional(item, "confidenceInterval", dict, where)
    return MetricFacts(
        name=member(item, "type", str, where),
        value=_number(member(item, "value", str, where), where),
        low=_number(interval["lowerBound"], where) if "lowerBound" in interval else None,
        high=_number(interval["upperBound"], where) if "upperBound" in interval else None,
        slice=_optional(item, "slice", str, where),
    )


def _licence(component: dict[str, Any], where: str) -> str:
    stated = _optional(component, "licenses", list, where)
    if not stated:
        return ""
    licence = member(stated[0], "license", dict, f"{where}.licenses[0]")
    return str(member(licence, "id" if "id" in licence else "name", str, f"{where}.licenses[0]"))


def _optional(parent: Any, key: str, kind: type, where: str) -> Any:
    """Return `parent[key]`, checked to be of the stated type; an empty one if it is missing."""
    present = isinstance(parent, dict) and key in parent
    return member(parent, key, kind, where) if present else kind()


def _number(text: Any, where: str) -> float:
    try:
        return float(text)
    except (TypeError, ValueError):
        refuse(where, text, "a number, written as text")


def _texts(stated: Mapping[str, str], key: str, where: str) -> list[str]:
    where = f"{where}: limbeck:{key}"
    texts: list[str] = json_of(stated.get(f"limbeck:{key}", "[]"), list, where)
    for item in texts:
        if not isinstance(item, str):
            refuse(where, item, "a list of texts")
    return texts
