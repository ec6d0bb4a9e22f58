"""A student used as a teacher brings all its ancestors into the next passport."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from limbeck.errors import InputError
from limbeck.passport import (
    ModelFacts,
    PassportFacts,
    as_teacher,
    build_passport,
    content_sha256,
    render,
    validate,
    verify,
)


def models(passport: dict[str, Any]) -> dict[str, dict[str, Any]]:
    kind = "machine-learning-model"
    return {item["name"]: item for item in passport["components"] if item["type"] == kind}


def rewrite(path: Path, change: dict[str, str]) -> None:
    """Replace texts in a passport and update its hash, as an attacker would."""
    text = path.read_text(encoding="utf-8")
    for old, new in change.items():
        assert old in text
        text = text.replace(old, new)
    passport = json.loads(text)
    passport["properties"] = [{"name": "limbeck:content-sha256", "value": content_sha256(passport)}]
    path.write_text(render(passport), encoding="utf-8")


def test_as_teacher_restores_the_facts(facts: PassportFacts, student: Path) -> None:
    teacher = as_teacher(student / "passport.json")
    assert (teacher.name, teacher.licence, teacher.version) == ("digits", "Apache-2.0", "1")
    assert teacher.architecture == facts.architecture
    assert teacher.data == facts.data
    assert teacher.ancestors == facts.teachers
    assert [metric.name for metric in teacher.metrics] == ["accuracy", "latency_p50 (ms)"]
    assert teacher.metrics[0] == facts.metrics[0]


def test_three_generations_keep_their_ancestors(facts: PassportFacts, student: Path) -> None:
    seen = models(build_passport(facts))
    for generation in range(3):
        teacher = as_teacher(student / "passport.json")
        name = f"student {generation}"
        facts = dataclasses.replace(facts, name=name, teachers=(teacher,))
        passport = build_passport(facts)
        assert validate(passport) == ()
        (student / "passport.json").write_text(render(passport), encoding="utf-8")
        assert verify(student).ok
        assert len(models(passport)) == len(seen) + 1
        # The ancestors' components do not change from generation to generation.
        assert {name: models(passport)[name] for name in seen} == seen
        seen = models(passport)
    assert seen.keys() == {"large", "base", "digits_cnn", "digits", "student 0", "student 1"}


def test_document_depth_is_independent_of_generations(facts: PassportFacts) -> None:
    model = ModelFacts("first")
    for _ in range(5000):
        model = ModelFacts("next", ancestors=(model,))
    passport = build_passport(dataclasses.replace(facts, teachers=(model,)))
    assert len([item for item in passport["components"] if item["name"] == "next"]) == 5000
    json.loads(render(passport))


def test_shared_ancestors_are_listed_once(facts: PassportFacts) -> None:
    root = ModelFacts("root", digest="a" * 64)
    left, right = (ModelFacts(name, ancestors=(root,)) for name in ("left", "right"))
    again = ModelFacts("root", digest="a" * 64)
    twice = dataclasses.replace(facts, teachers=(left, right, left, again), data=())
    passport = build_passport(twice)
    assert validate(passport) == ()
    named = [item["name"] for item in passport["components"] if item["bom-ref"][:5] == "model"]
    assert sorted(named) == ["left", "right", "root"]
    assert len(passport["metadata"]["component"]["pedigree"]["ancestors"]) == 3


def test_edited_passport_is_rejected_as_a_teacher(student: Path) -> None:
    path = student / "passport.json"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("on request", "MIT or so"), encoding="utf-8")
    with pytest.raises(InputError, match="the hash of its content"):
        as_teacher(path)


def test_cyclic_passport_lineage_raises_input_error(student: Path) -> None:
    path = student / "passport.json"
    found = models(json.loads(path.read_text(encoding="utf-8")))
    ancestor, teacher = found["base"]["bom-ref"], found["digits_cnn"]["bom-ref"]
    original = path.read_bytes()
    rewrite(path, {f'\\"{found["large"]["bom-ref"]}\\"': f'\\"{teacher}\\"'})
    with pytest.raises(InputError, match="no model descends from itself"):
        as_teacher(path)
    path.write_bytes(original)
    rewrite(path, {f'\\"{ancestor}\\"': '\\"model:none\\"'})
    with pytest.raises(InputError, match="a model of this passport"):
        as_teacher(path)
