"""Lineage over several generations: the passed teacher is the one that the passport names."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from limbeck.errors import InputError
from limbeck.passport import (
    CarbonFacts,
    ModelFacts,
    PassportFacts,
    as_teacher,
    build_passport,
    content_sha256,
    render,
    validate,
    verify,
)
from limbeck.passport.components import reference


@pytest.fixture
def generations(facts: PassportFacts, tmp_path: Path, write) -> list[PassportFacts]:
    """Three students, each distilled from the one before; the first by a model of this run."""
    weights = tmp_path / "train_teacher" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    teacher = ModelFacts("first", digest=digest, licence="MIT", risk="limited")
    made: list[PassportFacts] = []
    for number in range(3):
        folder = tmp_path / f"student-{number}"
        shutil.copytree(facts.folder, folder)
        (folder / "model.onnx").write_bytes(bytes([number]) * 40)
        one = dataclasses.replace(
            facts, name=f"student {number}", folder=folder, teachers=(teacher,)
        )
        write(one)
        teacher = as_teacher(folder / "passport.json")
        made.append(one)
    return made


def test_lineage_of_every_generation_is_verified(
    generations: list[PassportFacts], tmp_path: Path
) -> None:
    eldest, middle, youngest = (one.folder for one in generations)
    teach = tmp_path / "train_teacher"
    given = (middle, eldest / "passport.json", teach, teach / "model.safetensors")
    assert verify(youngest, lineage=given).issues == ()
    assert validate(json.loads((youngest / "passport.json").read_text(encoding="utf-8"))) == ()


def test_other_teachers_are_lineage_issues(
    generations: list[PassportFacts], tmp_path: Path, write
) -> None:
    _, middle, youngest = generations
    # The same name, other weights.
    (middle.folder / "model.onnx").write_bytes(b"others")
    write(middle)
    issues = verify(youngest.folder, lineage=[middle.folder]).issues
    assert issues[0].kind == "lineage"
    assert issues[0].where == "student 1"
    assert issues[0].listed.startswith("digest ")
    # Weights that are not in the lineage.
    (tmp_path / "train_teacher" / "model.safetensors").write_bytes(b"swapped")
    (issue,) = verify(youngest.folder, lineage=[tmp_path / "train_teacher"]).issues
    assert (issue.kind, issue.where) == ("lineage", "train_teacher")
    # A student that is no ancestor.
    (issue,) = verify(middle.folder, lineage=[youngest.folder]).issues
    assert "a teacher of sha256" in issue.found


@pytest.mark.parametrize(
    "change",
    [
        {"licence": "MIT"},
        {"terms": ("no-distillation",)},
        {"risk": "high"},
        {"owner": "me"},
        {"architecture": "another"},
        {"data": ()},
        {"metrics": ()},
        {"teachers": ()},
    ],
)
def test_changed_teacher_facts_are_lineage_issues(
    generations: list[PassportFacts], change: dict[str, Any], write
) -> None:
    middle = dataclasses.replace(generations[1], **change)
    write(middle)
    issues = verify(generations[2].folder, lineage=[middle.folder]).issues
    assert issues
    assert {issue.kind for issue in issues} == {"lineage"}
    field = {"teachers": "ancestors"}.get(*change, next(iter(change)))
    assert any(issue.listed.startswith(field) for issue in issues)


def test_changed_teacher_folder_is_an_issue(generations: list[PassportFacts]) -> None:
    _, middle, youngest = generations
    (middle.folder / "README.md").write_text("other", encoding="utf-8")
    (issue,) = verify(youngest.folder, lineage=[middle.folder]).issues
    assert (issue.kind, issue.where) == ("changed", "student-1/README.md")
    (middle.folder / "passport.json").write_bytes(b"{")
    with pytest.raises(InputError, match=r"student-1/passport\.json.*not a passport"):
        verify(youngest.folder, lineage=[middle.folder])


def test_missing_teacher_raises_input_error(student: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a teacher's folder"):
        verify(student, lineage=[tmp_path / "none"])


def rewritten(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "passport.json"
    passport = json.loads(path.read_text(encoding="utf-8"))
    change(passport)
    for item in passport["properties"]:
        item["value"] = content_sha256(passport)
    path.write_text(render(passport), encoding="utf-8")


def teacher_of(passport: dict[str, Any]) -> dict[str, Any]:
    return next(item for item in passport["components"] if item["name"] == "digits_cnn")


def other_digest(passport: dict[str, Any]) -> None:
    teacher_of(passport)["hashes"][0]["content"] = "e" * 64


def other_reference(passport: dict[str, Any]) -> None:
    """Update the forged teacher's reference, but not the graph and the pedigree."""
    teacher = teacher_of(passport)
    teacher["version"] = "2"
    old = teacher.pop("bom-ref")
    teacher["bom-ref"] = reference("model", teacher)
    for item in passport["metadata"]["component"]["properties"]:
        item["value"] = item["value"].replace(old, teacher["bom-ref"])


