"""Every passport that can be built is valid CycloneDX 1.6, and contains the given facts."""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import limbeck.passport
from limbeck.core.files import write_json
from limbeck.errors import InputError
from limbeck.passport import (
    CarbonFacts,
    DatasetFacts,
    DifferenceFacts,
    MetricFacts,
    ModelFacts,
    PassportFacts,
    build_passport,
    render,
    validate,
    verify,
)
from limbeck.passport.policy import CLASSES, FLAGS, TERMS

ALLOWED = ("limbeck.passport", "limbeck.core.files", "limbeck.errors", "limbeck.core.imports")
NASTY = [
    "",
    "ünïcode 数字",
    '"quoted"',
    "<script>alert(1)</script>",
    "a\nb\x00\x1b[31m",
    "../x",
    "\\",
]
texts = st.one_of(st.sampled_from(NASTY), st.text(max_size=12))
licences = st.one_of(st.sampled_from(["", " ", "MIT", "cc-by-4.0", "MIT OR Apache-2.0"]), texts)
digests = st.one_of(st.sampled_from(["a" * 64, "A" * 64, "xyz", "a" * 32]), texts)
sources = st.one_of(st.sampled_from(["https://x.org/a", "https://x.org/<a b>", "http://["]), texts)
figures = st.floats(allow_nan=True, allow_infinity=True)
few = {"max_size": 2}
amounts = st.floats(0, 1e9)
differences = st.tuples(texts, figures, amounts, st.sampled_from(["higher", "lower"])).flatmap(
    lambda drawn: st.builds(
        DifferenceFacts,
        st.just(drawn[0]),
        st.just(drawn[1]),
        st.none() | st.floats(-1, 0),
        st.none() | st.floats(0, 1),
        st.just(drawn[2]),
        st.just(drawn[3]),
    )
)


def words(known: tuple[str, ...]) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(known), max_size=2).map(tuple)


metrics = st.builds(
    MetricFacts, texts, figures, st.none() | figures, st.none() | figures, texts, texts
)
datasets = st.builds(
    DatasetFacts,
    texts,
    sources,
    digests,
    licences,
    st.lists(texts, **few).map(tuple),
    st.dictionaries(texts, st.integers(0), **few),
    words(TERMS),
)


def models(
    ancestors: st.SearchStrategy[tuple[ModelFacts, ...]],
) -> st.SearchStrategy[ModelFacts]:
    return st.builds(
        ModelFacts,
        name=texts,
        source=sources,
        digest=digests,
        version=texts,
        licence=licences,
        architecture=texts,
        metrics=st.lists(metrics, **few).map(tuple),
        data=st.lists(datasets, **few).map(tuple),
        ancestors=ancestors,
        owner=texts,
        terms=words(TERMS),
        flags=words(FLAGS),
        risk=st.sampled_from(["", *CLASSES]),
    )


teachers = st.recursive(
    models(st.just(())), lambda inner: models(st.lists(inner, max_size=3).map(tuple)), max_leaves=4
)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | figures | texts,
    lambda inner: st.lists(inner, **few) | st.dictionaries(texts, inner, **few),
    max_leaves=5,
)
stated = st.fixed_dictionaries(
    {
        "name": texts,
        "task": texts,
        "timestamp": st.datetimes(
            datetime(1980, 1, 1),
            datetime(2200, 1, 1),
            timezones=st.just(timezone(timedelta(hours=5))),
        ),
        "licence": licences,
        "architecture_family": texts,
        "inputs": st.lists(texts, **few).map(tuple),
        "teachers": st.lists(teachers, **few).map(tuple),
        "data": st.lists(datasets, **few).map(tuple),
        "recipe": st.dictionaries(texts, plain, **few),
        "metrics": st.lists(metrics, **few).map(tuple),
        "versions": st.dictionaries(texts, texts, **few),
        "seeds": st.lists(st.integers(), **few).map(tuple),
        "git_commit": st.none() | texts,
        "hardware": texts,
        "limits": st.lists(texts, **few).map(tuple),
        "owner": texts,
        "terms": words(TERMS),
        "flags": words(FLAGS),
        "risk": st.sampled_from(["", *CLASSES]),
        "robustness": st.lists(differences, **few).map(tuple),
        "carbon": st.none() | st.builds(CarbonFacts, amounts, amounts, texts, texts),
        "environment": st.dictionaries(texts, texts, **few),
        "negative_results": st.lists(texts, **few).map(tuple),
    }
)


