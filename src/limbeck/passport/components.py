"""CycloneDX components of the document: models, data, files and software."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from limbeck.passport.document import SHA256, canonical, sha256
from limbeck.passport.facts import DatasetFacts, MetricFacts, ModelFacts
from limbeck.passport.folder import FileHash
from limbeck.passport.licences import licences
from limbeck.passport.lineage import topological

Component = dict[str, Any]

_URL = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]+)?(/[A-Za-z0-9._~/@+-]*)?")
_DISTRIBUTION = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")


def filled(component: Mapping[str, Any]) -> Component:
    """Remove empty values."""
    return {key: value for key, value in component.items() if value not in ("", None, [], {})}


def properties(facts: Mapping[str, str | None]) -> list[dict[str, str]]:
    """Convert facts that CycloneDX has no field for into `limbeck:` properties; omit empty ones."""
    return [{"name": f"limbeck:{key}", "value": value} for key, value in facts.items() if value]


def hashes(digest: str) -> list[dict[str, str]]:
    """Return a SHA-256 as CycloneDX hashes; anything else becomes an empty list."""
    return [{"alg": "SHA-256", "content": digest}] if SHA256.fullmatch(digest) else []


def metric(facts: MetricFacts) -> Component:
    """Convert a measurement; its name carries the unit, for which CycloneDX has no field.

    Example:
        >>> metric(MetricFacts("latency_p50", 0.25, unit="ms"))
        {'type': 'latency_p50 (ms)', 'value': '0.25'}
    """
    bounds = {"lowerBound": facts.low, "upperBound": facts.high}
    interval = {key: repr(float(value)) for key, value in bounds.items() if value is not None}
    name = f"{facts.name} ({facts.unit})" if facts.unit else facts.name
    rest = {"slice": facts.slice, "confidenceInterval": interval}
    return {"type": name, "value": repr(float(facts.value)), **filled(rest)}


def data(facts: DatasetFacts) -> Component:
    """Convert data into a component whose reference is a hash of its content."""
    stated = {
        "source": facts.source,
        "fingerprint": facts.fingerprint,
        "licence": _not_stated(facts.licence),
        "classes": written(facts.classes),
        "counts": canonical(dict(facts.counts)) if facts.counts else "",
        "terms": written(facts.terms),
    }
    component = {
        "type": "data",
        "name": facts.name,
        "hashes": hashes(facts.fingerprint),
        "licenses": licences(facts.licence),
        "externalReferences": _references(facts.source),
        "data": [{"type": "dataset", "name": facts.name}],
        "properties": properties(stated),
    }
    return _with_reference("data", component)


def models(teachers: Iterable[ModelFacts]) -> dict[int, Component]:
    """Convert models and all their ancestors into components, keyed by the `id` of the facts.

    A model's reference is a hash of its content and lineage.
    """
    found: dict[int, Component] = {}
    for facts in topological(teachers):
        found[id(facts)] = _model(facts, unique(found[id(item)] for item in facts.ancestors))
    return found


def _model(facts: ModelFacts, ancestors: Sequence[Component]) -> Component:
    datasets = [{"ref": item["bom-ref"]} for item in unique(data(one) for one in facts.data)]
    parameters = {"modelArchitecture": facts.architecture, "datasets": datasets}
    metrics = [metric(item) for item in facts.metrics]
    card = {
        "modelParameters": filled(parameters),
        "quantitativeAnalysis": filled({"performanceMetrics": metrics}),
    }
    stated = {
        "source": facts.source,
        "digest": facts.digest,
        "licence": _not_stated(facts.licence),
        # Two models with the same name and hash may come from different teachers.
        "ancestors": written(item["bom-ref"] for item in ancestors),
        "owner": facts.owner,
        "terms": written(facts.terms),
        "flags": written(facts.flags),
        "risk": facts.risk,
        "risk-justification": facts.risk_justification,
    }
    component = {
        "type": "machine-learning-model",
        "name": facts.name,
        "version": facts.version,
        "hashes": hashes(facts.digest),
        "licenses": licences(facts.licence),
        "externalReferences": _references(facts.source),
        "modelCard": filled(card),
        "pedigree": pedigree(ancestors),
        "properties": properties(stated),
    }
    return _with_reference("model", component)


def written(texts: Iterable[str]) -> str:
    """Write a list as one string; an empty list becomes an empty string."""
    listed = list(texts)
    return canonical(listed) if listed else ""


def unique(components: Iterable[Component]) -> list[Component]:
    """Return each component once, ordered by reference."""
    # References are content hashes: the same reference is the same component.
    found = {item["bom-ref"]: item for item in components}
    return [found[reference] for reference in sorted(found)]


def pedigree(ancestors: Sequence[Component]) -> Component:
    """Return the pedigree of a model.

    Ancestors are referenced here and described in full among the components, each with its own
    pedigree: a reference must be unique in a document, and the document's depth does not grow with
    the number of generations.
    """
    kept = ("type", "name", "version", "hashes", "licenses")
    named = [{key: item[key] for key in kept if key in item} for item in ancestors]
    return {"ancestors": named} if named else {}


def file(name: str, contents: FileHash) -> Component:
    """Convert a file of the student folder into a component."""
    return {
        "type": "file",
        "bom-ref": f"file:{name}",
        "name": name,
        "hashes": hashes(contents.sha256),
        "properties": properties({"size": str(contents.size)}),
    }


def software(name: str, version: str) -> Component:
    """Convert a library into a component.

    Example:
        >>> software("torch", "2.9.0+cpu")["purl"]
        'pkg:pypi/torch@2.9.0%2Bcpu'
    """
    # Python and limbeck are not on the index that "pypi" denotes; a stranger's package could be.
    indexed = name.lower() not in ("python", "limbeck") and _DISTRIBUTION.fullmatch(name)
    url = f"pkg:pypi/{re.sub(r'[-_.]+', '-', name).lower()}@{quote(version, safe='')}"
    return {
        "type": "platform" if name.lower() == "python" else "library",
        "bom-ref": f"software:{name}",
        "name": name,
        **filled({"version": version, "purl": url if indexed and version else ""}),
    }


def _with_reference(kind: str, component: Component) -> Component:
    # CycloneDX requires a name, even an empty one.
    content = filled(component) | {"name": component["name"]}
    return {"bom-ref": reference(kind, content), **content}


def reference(kind: str, content: Mapping[str, Any]) -> str:
    """Compute a component's reference: a hash of its content, and so of all its ancestors.

    Example:
        >>> reference("model", {"name": "digits_cnn"})
        'model:638fa531c3145b25d01672e9215b848e'
    """
    return f"{kind}:{sha256(canonical(content))[:32]}"


def _references(source: str) -> list[dict[str, str]]:
    return [{"type": "distribution", "url": source}] if _URL.fullmatch(source) else []


def _not_stated(licence: str) -> str:
    return "" if licence.strip() else "not stated"
