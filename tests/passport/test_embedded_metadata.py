"""Embedded metadata: readable by the formats' libraries, weights unchanged, checked by verify."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import struct
from pathlib import Path

import numpy as np
import pytest

from limbeck.errors import InputError, LimbeckError
from limbeck.passport import EmbeddedMetadata, PassportFacts, embed_metadata, read_stamp, verify
from limbeck.passport.embedded_metadata import KEY, bare_sha256, open_container, parse

NAMES = ("model.onnx", "model.safetensors")


def tensors_of(path: Path) -> bytes:
    """The bytes behind a safetensors header."""
    content = path.read_bytes()
    return content[8 + struct.unpack("<Q", content[:8])[0] :]


def test_format_libraries_read_the_embedded_metadata(real: PassportFacts) -> None:
    import onnx
    import onnxruntime
    from safetensors import safe_open
    from safetensors.numpy import load_file

    folder = real.folder
    before = {name: bare_sha256(folder / name) for name in NAMES}
    weights = tensors_of(folder / "model.safetensors")
    proto = onnx.load(folder / "model.onnx")
    assert embed_metadata(real) == NAMES
    stamps = {name: read_stamp(folder / name) for name in NAMES}

    assert tensors_of(folder / "model.safetensors") == weights
    assert load_file(folder / "model.safetensors")["w"].shape == (4, 3)
    with safe_open(folder / "model.safetensors", framework="np") as file:
        metadata = file.metadata()
    assert metadata["format"] == "pt"
    assert parse(metadata[KEY], "header") == stamps["model.safetensors"]

    after = onnx.load(folder / "model.onnx")
    onnx.checker.check_model(after)
    assert after.graph == proto.graph
    props = {item.key: item.value for item in after.metadata_props}
    assert props["classes"] == "a,b,c"
    assert parse(props[KEY], "header") == stamps["model.onnx"]
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    assert session.get_modelmeta().custom_metadata_map[KEY] == props[KEY]
    (logits,) = session.run(None, {"image": np.eye(4, dtype=np.float32)})
    assert np.array_equal(logits, np.arange(12, dtype=np.float32).reshape(4, 3) / 7)

    for name, stamp in stamps.items():
        assert stamp is not None
        assert stamp.weights_sha256 == before[name] == bare_sha256(folder / name)
        assert (stamp.name, stamp.licence, stamp.risk) == ("digits", "Apache-2.0", "limited")
        assert stamp.roots == (("large", "a" * 64),)
    assert len({stamp.id for stamp in stamps.values() if stamp}) == 1


def test_embedding_is_idempotent_and_depends_on_the_facts(
    real: PassportFacts,
) -> None:
    embed_metadata(real)
    first = {name: (real.folder / name).read_bytes() for name in NAMES}
    embed_metadata(real)
    assert {name: (real.folder / name).read_bytes() for name in NAMES} == first
    embed_metadata(dataclasses.replace(real, version="2"))
    for name in NAMES:
        assert (real.folder / name).read_bytes() != first[name]
    embed_metadata(real)
    assert {name: (real.folder / name).read_bytes() for name in NAMES} == first


def test_metadata_of_other_facts_is_an_issue(real: PassportFacts, write) -> None:
    embed_metadata(real)
    write(real)
    assert verify(real.folder).issues == ()
    for change in (
        {"name": "another"},
        {"licence": "MIT"},
        {"risk": "high"},
        {"teachers": ()},
        {"version": "2"},
    ):
        embed_metadata(dataclasses.replace(real, **change))
        write(real)
        issues = verify(real.folder).issues
        assert {issue.kind for issue in issues} == {"stamp"}
        assert {issue.where for issue in issues} == set(NAMES)


def test_changed_weights_contradict_the_embedded_hash(real: PassportFacts, write) -> None:
    embed_metadata(real)
    path = real.folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    write(real)
    (issue,) = verify(real.folder).issues
    assert (issue.kind, issue.where) == ("stamp", "model.safetensors")
    assert "weights_sha256" in issue.listed


def test_links_and_file_modes_are_unchanged(real: PassportFacts) -> None:
    (real.folder / "again.onnx").symlink_to("model.onnx")
    (real.folder / "model.safetensors").chmod(0o600)
    assert embed_metadata(real) == NAMES
    assert (real.folder / "again.onnx").is_symlink()
    assert (real.folder / "model.safetensors").stat().st_mode & 0o777 == 0o600
    assert not list(real.folder.rglob("*.partial"))


def test_failed_write_leaves_the_file_unchanged(
    real: PassportFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (real.folder / "model.onnx").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LimbeckError, match="No space left"):
        embed_metadata(real)
    assert (real.folder / "model.onnx").read_bytes() == before
    assert not list(real.folder.rglob("*.partial"))


def test_file_with_the_wrong_suffix_is_rejected(real: PassportFacts) -> None:
    (real.folder / "model.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(InputError, match=r"model\.safetensors"):
        embed_metadata(real)


@pytest.mark.parametrize("name", NAMES)
def test_mutated_files_are_read_or_rejected(real: PassportFacts, name: str) -> None:
    embed_metadata(real)
    path = real.folder / name
    original = path.read_bytes()
    refused = 0
    for seed in range(300):
        draw = random.Random(seed)
        content = bytearray(original)
        for _ in range(draw.randrange(1, 8)):
            content[draw.randrange(min(len(content), 700))] = draw.choice([0, 127, 255, 34, 44])
        path.write_bytes(content[: draw.choice([None, None, draw.randrange(len(content))])])
        try:
            read_stamp(path)
            bare_sha256(path)
        except InputError:
            refused += 1
    assert refused > 50


HEADERS = {
    "nested": b"[" * 100_000,
    "twice": b'{"a": 1, "a": 2}',
    "a list": b"[]",
    "not a text": b'{"__metadata__": {"limbeck.passport": 1}}',
    "not an object": b'{"__metadata__": []}',
    "not UTF-8": b'{"\xff": 1}',
    "huge": b'{"a": ' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS.keys())
def test_invalid_headers_are_rejected(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(InputError):
        read_stamp(path)
    path.write_bytes(struct.pack("<Q", 2**63) + header)
    with pytest.raises(InputError, match="a header of"):
        read_stamp(path)


def test_special_and_missing_files_are_rejected(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    for path in (tmp_path / "pipe.onnx", tmp_path / "none.onnx", tmp_path / "none.safetensors"):
        with pytest.raises(InputError):
            read_stamp(path)
    assert read_stamp(tmp_path / "notes.txt") is None


NOTES = [
    "",
    "{}",
    "[]",
    "[" * 5000,
    '{"name": 1}',
    "\ud800",
    json.dumps({**vars(EmbeddedMetadata("a", "b", (), "", "", "")), "roots": [["x"]]}),
    json.dumps({**vars(EmbeddedMetadata("a", "b", (), "", "", "")), "more": 1}),
]


@pytest.mark.parametrize("note", NOTES, ids=range(len(NOTES)))
def test_invalid_embedded_metadata_is_one_issue(real: PassportFacts, write, note: str) -> None:
    container = open_container(real.folder / "model.safetensors")
    assert container is not None
    container.write(note)
    with pytest.raises(InputError):
        read_stamp(real.folder / "model.safetensors")
    write(real)
    (issue,) = verify(real.folder).issues
    assert (issue.kind, issue.where) == ("stamp", "model.safetensors")
    assert str(issue).isprintable()
