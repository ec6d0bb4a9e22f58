"""Levels of trust of `verify`, which an attacker cannot raise."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from limbeck.errors import InputError
from limbeck.passport import (
    drop_signature_note,
    make_keys,
    note_signature,
    noted_signature,
    sign,
    verify,
)


def run(*words: object) -> tuple[int, dict]:
    from limbeck.cli import _app

    ended = CliRunner().invoke(_app(), ["verify", *map(str, words), "--json"])
    return ended.exit_code, json.loads(ended.output)


def rewrite_with_new_hashes(signed) -> None:
    """Change a file, and write a passport that lists the changed file: as an attacker would."""
    import dataclasses

    from limbeck.passport import build_passport, render

    (signed.folder / "tokenizer" / "vocab.txt").write_text("[PAD]\n[UNK]\n", encoding="utf-8")
    (signed.folder / "model.sig").unlink()
    facts = dataclasses.replace(signed.facts, folder=signed.folder)
    text = render(build_passport(facts))
    (signed.folder / "passport.json").write_text(text, encoding="utf-8")


def test_rewritten_unsigned_passport_passes_as_integrity_only(signed) -> None:
    rewrite_with_new_hashes(signed)
    code, result = run(signed.folder)
    assert (code, result["trust"]) == (0, "unsigned")
    code, result = run(signed.folder, "--require-signature")
    assert (code, result["trust"]) == (1, "failed")
    assert [one["kind"] for one in result["issues"]] == ["signature"]
    assert run(signed.folder, "--key", signed.public)[0] == 1


def test_text_output_states_that_unsigned_is_not_authentic(signed) -> None:
    from limbeck.cli import _app

    rewrite_with_new_hashes(signed)
    output = CliRunner().invoke(_app(), ["verify", str(signed.folder)]).output
    assert "Unsigned: integrity only, not authenticity" in output
    assert "nothing was changed" not in output


def test_signature_without_a_key_is_not_verified(signed) -> None:
    code, result = run(signed.folder)
    assert (code, result["trust"], result["passed"]) == (1, "signed, key not given", False)
    assert run(signed.folder, "--integrity-only")[0] == 0
    code, result = run(signed.folder, "--key", signed.other_public, "--key", signed.public)
    assert (code, result["trust"]) == (0, "verified")


def test_folder_signed_by_another_key_fails_against_the_recorded_key(
    signed, tmp_path: Path
) -> None:
    assert run(signed.folder, "--key", signed.public)[0] == 0  # records the key
    rewrite_with_new_hashes(signed)
    attacker = tmp_path / "attacker"
    shutil.copytree(signed.folder, attacker)  # signed elsewhere: another machine has no record
    sign(attacker, signed.other_private)
    shutil.copy(attacker / "model.sig", signed.folder / "model.sig")
    code, result = run(signed.folder, "--key", signed.public)
    assert (code, result["trust"]) == (1, "failed")
    # Without a key too: this machine recorded the key.
    found = verify(signed.folder)
    assert [one.kind for one in found.issues] == ["signature"]
    assert "as noted at" in found.issues[0].listed
    assert run(signed.folder, "--integrity-only")[0] == 1


def test_removed_signature_is_detected_from_the_record(signed) -> None:
    assert run(signed.folder, "--key", signed.public)[0] == 0
    rewrite_with_new_hashes(signed)
    code, result = run(signed.folder)
    assert code == 1
    assert result["issues"][0]["found"] == "no such file"
    # An intended replacement of the folder drops the record.
    drop_signature_note(signed.folder)
    assert run(signed.folder)[0] == 0


def test_signing_records_the_real_path(signed, tmp_path: Path) -> None:
    sign(signed.folder, signed.private)
    link = tmp_path / "link"
    link.symlink_to(signed.folder)
    assert noted_signature(link) == noted_signature(signed.folder) is not None
    (signed.folder / "model.sig").unlink()
    assert not verify(link).ok


def test_policy_provides_the_keys(signed, tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    shutil.copy(signed.public, tmp_path / "keys" / "release.pem")
    policy = tmp_path / "policy.yaml"
    policy.write_text("signature: {keys: [keys/release.pem]}\n")
    assert run(signed.folder, "--policy", policy)[0] == 0
    (signed.folder / "model.sig").unlink()
    code, result = run(signed.folder, "--policy", policy)
    assert (code, result["trust"]) == (1, "failed")


def test_policy_is_applied_to_the_lineage(signed, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(f"signature: {{keys: [{signed.public}]}}\nmodels: {{forbid: [large]}}\n")
    code, result = run(signed.folder, "--policy", policy)
    assert (code, result["trust"]) == (1, "verified")
    assert "large" in result["policy"][0]


def test_integrity_only_with_a_key_is_rejected(signed) -> None:
    from limbeck.cli import _app

    words = ["verify", str(signed.folder), "--integrity-only", "--key", str(signed.public)]
    assert CliRunner().invoke(_app(), words).exit_code == 2


@pytest.mark.skipif(os.name == "nt", reason="modes carry little information on Windows")
def test_hard_links_and_modes_are_listed_in_notes(signed, tmp_path: Path) -> None:
    os.link(signed.folder / "README.md", tmp_path / "other-name.md")
    (signed.folder / "model.onnx").chmod(0o755)
    (signed.folder / "model.safetensors").chmod(0o666)
    found = verify(signed.folder, key=signed.public)
    assert found.trust == "verified"
    notes = " ".join(found.notes)
    assert "hard links" in notes
    assert "README.md" in notes
    assert "executable files: model.onnx" in notes
    assert "every user may write: model.safetensors" in notes


def test_invalid_signature_records_are_ignored(signed, tmp_path: Path) -> None:
    state = Path(os.environ["LIMBECK_STATE"]) / "signatures"
    note_signature(signed.folder, "a" * 64)
    (record,) = [
        path for path in state.glob("*.json") if str(signed.folder) in path.read_text("utf-8")
    ]
    for content in ("", "[]", "{}", '{"key": 3, "noted": "now"}', "[" * 100_000):
        record.write_text(content)
        assert noted_signature(signed.folder) is None
    record.unlink()
    record.symlink_to("/dev/zero")
    assert noted_signature(signed.folder) is None
    record.unlink()


def test_signing_works_without_a_writable_state_folder(
    signed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LIMBECK_STATE", str(tmp_path / "file"))
    make_keys(tmp_path / "a.pem", tmp_path / "b.pem")
    sign(signed.folder, tmp_path / "a.pem")
    assert verify(signed.folder, key=tmp_path / "b.pem").trust == "verified"


@pytest.mark.parametrize("option", ["--key", "--policy"])
def test_key_or_policy_that_is_a_special_file_is_rejected(
    signed, tmp_path: Path, option: str
) -> None:
    from limbeck.cli import _app

    for path in (tmp_path / "pipe", Path("/dev/zero")):
        if path.parent == tmp_path:
            os.mkfifo(path)
        words = ["verify", str(signed.folder), option, str(path)]
        assert CliRunner().invoke(_app(), words).exit_code == 2
    with pytest.raises(InputError, match="not a regular file"):
        sign(signed.folder, tmp_path / "pipe")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("command", ["verify", "lineage"])
def test_device_or_pipe_is_one_error_without_a_folder_scan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    from limbeck.cli import _app

    def scan_folder(*_: object, **__: object) -> None:
        raise AssertionError

    # The package's attribute `verify` is the function, not the module.
    monkeypatch.setattr(sys.modules["limbeck.passport.verify"], "scan_folder", scan_folder)
    (tmp_path / "student").mkdir()
    os.mkfifo(tmp_path / "student" / "passport.json")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "student", tmp_path / "pipe", Path("/dev/zero"), Path("/dev/tty")):
        ended = CliRunner().invoke(_app(), [command, str(path)])
        assert isinstance(ended.exception, InputError | SystemExit)
        assert ended.exit_code == 2
        with pytest.raises(InputError, match="not a regular file") as caught:
            verify(path)
        assert len(caught.value.problems) == 1


@pytest.mark.parametrize("name", ["teacher", "teacher.json", "passport.json"])
def test_teacher_that_is_a_device_or_a_pipe_is_not_read(signed, tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    for path in (tmp_path / name, Path("/dev/zero")):
        with pytest.raises(InputError, match=r"lineage: .*This is not a regular file\."):
            verify(signed.folder, lineage=[path])
    if name == "passport.json":
        with pytest.raises(InputError, match="not a regular file"):
            verify(signed.folder, lineage=[tmp_path])


def test_huge_file_of_another_size_is_not_read(signed) -> None:
    """A sparse file of a terabyte is created at once, and takes hours to hash."""
    for name in ("model.onnx", "added.bin"):
        os.truncate(os.open(signed.folder / name, os.O_RDWR | os.O_CREAT), 2**40)
    found = {one.where: one for one in verify(signed.folder).issues}
    assert {name: one.kind for name, one in found.items()} == {
        "model.onnx": "changed",
        "added.bin": "added",
    }
    assert found["added.bin"].found == "1,099,511,627,776 bytes, not read"


def test_huge_passport_is_not_hashed(signed) -> None:
    os.truncate(signed.folder / "passport.json", 2**40)
    assert "malformed" in {one.kind for one in verify(signed.folder).issues}
