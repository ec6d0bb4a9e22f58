"""Writing a passport: facts about a student become a CycloneDX 1.6 ML-BOM."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC
from typing import Any

from limbeck.errors import InputError, Problem
from limbeck.passport import components as write
from limbeck.passport.components import filled, properties
from limbeck.passport.document import CONTENT, PASSPORT, canonical, content_sha256, sha256
from limbeck.passport.facts import DatasetFacts, PassportFacts
from limbeck.passport.folder import FileHash, survey
from limbeck.passport.licences import licences
from limbeck.passport.lineage import STUDENT, eldest_first

_SERIALS = uuid.UUID("6d0c8f3e-5e0b-5c39-9f2a-1f6f3c0a7a11")


def build_passport(facts: PassportFacts) -> dict[str, Any]:
    """Make a student's passport; the same facts and files give the same passport.

    Every file in the folder is hashed, except `passport.json` itself, so this comes last, when all
    else has been written.

    Args:
        facts: What is known of the student.

    Returns:
        The document, to be written as `render` writes it (`limbeck.atomic.write_json` does so too).

    Raises:
        InputError: The model file is not in the folder, the time has no zone, or the folder holds
            what cannot be hashed as a file of it.
    """
    files = _files(facts)
    data = _unique(write.data(item) for item in _all_data(facts))
    own_data = _unique(write.data(item) for item in facts.data)
    models, teachers = _models(facts)
    libraries = [write.software(name, facts.versions[name]) for name in sorted(facts.versions)]
    listed = [write.file(name, files[name]) for name in sorted(files)]
    passport: dict[str, Any] = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": _metadata(facts, _student(facts, files[facts.model_file], teachers, own_data)),
        "components": [*models, *data, *listed, *libraries],
        "dependencies": _dependencies(models, teachers, data, own_data, libraries),
    }
    passport["serialNumber"] = f"urn:uuid:{uuid.uuid5(_SERIALS, canonical(passport))}"
    passport["properties"] = [{"name": CONTENT, "value": content_sha256(passport)}]
    return passport


def _files(facts: PassportFacts) -> dict[str, FileHash]:
    if facts.timestamp.utcoffset() is None:
        raise InputError(Problem("timestamp", str(facts.timestamp), "a time with its zone"))
    if not facts.folder.is_dir():
        raise InputError(Problem("folder", str(facts.folder), "a student folder"))
    listing = survey(facts.folder, apart=PASSPORT)
    problems = [
        Problem(f"{facts.folder}: {name!r}", oddity.what, "plain files inside the folder")
        for name, oddity in listing.oddities.items()
    ]
    if facts.model_file not in listing.files:
        names = ", ".join(sorted(listing.files)[:10]) or "a file; the folder holds none"
        problems.append(Problem("model_file", facts.model_file, names))
    if problems:
        raise InputError(*problems)
    return listing.files


def _all_data(facts: PassportFacts) -> Iterable[DatasetFacts]:
    yield from facts.data
    for model in eldest_first(facts.teachers):
        yield from model.data


def _models(facts: PassportFacts) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Write every model of the lineage once; give them all, and the student's own teachers."""
    written: dict[int, dict[str, Any]] = {}
    for model in eldest_first(facts.teachers):
        ancestors = _unique(written[id(item)] for item in model.ancestors)
        made_with = _unique(write.data(item) for item in model.data)
        written[id(model)] = write.model(model, ancestors, made_with)
    return _unique(written.values()), _unique(written[id(item)] for item in facts.teachers)


def _unique(components: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    # A reference is a hash of what it names: the same reference is the same component.
    found = {item["bom-ref"]: item for item in components}
    return [found[reference] for reference in sorted(found)]


def _student(
    facts: PassportFacts,
    shipped: FileHash,
    teachers: list[dict[str, Any]],
    data: list[dict[str, Any]],
) -> dict[str, Any]:
    student = {
        "version": facts.version,
        "licenses": licences(facts.licence),
        "modelCard": _card(facts, data),
        "pedigree": write.pedigree(teachers),
    }
    return {
        "type": "machine-learning-model",
        "bom-ref": STUDENT,
        "name": facts.name,
        "hashes": write.hashes(shipped.sha256),
        **filled(student),
        "properties": properties(
            {
                "model-file": facts.model_file,
                "licence": "" if facts.licence.strip() else "not stated",
                "ancestors": canonical([item["bom-ref"] for item in teachers]) if teachers else "",
            }
        ),
    }


def _card(facts: PassportFacts, data: list[dict[str, Any]]) -> dict[str, Any]:
    parameters = {
        "task": facts.task,
        "architectureFamily": facts.architecture_family,
        "modelArchitecture": facts.architecture,
        "datasets": [{"ref": item["bom-ref"]} for item in data],
        "inputs": [{"format": form} for form in facts.inputs],
        "outputs": [{"format": form} for form in facts.outputs],
    }
    considerations = {
        "technicalLimitations": list(facts.limits),
        "performanceTradeoffs": list(facts.tradeoffs),
    }
    metrics = [write.metric(item) for item in facts.metrics]
    card = {
        "modelParameters": filled(parameters),
        "quantitativeAnalysis": filled({"performanceMetrics": metrics}),
        "considerations": filled(considerations),
    }
    return filled(card)


def _metadata(facts: PassportFacts, student: dict[str, Any]) -> dict[str, Any]:
    tool = {"type": "application", "name": "limbeck", "version": facts.versions.get("limbeck", "")}
    recipe = canonical(dict(facts.recipe))
    return {
        "timestamp": facts.timestamp.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "tools": {"components": [filled(tool)]},
        "component": student,
        "properties": properties(
            {
                "recipe": recipe,
                "recipe-sha256": sha256(recipe),
                "seeds": canonical(list(facts.seeds)),
                "git-commit": facts.git_commit,
                "hardware": facts.hardware,
            }
        ),
    }


def _dependencies(
    models: list[dict[str, Any]],
    teachers: list[dict[str, Any]],
    data: list[dict[str, Any]],
    own_data: list[dict[str, Any]],
    libraries: list[dict[str, Any]],
) -> list[dict[str, Any]]:
    graph = {STUDENT: [item["bom-ref"] for item in (*teachers, *own_data, *libraries)]}
    graph |= {item["bom-ref"]: _needs(item) for item in models}
    graph |= {item["bom-ref"]: [] for item in (*data, *libraries)}
    return [{"ref": reference, "dependsOn": needs} for reference, needs in graph.items()]


def _needs(model: Mapping[str, Any]) -> list[str]:
    stated = {item["name"]: item["value"] for item in model.get("properties", [])}
    parameters = model.get("modelCard", {}).get("modelParameters", {})
    ancestors: list[str] = json.loads(stated.get("limbeck:ancestors", "[]"))
    return ancestors + [item["ref"] for item in parameters.get("datasets", [])]
