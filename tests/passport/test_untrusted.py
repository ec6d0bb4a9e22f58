"""An untrusted student executes nothing, reads nothing outside, and raises only `InputError`."""

from __future__ import annotations

import contextlib
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from limbeck.errors import InputError
from limbeck.passport import (
    Policy,
    as_teacher,
    check,
    content_sha256,
    embed_metadata,
    measure_teacher_concentration,
    read_students,
    render,
    verify,
)

VALUES: list[Any] = [
    None,
    -1,
    True,
    1e308,
    10**400,
    "",
    "\ud800",
    "\x1b[2J",
    "[" * 2000,
    "NaN",
    '{"a":1,"a":2}',
    "9" * 5000,
    [],
    {},
    [[]],
    [{}],
    {"name": {}},
]


def leaves(part: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    for key in list(part) if isinstance(part, dict) else range(len(part)):
        found.append((part, key))
        if isinstance(part[key], dict | list):
            found += leaves(part[key])
    return found


def forged(passport: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """Change a few places, and update the hash of the content where possible."""
    for _ in range(draw.randrange(1, 4)):
        part, key = draw.choice(leaves(passport))
        if draw.random() < 0.2:
            del part[key]
        elif isinstance(part[key], str) and draw.random() < 0.5:
            part[key] = draw.choice([text for text in VALUES if isinstance(text, str)])
        else:
            part[key] = draw.choice(VALUES)
    with contextlib.suppress(AttributeError, IndexError, KeyError, TypeError):
        passport["properties"][0]["value"] = content_sha256(passport)
    return passport


def test_forged_passports_raise_only_input_errors_everywhere(real, write) -> None:
    embed_metadata(real)
    write(real)
    path = real.folder / "passport.json"
    original = path.read_text(encoding="utf-8")
    unread = 0
    for seed in range(150):
        draw = random.Random(seed)
        path.write_text(render(forged(json.loads(original), draw)), encoding="utf-8")
        found = verify(real.folder, lineage=[real.folder], schema=seed % 5 == 0)
        assert all(str(issue).isprintable() for issue in found.issues)
        assert all(len(str(issue)) < 2000 for issue in found.issues)
        try:
            student = as_teacher(path)
            measure_teacher_concentration([student])
            check(Policy(), [student])
            verify(real.folder, lineage=[path])
        except InputError:
            unread += 1
        with contextlib.suppress(InputError):
            read_students([real.folder])
    assert 30 < unread < 150


@pytest.mark.parametrize("depth", [60, 200, 900])
def test_nested_documents_within_the_parser_limits(student: Path, depth: int) -> None:
    path = student / "passport.json"
    text = path.read_text(encoding="utf-8")
    deep = '{"components": [' * depth + "1" + "]}" * depth
    more = f'{{"bom-ref": "x", "type": "library", "name": "x", "components": [{deep}]}}'
    path.write_text(text.replace('"components": [', f'"components": [{more},', 1))
    found = verify(student, schema=True)
    assert not found.ok
    with contextlib.suppress(InputError):
        as_teacher(path)


def test_links_out_of_the_folder_are_never_opened(
    student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    secret = outside / "secret.safetensors"
    secret.write_bytes(b"do not read")
    (student / "model.safetensors").symlink_to(secret)
    (student / "linked").symlink_to(outside)
    opened: list[str] = []
    real_open = Path.open

    def spy(path: Path, *arguments: Any, **options: Any) -> Any:
        opened.append(os.path.realpath(path))
        return real_open(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", spy)
    found = verify(student)
    assert {issue.where for issue in found.issues} == {"linked", "model.safetensors"}
    assert opened
    assert not [name for name in opened if name.startswith(str(outside))]


def test_verify_writes_nothing(real, write) -> None:
    write(real)
    before = {path: path.stat().st_mtime_ns for path in real.folder.rglob("*")}
    verify(real.folder, schema=True)
    as_teacher(real.folder / "passport.json")
    assert {path: path.stat().st_mtime_ns for path in real.folder.rglob("*")} == before


def test_large_document_is_not_validated(student: Path) -> None:
    content = json.loads((student / "passport.json").read_text(encoding="utf-8"))
    content["metadata"]["tools"] = {"components": [{"name": "a", "value": "b"}] * 50_000}
    (student / "passport.json").write_text(json.dumps(content))
    found = verify(student, schema=True)
    assert any("at most 1,048,576 are validated" in one.found for one in found.issues)
