"""The components of the document: models, data, files and software, each as CycloneDX writes it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from limbeck.passport.document import canonical, sha256
from limbeck.passport.facts import DatasetFacts, MetricFacts, ModelFacts
from limbeck.passport.folder import FileHash
from limbeck.passport.licences import licences
from limbeck.passport.lineage import eldest_first

_SHA256 = re.compile(r"[0-9a-f]{64}")
_ADDRESS = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]+)?(/[A-Za-z0-9._~/@+-]*)?")
_DISTRIBUTION = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")


def filled(component: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what is empty.

    Example:
        >>> filled({"name": "digits", "version": "", "hashes": []})
        {'name': 'digits'}
    """
    return {key: value for key, value in component.items() if value not in ("", None, [], {})}


def properties(facts: Mapping[str, str | None]) -> list[dict[str, str]]:
    """Write facts that CycloneDX has no field for, each under `limbeck:`; empty ones are left out.

    Example:
        >>> properties({"source": "sklearn", "notes": ""})
        [{'name': 'limbeck:source', 'value': 'sklearn'}]
    """
    return [{"name": f"limbeck:{key}", "value": value} for key, value in facts.items() if value]


def hashes(digest: str) -> list[dict[str, str]]:
    """Write a SHA-256; what is not one is no hash here."""
    return [{"alg": "SHA-256", "content": digest}] if _SHA256.fullmatch(digest) else []


def metric(facts: MetricFacts) -> dict[str, Any]:
    """Write a measurement; CycloneDX has no field for its unit, so its name carries it.

    Example:
        >>> metric(MetricFacts("latency_p50", 0.25, unit="ms"))
        {'type': 'latency_p50 (ms)', 'value': '0.25'}
    """
    interval = {"lowerBound": _number(facts.low), "upperBound": _number(facts.high)}
    name = f"{facts.name} ({facts.unit})" if facts.unit else facts.name
    rest = {"slice": facts.slice, "confidenceInterval": filled(interval)}
    return {"type": name, "value": _number(facts.value), **filled(rest)}


def data(facts: DatasetFacts) -> dict[str, Any]:
    """Write data as a component, named after its content."""
    return _named(
        "data",
        {
            "type": "data",
            "name": facts.name,
            "hashes": hashes(facts.fingerprint),
            "licenses": licences(facts.licence),
            "externalReferences": _references(facts.source),
            "data": [{"type": "dataset", "name": facts.name}],
            "properties": properties(
                {
                    "source": facts.source,
                    "fingerprint": facts.fingerprint,
                    "licence": _unstated(facts.licence),
                    "classes": written(facts.classes),
                    "counts": canonical(dict(facts.counts)) if facts.counts else "",
                    "terms": written(facts.terms),
                }
            ),
        },
    )


def model(
    facts: ModelFacts, ancestors: Sequence[dict[str, Any]], made_with: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Write a model that the student descends from, named after its content and lineage."""
    card = {
        "modelParameters": filled(
            {
                "modelArchitecture": facts.architecture,
                "datasets": [{"ref": item["bom-ref"]} for item in made_with],
            }
        ),
        "quantitativeAnalysis": filled(
            {"performanceMetrics": [metric(item) for item in facts.metrics]}
        ),
    }
    return _named(
        "model",
        {
            "type": "machine-learning-model",
            "name": facts.name,
            "version": facts.version,
            "hashes": hashes(facts.digest),
            "licenses": licences(facts.licence),
            "externalReferences": _references(facts.source),
            "modelCard": filled(card),
            "pedigree": pedigree(ancestors),
            "properties": properties(
                {
                    "source": facts.source,
                    "digest": facts.digest,
                    "licence": _unstated(facts.licence),
                    # Two models of one name and hash may still come from different teachers.
                    "ancestors": written(item["bom-ref"] for item in ancestors),
                    **inherited(facts),
                }
            ),
        },
    )


def inherited(facts: ModelFacts) -> dict[str, str]:
    """Write what a model hands on beside its weights, as facts for `properties`."""
    return {
        "owner": facts.owner,
        "terms": written(facts.terms),
        "flags": written(facts.flags),
        "risk": facts.risk,
        "risk-justification": facts.risk_justification,
    }


def written(texts: Iterable[str]) -> str:
    """Write a list as one text; none is written as nothing.

    Example:
        >>> written(["dual-use"]), written([])
        ('["dual-use"]', '')
    """
    listed = list(texts)
    return canonical(listed) if listed else ""


def models(teachers: Iterable[ModelFacts]) -> dict[int, dict[str, Any]]:
    """Write models and all their ancestors, each by the `id` of its facts."""
    found: dict[int, dict[str, Any]] = {}
    for facts in eldest_first(teachers):
        ancestors = unique(found[id(item)] for item in facts.ancestors)
        found[id(facts)] = model(facts, ancestors, unique(data(item) for item in facts.data))
    return found


def unique(components: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Keep each component once, in the order of their references."""
    # A reference is a hash of what it names: the same reference is the same component.
    found = {item["bom-ref"]: item for item in components}
    return [found[reference] for reference in sorted(found)]


def pedigree(ancestors: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Write what a model descends from.

    The ancestors are named here and described in full among the components, where each states its
    own: a reference may stand only once in a document, whose depth does not grow with generations.
    """
    kept = ("type", "name", "version", "hashes", "licenses")
    named = [{key: item[key] for key in kept if key in item} for item in ancestors]
    return {"ancestors": named} if named else {}


def file(name: str, contents: FileHash) -> dict[str, Any]:
    """Write a file of the student folder."""
    return {
        "type": "file",
        "bom-ref": f"file:{name}",
        "name": name,
        "hashes": hashes(contents.sha256),
        "properties": properties({"size": str(contents.size)}),
    }


def software(name: str, version: str) -> dict[str, Any]:
    """Write a library.

    Example:
        >>> software("torch", "2.9.0+cpu")["purl"]
        'pkg:pypi/torch@2.9.0%2Bcpu'
    """
    # Python is no package of the index that "pypi" means, nor is limbeck: a stranger's could be.
    indexed = name.lower() not in ("python", "limbeck") and _DISTRIBUTION.fullmatch(name)
    address = f"pkg:pypi/{re.sub(r'[-_.]+', '-', name).lower()}@{quote(version, safe='')}"
    return {
        "type": "platform" if name.lower() == "python" else "library",
        "bom-ref": f"software:{name}",
        "name": name,
        **filled({"version": version, "purl": address if indexed and version else ""}),
    }


def _named(kind: str, component: dict[str, Any]) -> dict[str, Any]:
    content = filled(component)
    # CycloneDX wants a name even where it is empty.
    content["name"] = component["name"]
    return {"bom-ref": reference(kind, content), **content}


def reference(kind: str, content: Mapping[str, Any]) -> str:
    """Name a component after its content, and so after all that it descends from.

    Example:
        >>> reference("model", {"name": "digits_cnn"})
        'model:638fa531c3145b25d01672e9215b848e'
    """
    return f"{kind}:{sha256(canonical(content))[:32]}"


def _references(source: str) -> list[dict[str, str]]:
    if not _ADDRESS.fullmatch(source):
        return []
    return [{"type": "distribution", "url": source}]


def _unstated(licence: str) -> str:
    return "" if licence.strip() else "not stated"


def _number(value: float | None) -> str:
    return "" if value is None else repr(float(value))
