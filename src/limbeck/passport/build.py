"""Building a passport: `PassportFacts` converted to a CycloneDX 1.6 ML-BOM."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC
from typing import Any

from limbeck.errors import InputError, Problem
from limbeck.passport import components as write
from limbeck.passport.components import Component, filled, properties, unique
from limbeck.passport.document import (
    CONTENT,
    PASSPORT,
    SIGNATURE,
    canonical,
    content_sha256,
    sha256,
)
from limbeck.passport.embedded_metadata import student_id
from limbeck.passport.equivalence import robustness
from limbeck.passport.facts import ModelFacts, PassportFacts
from limbeck.passport.folder import scan_folder
from limbeck.passport.licences import licences
from limbeck.passport.lineage import STUDENT, topological
from limbeck.passport.policy import inherit, unknown_words

_SERIALS = uuid.UUID("6d0c8f3e-5e0b-5c39-9f2a-1f6f3c0a7a11")


def build_passport(facts: PassportFacts) -> dict[str, Any]:
    """Build a student's passport; deterministic for the same facts and files.

    Every file in the folder is hashed, except `passport.json` itself and the signature. Call this
    last, when all other files are written and carry their metadata (`embed_metadata`). Write the
    result with `render` (`limbeck.core.files.write_json` writes the same text).

    Raises:
        InputError: The model file is not in the folder, the timestamp has no zone, a term, flag or
            class of risk is unknown, a figure is invalid, or the folder holds something that cannot
            be hashed as a file of it.
    """
    ancestors = topological(facts.teachers)
    datasets = [*facts.data, *(item for model in ancestors for item in model.data)]
    if not facts.folder.is_dir():
        raise InputError(Problem("folder", str(facts.folder), "a student folder"))
    listing = scan_folder(facts.folder, exclude=(PASSPORT, SIGNATURE))
    files = listing.files
    itself = ModelFacts("student", terms=facts.terms, flags=facts.flags, risk=facts.risk)
    problems = [
        *_invalid_figures(facts),
        *dict.fromkeys(unknown_words([itself, *ancestors], datasets)),
        *(
            Problem(f"{facts.folder}: {name!r}", one.description, "plain files inside the folder")
            for name, one in listing.anomalies.items()
        ),
    ]
    if facts.model_file not in files:
        names = ", ".join(sorted(files)[:10]) or "a file; the folder holds none"
        problems.append(Problem("model_file", facts.model_file, names))
    if problems:
        raise InputError(*problems)

    written = write.models(facts.teachers)
    models = unique(written.values())
    teachers = unique(written[id(item)] for item in facts.teachers)
    data = unique(write.data(item) for item in datasets)
    own_data = unique(write.data(item) for item in facts.data)
    libraries = [write.software(name, facts.versions[name]) for name in sorted(facts.versions)]
    listed = [write.file(name, files[name]) for name in sorted(files)]
    graph = {STUDENT: [item["bom-ref"] for item in (*teachers, *own_data, *libraries)]}
    graph |= {item["bom-ref"]: _dependencies(item) for item in models}
    graph |= {item["bom-ref"]: [] for item in (*data, *libraries)}
    student = {
        "type": "machine-learning-model",
        "bom-ref": STUDENT,
        "name": facts.name,
        "hashes": write.hashes(files[facts.model_file].sha256),
        **filled(
            {
                "version": facts.version,
                "licenses": licences(facts.licence),
                "modelCard": _card(facts, own_data),
                "pedigree": write.pedigree(teachers),
            }
        ),
        "properties": properties(_student_properties(facts, ancestors, teachers)),
    }
    passport: dict[str, Any] = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": _metadata(facts, student),
        "components": [*models, *data, *listed, *libraries],
        "dependencies": [{"ref": one, "dependsOn": needs} for one, needs in graph.items()],
    }
    passport["serialNumber"] = f"urn:uuid:{uuid.uuid5(_SERIALS, canonical(passport))}"
    passport["properties"] = [{"name": CONTENT, "value": content_sha256(passport)}]
    return passport


def _invalid_figures(facts: PassportFacts) -> Iterator[Problem]:
    if facts.timestamp.utcoffset() is None:
        yield Problem("timestamp", str(facts.timestamp), "a time with its zone")
    if facts.carbon is not None:
        figures = {"grams": facts.carbon.grams, "grid_factor": facts.carbon.grid_factor}
        for name, value in figures.items():
            if not (math.isfinite(value) and value >= 0):
                yield Problem(f"carbon.{name}", value, "a number of 0 or more")


def _student_properties(
    facts: PassportFacts, lineage: Sequence[ModelFacts], teachers: Sequence[Component]
) -> dict[str, str]:
    risk = inherit(facts.risk, lineage, justification=facts.risk_justification)
    flags = {*facts.flags, *(flag for model in lineage for flag in model.flags)}
    return {
        "model-file": facts.model_file,
        "id": student_id(facts),
        "licence": "" if facts.licence.strip() else "not stated",
        "ancestors": write.written(item["bom-ref"] for item in teachers),
        "owner": facts.owner,
        "terms": write.written(facts.terms),
        "flags": write.written(sorted(flags)),
        "risk": risk.risk,
        "risk-own": risk.own,
        "risk-inherited": risk.inherited,
        "risk-inherited-from": write.written(risk.inherited_from),
        "risk-justification": risk.justification,
        "robustness": robustness(facts.robustness) if facts.robustness else "",
        "negative-results": write.written(facts.negative_results),
    }


def _card(facts: PassportFacts, data: Sequence[Component]) -> Component:
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
    return filled(
        {
            "modelParameters": filled(parameters),
            "quantitativeAnalysis": filled({"performanceMetrics": metrics}),
            "considerations": filled(considerations),
        }
    )


def _metadata(facts: PassportFacts, student: Component) -> Component:
    tool = {"type": "application", "name": "limbeck", "version": facts.versions.get("limbeck", "")}
    recipe = canonical(dict(facts.recipe))
    stated = {
        "recipe": recipe,
        "recipe-sha256": sha256(recipe),
        "seeds": canonical(list(facts.seeds)),
        "git-commit": facts.git_commit,
        "hardware": facts.hardware,
        "environment": canonical(dict(facts.environment)) if facts.environment else "",
        "carbon": canonical(vars(facts.carbon)) if facts.carbon else "",
    }
    return {
        "timestamp": facts.timestamp.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        "tools": {"components": [filled(tool)]},
        "component": student,
        "properties": properties(stated),
    }


def _dependencies(model: Component) -> list[str]:
    stated = {item["name"]: item["value"] for item in model.get("properties", [])}
    parameters = model.get("modelCard", {}).get("modelParameters", {})
    ancestors: list[str] = json.loads(stated.get("limbeck:ancestors", "[]"))
    return ancestors + [item["ref"] for item in parameters.get("datasets", [])]