def other_pedigree(passport: dict[str, Any]) -> None:
    passport["metadata"]["component"]["pedigree"]["ancestors"][0]["name"] = "another"


def no_pedigree(passport: dict[str, Any]) -> None:
    del passport["metadata"]["component"]["pedigree"]


def other_graph(passport: dict[str, Any]) -> None:
    entry = next(one for one in passport["dependencies"] if one["ref"] == "student")
    entry["dependsOn"] = [need for need in entry["dependsOn"] if not need.startswith("model:")]


def other_data(passport: dict[str, Any]) -> None:
    next(one for one in passport["components"] if one["type"] == "data")["name"] = "other"


@pytest.mark.parametrize(
    "change",
    [other_digest, other_reference, other_pedigree, no_pedigree, other_graph, other_data],
)
def test_contradictory_lineage_is_an_issue_without_a_signature(
    student: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    rewritten(student, change)
    issues = verify(student).issues
    assert issues
    assert {issue.kind for issue in issues} == {"lineage"}


def set_property(name: str, value: str) -> Callable[[dict[str, Any]], None]:
    def change(passport: dict[str, Any]) -> None:
        stated = passport["metadata"]["component"]["properties"]
        stated[:] = [item for item in stated if item["name"] != name]
        stated.append({"name": name, "value": value})

    return change


def test_lowered_risk_without_justification_is_an_issue(real: PassportFacts, write) -> None:
    high = ModelFacts("scorer", risk="high", digest="a" * 64)
    write(dataclasses.replace(real, teachers=(high,)))
    rewritten(real.folder, set_property("limbeck:risk", "minimal"))
    (issue,) = verify(real.folder).issues
    assert (issue.kind, issue.found) == ("risk", "'minimal'")
    rewritten(real.folder, set_property("limbeck:risk", "none at all"))
    (issue,) = verify(real.folder).issues
    assert issue.kind == "risk"


def test_forged_robustness_verdict_is_an_issue(real: PassportFacts, write) -> None:
    lost = dataclasses.replace(real.robustness[0], low=-0.5, high=-0.4)
    facts = dataclasses.replace(real, robustness=(lost,))
    write(facts)
    stated = build_passport(facts)["metadata"]["component"]["properties"]
    (text,) = (one["value"] for one in stated if one["name"] == "limbeck:robustness")
    rewritten(real.folder, set_property("limbeck:robustness", text.replace("FAIL", "PASS")))
    (issue,) = verify(real.folder).issues
    assert issue.kind == "robustness"


def test_optional_facts_are_in_the_passport(real: PassportFacts) -> None:
    passport = build_passport(real)
    assert validate(passport) == ()
    stated = {
        item["name"].removeprefix("limbeck:"): item["value"]
        for part in (passport["metadata"], passport["metadata"]["component"])
        for item in part["properties"]
    }
    assert stated["owner"] == "Example Institute"
    assert json.loads(stated["terms"]) == ["non-commercial"]
    assert json.loads(stated["flags"]) == ["dual-use"]
    assert json.loads(stated["negative-results"]) == ["Width 4 lost 3 points."]
    assert json.loads(stated["environment"]) == {"cpu": "avx2"}
    assert json.loads(stated["carbon"])["grid"] == "Germany, 2024"
    assert stated["seeds"] == "[0,1,2]"
    less = CarbonFacts(-1.0, 380.0, "Germany, 2024")
    with pytest.raises(InputError, match=r"carbon\.grams"):
        build_passport(dataclasses.replace(real, carbon=less))
    with pytest.raises(InputError, match="did you mean"):
        build_passport(dataclasses.replace(real, terms=("noncommercial",)))


def command(*words: object) -> tuple[int, list[str]]:
    from limbeck.cli import _app

    ended = CliRunner().invoke(_app(), ["verify", *map(str, words)])
    return ended.exit_code, ended.output.splitlines()


def test_command_lists_the_first_issue_then_the_others(signed) -> None:
    code, lines = command(signed.folder, "--key", signed.public)
    assert code == 0
    assert lines[-2].endswith("nothing departs from the passport; 5 files checked.")
    assert lines[-1].startswith("Verified: signed by the key ")
    (signed.folder / "README.md").write_text("other", encoding="utf-8")
    (signed.folder / "model.sig").unlink()
    code, lines = command(signed.folder, "--key", signed.public)
    assert code == 1
    assert lines[0].startswith("changed: 'README.md'")
    assert lines[1].startswith("also signature: 'model.sig'")


def test_command_accepts_several_teachers(generations: list[PassportFacts]) -> None:
    eldest, middle, youngest = (one.folder for one in generations)
    assert command(youngest, "--lineage", middle, "--lineage", eldest)[0] == 0
    code, lines = command(eldest, "--lineage", youngest)
    assert code == 1
    assert lines[0].startswith("lineage: 'student 2'")
    assert command(youngest, "--lineage", middle / "none")[0] == 2
    assert command(youngest, "--key", middle / "none.pem")[0] == 2
