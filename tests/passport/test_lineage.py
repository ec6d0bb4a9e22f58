"""A student that teaches brings every generation behind it into the next passport."""

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
    """Replace texts in a passport and write its hash anew, as a forger would."""
    text = path.read_text(encoding="utf-8")
    for old, new in change.items():
        assert old in text
        text = text.replace(old, new)
    passport = json.loads(text)
    passport["properties"] = [{"name": "limbeck:content-sha256", "value": content_sha256(passport)}]
    path.write_text(render(passport), encoding="utf-8")


def test_a_passport_read_as_a_teacher_says_what_was_told(
    facts: PassportFacts, student: Path
) -> None:
    teacher = as_teacher(student / "passport.json")
    assert (teacher.name, teacher.licence, teacher.version) == ("digits", "Apache-2.0", "1")
    assert teacher.architecture == facts.architecture
    assert teacher.data == facts.data
    assert teacher.ancestors == facts.teachers
    assert [metric.name for metric in teacher.metrics] == ["accuracy", "latency_p50 (ms)"]
    assert teacher.metrics[0] == facts.metrics[0]


def test_three_generations_each_state_their_own_ancestors(
    facts: PassportFacts, student: Path
) -> None:
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
        # What is known of the elders does not change on the way.
        assert {name: models(passport)[name] for name in seen} == seen
        seen = models(passport)
    assert seen.keys() == {"large", "base", "digits_cnn", "digits", "student 0", "student 1"}


def test_five_thousand_generations_are_no_deeper_than_one(facts: PassportFacts) -> None:
    model = ModelFacts("first")
    for _ in range(5000):
        model = ModelFacts("next", ancestors=(model,))
    passport = build_passport(dataclasses.replace(facts, teachers=(model,)))
    assert len([item for item in passport["components"] if item["name"] == "next"]) == 5000
    json.loads(render(passport))


def test_a_shared_ancestor_and_a_teacher_named_twice_stand_once(facts: PassportFacts) -> None:
    root = ModelFacts("root", digest="a" * 64)
    left, right = (ModelFacts(name, ancestors=(root,)) for name in ("left", "right"))
    again = ModelFacts("root", digest="a" * 64)
    twice = dataclasses.replace(facts, teachers=(left, right, left, again), data=())
    passport = build_passport(twice)
    assert validate(passport) == ()
    named = [item["name"] for item in passport["components"] if item["bom-ref"][:5] == "model"]
    assert sorted(named) == ["left", "right", "root"]
    assert len(passport["metadata"]["component"]["pedigree"]["ancestors"]) == 3


def test_an_edited_passport_is_refused_as_a_teacher(student: Path) -> None:
    path = student / "passport.json"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("ask first", "MIT or so"), encoding="utf-8")
    with pytest.raises(InputError, match="the hash of its content"):
        as_teacher(path)


def test_a_forged_lineage_is_an_error_and_not_a_loop(student: Path) -> None:
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
