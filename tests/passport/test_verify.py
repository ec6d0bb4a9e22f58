"""Every change is detected, an unchanged folder passes, and nothing outside is read."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from limbeck.errors import InputError
from limbeck.passport import as_teacher, content_sha256, render, verify
from limbeck.passport import folder as folder_module

Tamper = Callable[[Path, random.Random], None]


def kinds(student: Path) -> list[str]:
    return [issue.kind for issue in verify(student / "passport.json").issues]


def files(student: Path) -> list[Path]:
    return sorted(path for path in student.rglob("*") if path.is_file())


def leaves(part: Any) -> list[tuple[Any, Any]]:
    """Return every value of a document as (its parent, its key)."""
    keys = list(part) if isinstance(part, dict) else range(len(part))
    found: list[tuple[Any, Any]] = []
    for key in keys:
        found.append((part, key))
        if isinstance(part[key], dict | list):
            found += leaves(part[key])
    return found


def flip(student: Path, draw: random.Random) -> None:
    path = draw.choice([*files(student), student / "passport.json"])
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= draw.randrange(1, 256)
    path.write_bytes(content)


def flip_passport(student: Path, draw: random.Random) -> None:
    path = student / "passport.json"
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def delete(student: Path, draw: random.Random) -> None:
    draw.choice([path for path in files(student) if path.name != "passport.json"]).unlink()


def add(student: Path, draw: random.Random) -> None:
    name = draw.choice(
        ["extra.py", "tokenizer/extra", ".hidden", "new/deep/file", "tokenizer/passport.json"]
    )
    (student / name).parent.mkdir(parents=True, exist_ok=True)
    (student / name).write_bytes(draw.randbytes(draw.randrange(4)))


def rename(student: Path, draw: random.Random) -> None:
    path = draw.choice([path for path in files(student) if path.name != "passport.json"])
    path.rename(path.with_name(draw.choice([path.name + "x", path.name.upper() + "_", "other"])))


def edit(student: Path, draw: random.Random) -> None:
    path = student / "passport.json"
    passport = json.loads(path.read_text(encoding="utf-8"))
    parent, key = draw.choice(leaves(passport))
    before = json.dumps(parent[key])
    while json.dumps(parent[key]) == before:
        parent[key] = draw.choice([None, 0, "", "x", [], {}, [{}], draw.random()])
    path.write_text(draw.choice([render, json.dumps])(passport), encoding="utf-8")


def reformat(student: Path, draw: random.Random) -> None:
    path = student / "passport.json"
    text = path.read_text(encoding="utf-8")
    change = draw.choice([lambda text: " " + text, lambda text: text.replace(": ", ":", 1)])
    path.write_text(change(text), encoding="utf-8")


@pytest.mark.parametrize(
    "tamper", [flip, flip_passport, delete, add, rename, edit, reformat], ids=lambda t: t.__name__
)
def test_every_tampering_is_detected(student: Path, tmp_path: Path, tamper: Tamper) -> None:
    for seed in range(40):
        copy = tmp_path / f"copy-{seed}"
        shutil.copytree(student, copy)
        assert verify(copy).ok
        tamper(copy, random.Random(seed))
        verification = verify(copy)
        assert not verification.ok, seed
        for issue in verification.issues:
            assert issue.listed
            assert issue.found
            assert str(issue).isprintable()
        shutil.rmtree(copy)


def test_unchanged_folder_passes_at_any_path(student: Path, tmp_path: Path) -> None:
    moved = tmp_path / "another place" / "renamed"
    moved.parent.mkdir()
    student.rename(moved)
    link = tmp_path / "link"
    link.symlink_to(moved)
    for path in (moved, moved / "passport.json", link, link / "passport.json"):
        verification = verify(path)
        assert verification.ok
        assert (verification.student, verification.files) == ("digits", 3)


def test_relative_paths_inside_the_folder(student: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(student)
    assert verify(Path("passport.json")).ok
    assert verify(Path(".")).ok


def test_issues_state_listed_and_found_values(student: Path) -> None:
    (student / "model.onnx").write_bytes(b"other")
    (student / "README.md").rename(student / "readme")
    issues = [str(issue) for issue in verify(student).issues]
    assert len(issues) == 3
    assert issues[0].startswith("missing: 'README.md': listed 9 bytes with sha256 ")
    assert issues[0].endswith("; found no such file")
    assert issues[1].startswith("changed: 'model.onnx': listed 512 bytes with sha256 ")
    assert "; found 5 bytes with sha256 d9298a10d1b0735837dc4bd85dac641b" in issues[1]
    assert issues[2].startswith("added: 'readme': listed no such file; found 9 bytes")


def test_recipe_hash_is_checked_in_a_forged_passport(student: Path) -> None:
    forge(student, lambda passport: set_property(passport, "limbeck:recipe", '{"name":"other"}'))
    assert kinds(student) == ["recipe"]


def test_content_hash_is_not_a_signature(student: Path) -> None:
    def rename_student(passport: dict[str, Any]) -> None:
        passport["metadata"]["component"]["name"] = "another"

    forge(student, rename_student)
    assert verify(student).ok


def set_property(passport: dict[str, Any], name: str, value: str) -> None:
    for item in passport["metadata"]["properties"]:
        if item["name"] == name:
            item["value"] = value


def forge(student: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a passport and update its hash."""
    path = student / "passport.json"
    passport = json.loads(path.read_text(encoding="utf-8"))
    change(passport)
    with contextlib.suppress(AttributeError, KeyError, TypeError):
        digest = content_sha256(passport)
        for item in passport["properties"]:
            if item["name"] == "limbeck:content-sha256":
                item["value"] = digest
    path.write_text(render(passport), encoding="utf-8")


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "tokenizer/../../secret",
        "/etc/hostname",
        "C:\\secret",
        "..\\secret",
        "\\\\host\\s",
    ],
)
def test_names_out_of_the_folder_are_issues_and_not_followed(
    student: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (student.parent / "secret").write_text("do not read", encoding="utf-8")
    read: list[Path] = []
    hash_file = folder_module.hash_file
    monkeypatch.setattr(
        folder_module, "hash_file", lambda path: read.append(path) or hash_file(path)
    )

    def lead_out(passport: dict[str, Any]) -> None:
        for item in passport["components"]:
            if item["name"] == "README.md":
                item["name"] = name

    forge(student, lead_out)
    assert sorted(kinds(student)) == ["added", "escape"]
    assert len(read) == 3
    assert all(path.is_relative_to(student.resolve()) for path in read)


def test_links_and_special_files_are_issues(student: Path) -> None:
    (student / "README.md").unlink()
    (student / "README.md").symlink_to("/etc/hostname")
    (student / "etc").symlink_to("/etc")
    (student / "up").symlink_to("..")
    (student / "same").symlink_to("tokenizer")
    (student / "loop").symlink_to("loop")
    os.mkfifo(student / "pipe")
    found = {issue.where: issue for issue in verify(student).issues}
    assert {name: issue.kind for name, issue in found.items()} == {
        "README.md": "escape",
        "etc": "escape",
        "up": "escape",
        "same": "odd",
        "loop": "odd",
        "pipe": "odd",
    }
    assert "outside the folder" in found["README.md"].found
    assert found["README.md"].listed.startswith("9 bytes")


def test_passport_that_links_out_is_not_read(student: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.json"
    (student / "passport.json").rename(outside)
    (student / "passport.json").symlink_to(outside)
    assert kinds(student) == ["escape"]


MALFORMED: dict[str, bytes] = {
    "empty": b"",
    "not JSON": b"passport",
    "not UTF-8": b"\xff\xfe",
    "a list": b"[]",
    "a number": b"1",
    "nothing in it": b"{}",
    "another format": b'{"bomFormat": "SPDX"}',
    "no metadata": b'{"bomFormat": "CycloneDX", "specVersion": "1.6"}',
    "nested lists": b"[" * 1_000_000,
    "nested and closed": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "nested within the reader's means": b'{"a":' * 900 + b"1" + b"}" * 900,
    "a huge number": b"1" * 10_000,
    "not a number": b'{"a": NaN}',
    "infinite": b'{"a": 1e999}',
    "a key twice": b'{"bomFormat": "CycloneDX", "bomFormat": "CycloneDX"}',
}


@pytest.mark.parametrize("content", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_is_no_passport_is_refused_in_one_line(student: Path, content: bytes) -> None:
    path = student / "passport.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"This is not a passport written by limbeck\.$") as error:
        verify(path)
    assert len(str(error.value).removeprefix(str(path))) < 500
    assert "\n" not in str(error.value)
    with pytest.raises(InputError):
        as_teacher(path)


def test_duplicate_json_keys_are_rejected(student: Path) -> None:
    path = student / "passport.json"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("{", '{"version": 2,', 1), encoding="utf-8")
    (issue,) = verify(path).issues
    assert str(issue).startswith(f"malformed: 'passport.json': {path}: got 'a key is repeated")
    with pytest.raises(InputError, match="a key is repeated"):
        as_teacher(path)


def test_forged_passports_raise_only_input_errors(student: Path) -> None:
    original = (student / "passport.json").read_bytes()
    values = [
        None,
        0,
        -1,
        True,
        1.5,
        "",
        "x",
        "\ud800",
        [],
        {},
        [None],
        [[]],
        [{}],
        {"a": {}},
        "[[1]]",
    ]
    seen: Counter[str] = Counter()
    for seed in range(200):
        draw = random.Random(seed)

        def change(passport: dict[str, Any], draw: random.Random = draw) -> None:
            parent, key = draw.choice(leaves(passport))
            if draw.random() < 0.3:
                del parent[key]
            else:
                parent[key] = draw.choice(values)

        forge(student, change)
        with contextlib.suppress(InputError):
            seen.update(kinds(student))
        with contextlib.suppress(InputError):
            as_teacher(student / "passport.json")
        (student / "passport.json").write_bytes(original)
    assert seen["malformed"] > 15


def test_missing_passport_raises_input_error(tmp_path: Path) -> None:
    for path in (tmp_path / "passport.json", tmp_path, Path("\0"), Path("x" * 5000)):
        with pytest.raises(InputError, match="no such file"):
            verify(path)
        with pytest.raises(InputError):
            as_teacher(path)