def references(part: Any) -> list[str]:
    if isinstance(part, list):
        return [reference for item in part for reference in references(item)]
    if not isinstance(part, dict):
        return []
    return [part[key] for key in part if key == "bom-ref"] + references(list(part.values()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    for name in (
        "model.onnx",
        "<b>.txt",
        '"quoted".md',
        "ünïcode 数字",
        "back\\slash",
        "new\nline",
    ):
        (folder / name).write_text(name, encoding="utf-8")
    # A name that is not UTF-8, as Linux allows.
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.bin")).write_text("bytes", encoding="utf-8")
    return folder


@settings(max_examples=20, deadline=None)
@given(drawn=stated)
def test_generated_passports_are_valid_verified_and_have_no_dangling_reference(
    folder: Path, drawn: dict[str, Any]
) -> None:
    facts = PassportFacts(folder=folder, model_file="model.onnx", **drawn)
    passport = build_passport(facts)
    assert validate(passport) == ()
    (folder / "passport.json").write_text(render(passport), encoding="utf-8")
    assert verify(folder).issues == ()
    assert build_passport(facts) == passport
    there = references(passport)
    assert len(there) == len(set(there))
    for entry in passport["dependencies"]:
        assert {entry["ref"], *entry["dependsOn"]} <= set(there)


def test_every_fact_is_in_the_document(facts: PassportFacts) -> None:
    passport = build_passport(facts)
    student = passport["metadata"]["component"]
    card = student["modelCard"]
    assert student["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    assert card["modelParameters"]["task"] == "image_classification"
    assert card["modelParameters"]["inputs"] == [{"format": "image float32 [n, 1, 8, 8]"}]
    assert card["quantitativeAnalysis"]["performanceMetrics"][0] == {
        "type": "accuracy",
        "value": "0.972",
        "slice": "test",
        "confidenceInterval": {"lowerBound": "0.96", "upperBound": "0.98"},
    }
    assert card["considerations"]["technicalLimitations"] == list(facts.limits)
    assert student["pedigree"]["ancestors"][0]["name"] == "digits_cnn"
    files = [item["name"] for item in passport["components"] if item["type"] == "file"]
    assert files == ["README.md", "model.onnx", "tokenizer/vocab.txt"]
    about = {item["name"]: item["value"] for item in passport["metadata"]["properties"]}
    assert json.loads(about["limbeck:recipe"]) == facts.recipe
    assert about["limbeck:seeds"] == "[0,1,2]"
    assert about["limbeck:git-commit"] == "5f0b4de"
    assert passport["metadata"]["timestamp"] == "2026-01-02T03:04:05Z"


def test_dependency_graph_contains_teachers_data_and_software(facts: PassportFacts) -> None:
    passport = build_passport(facts)
    names = {item["bom-ref"]: item["name"] for item in passport["components"]}
    graph = {
        names.get(entry["ref"], "student"): [names[need] for need in entry["dependsOn"]]
        for entry in passport["dependencies"]
    }
    assert graph["student"] == ["digits_cnn", "digits", "limbeck", "python", "torch"]
    assert graph["digits_cnn"] == ["base", "digits"]
    assert graph["base"] == ["large"]
    assert graph["large"] == ["web pages"]


def test_serial_number_depends_on_the_facts(facts: PassportFacts) -> None:
    one = build_passport(facts)
    other = build_passport(dataclasses.replace(facts, seeds=(3,)))
    assert one["serialNumber"] != other["serialNumber"]


def test_missing_licence_is_recorded_as_not_stated(facts: PassportFacts) -> None:
    student = build_passport(dataclasses.replace(facts, licence=""))["metadata"]["component"]
    assert "licenses" not in student
    assert {"name": "limbeck:licence", "value": "not stated"} in student["properties"]


def test_write_json_and_render_are_identical(facts: PassportFacts, tmp_path: Path) -> None:
    passport = build_passport(facts)
    write_json(tmp_path / "passport.json", passport)
    assert (tmp_path / "passport.json").read_text(encoding="utf-8") == render(passport)


def test_existing_passport_does_not_change_the_new_one(facts: PassportFacts, student: Path) -> None:
    assert render(build_passport(facts)) == (student / "passport.json").read_text(encoding="utf-8")


def test_invalid_facts_raise_one_input_error(facts: PassportFacts, tmp_path: Path) -> None:
    naive = datetime(2026, 1, 1, tzinfo=UTC).replace(tzinfo=None)
    with pytest.raises(InputError, match="a time with its zone"):
        build_passport(dataclasses.replace(facts, timestamp=naive))
    with pytest.raises(InputError, match="a student folder"):
        build_passport(dataclasses.replace(facts, folder=tmp_path / "nowhere"))
    (facts.folder / "out").symlink_to("/etc/hostname")
    with pytest.raises(InputError) as caught:
        build_passport(dataclasses.replace(facts, model_file="model.pt"))
    assert len(caught.value.problems) == 2


def test_spdx_ids_match_the_schema() -> None:
    from cyclonedx.schema._res import SPDX_JSON

    allowed = json.loads(Path(SPDX_JSON).read_text(encoding="utf-8"))["enum"]
    bundled = Path(limbeck.passport.__file__).parent / "spdx_ids.txt"
    assert sorted(allowed) == sorted(bundled.read_text(encoding="utf-8").split())


def test_schema_violations_contain_the_json_path(facts: PassportFacts) -> None:
    passport = build_passport(facts)
    passport["metadata"]["component"]["type"] = "student"
    problems = validate(passport)
    assert problems
    assert problems[0].startswith("$.metadata.component.type: 'student' is not one of")


def test_verify_works_without_cyclonedx(student: Path) -> None:
    code = f"""
import sys
sys.modules["cyclonedx"] = None
from limbeck.passport import validate, verify
assert validate({{}}) is None
assert verify(__import__("pathlib").Path({str(student)!r})).ok
assert not {{"torch", "numpy", "pydantic"}} & sys.modules.keys()
"""
    path = str(Path(limbeck.passport.__file__).parents[2])
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": path})


def test_package_imports_only_core_modules() -> None:
    walked = list(Path(limbeck.passport.__file__).parent.glob("*.py"))
    assert len(walked) == 17
    for path in walked:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("limbeck"):
                assert (node.module or "").startswith(ALLOWED)
