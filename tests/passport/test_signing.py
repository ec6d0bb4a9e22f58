"""Every change of a signed folder is detected, and an unchanged folder passes."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from limbeck.errors import InputError
from limbeck.passport import (
    ModelFacts,
    content_sha256,
    embed_metadata,
    make_keys,
    render,
    sign,
    verify,
    verify_signature,
)

Tamper = Callable[[Path, random.Random], str]


def test_unchanged_folder_passes_here_and_in_model_signing(signed, tmp_path: Path) -> None:
    import model_signing.hashing as hashing
    import model_signing.verifying as verifying

    found = verify(signed.folder, key=signed.public)
    assert (found.issues, found.notes) == ((), ())
    assert verify_signature(signed.folder, signed.public) == ()
    # By default, the library ignores the signed .gitignore.
    covered = hashing.Config().set_ignored_paths(paths=["model.sig"], ignore_git_paths=False)
    check = verifying.Config().use_elliptic_key_verifier(public_key=signed.public)
    check.set_hashing_config(covered)
    check.verify(signed.folder, signed.folder / "model.sig")
    (signed.folder / "README.md").write_text("other", encoding="utf-8")
    with pytest.raises(ValueError, match=r"README\.md"):
        check.verify(signed.folder, signed.folder / "model.sig")


def test_signature_with_the_defaults_of_model_signing_passes(signed) -> None:
    import model_signing.signing as signing

    (signed.folder / ".gitignore").unlink()
    facts = dataclasses.replace(signed.facts, folder=signed.folder)
    rewrite(facts)
    (signed.folder / "model.sig").unlink()
    config = signing.Config().use_elliptic_key_signer(private_key=signed.private)
    config.sign(signed.folder, signed.folder.parent / "made.sig")
    shutil.move(signed.folder.parent / "made.sig", signed.folder / "model.sig")
    assert verify(signed.folder, key=signed.public).ok


def rewrite(facts) -> None:
    from limbeck.passport import build_passport

    (facts.folder / "passport.json").write_text(render(build_passport(facts)), encoding="utf-8")


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def name_of(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def flip(folder: Path, draw: random.Random) -> str:
    path = draw.choice(files(folder))
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= draw.randrange(1, 256)
    path.write_bytes(content)
    return name_of(path, folder)


def flip_signature(folder: Path, draw: random.Random) -> str:
    content = bytearray((folder / "model.sig").read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    (folder / "model.sig").write_bytes(content)
    return "model.sig"


def truncate(folder: Path, draw: random.Random) -> str:
    path = draw.choice(files(folder))
    path.write_bytes(path.read_bytes()[: draw.randrange(path.stat().st_size)])
    return name_of(path, folder)


def append(folder: Path, draw: random.Random) -> str:
    path = draw.choice(files(folder))
    path.write_bytes(path.read_bytes() + draw.choice([b"\n", b" ", b"\0", b"r\0"]))
    return name_of(path, folder)


def add(folder: Path, draw: random.Random) -> str:
    name = draw.choice([".gitattributes", "extra.py", "tokenizer/model.sig", ".git/config"])
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"x")
    return name


def remove(folder: Path, draw: random.Random) -> str:
    path = draw.choice([path for path in files(folder) if path.name != "passport.json"])
    path.unlink()
    return name_of(path, folder)


def rename(folder: Path, draw: random.Random) -> str:
    path = draw.choice([path for path in files(folder) if path.name != "passport.json"])
    path.rename(path.with_name(path.name + "~"))
    return name_of(path, folder)


def swap(folder: Path, draw: random.Random) -> str:
    one, other = draw.sample([path for path in files(folder) if path.name != "passport.json"], 2)
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    return name_of(one, folder)


def link(folder: Path, draw: random.Random) -> str:
    path = draw.choice([path for path in files(folder) if path.name != "passport.json"])
    outside = folder.parent / "outside"
    path.rename(outside)
    path.symlink_to(outside)
    return name_of(path, folder)


def forge(folder: Path, draw: random.Random) -> str:
    """Edit the passport, and update the hash of its content."""
    path = folder / "passport.json"
    passport = json.loads(path.read_text(encoding="utf-8"))
    component = passport["metadata"]["component"]
    change = draw.choice(["name", "version", "licence", "property"])
    if change == "licence":
        component["licenses"] = [{"license": {"id": "Apache-2.0"}}]
    elif change == "property":
        component["properties"].append({"name": "limbeck:owner", "value": "me"})
    else:
        component[change] = f"another {draw.random()}"
    passport["properties"][0]["value"] = content_sha256(passport)
    path.write_text(render(passport), encoding="utf-8")
    return "passport.json"


TAMPERS = [
    flip,
    flip,
    flip_signature,
    truncate,
    append,
    add,
    remove,
    rename,
    swap,
    link,
    forge,
]


def test_200_random_tamperings_are_all_detected(signed_once, tmp_path: Path, copy) -> None:
    work = tmp_path / "work"
    for seed in range(200):
        draw = random.Random(seed)
        one = copy(signed_once, work / "student")
        assert verify(one.folder, key=one.public).issues == ()
        tamper = TAMPERS[seed % len(TAMPERS)]
        touched = tamper(one.folder, draw)
        issues = verify(one.folder, key=one.public).issues
        assert issues, (seed, tamper.__name__)
        assert touched in {issue.where for issue in issues}, (seed, tamper.__name__, issues)
        if tamper in (flip, flip_signature, truncate, append, remove, forge, link):
            assert issues[0].where == touched, (seed, tamper.__name__, issues)
        assert verify_signature(one.folder, one.public)
        assert all(str(issue).isprintable() for issue in issues)
        shutil.rmtree(work)


def test_every_changed_byte_of_the_signature_is_detected(signed) -> None:
    path = signed.folder / "model.sig"
    content = path.read_bytes()
    # The payload repeats itself: a quarter of the bytes outside of it, and some of it.
    start = content.index(b'"payload":"') + 200
    end = content.index(b'"payloadType"') - 200
    places = [*range(0, start, 4), *range(start, end, 97), *range(end, len(content), 4)]
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        issues = verify(signed.folder, key=signed.public).issues
        assert issues, place
        assert issues[0].where == "model.sig", place


def test_signature_by_another_key_is_an_issue(signed) -> None:
    sign(signed.folder, signed.other_private)
    assert verify(signed.folder, key=signed.other_public).ok
    (issue,) = verify(signed.folder, key=signed.public).issues
    assert (issue.kind, issue.where) == ("signature", "model.sig")
    assert "by the key" in issue.found
    # With the hint of the right key, the signature itself shows it.
    bundle = json.loads((signed.folder / "model.sig").read_text(encoding="utf-8"))
    bundle["verificationMaterial"]["publicKey"]["hint"] = issue.listed.rsplit(" ", 1)[1]
    text = json.dumps(bundle, separators=(",", ":"))
    (signed.folder / "model.sig").write_text(text, encoding="utf-8")
    (issue,) = verify(signed.folder, key=signed.public).issues
    assert "this key did not make" in issue.found


def test_unsigned_payload_is_an_issue(signed) -> None:
    (signed.folder / "README.md").write_text("other", encoding="utf-8")
    rewrite(signed.facts)
    hashes = {
        name: hashlib.sha256((signed.folder / name).read_bytes()).hexdigest()
        for name in ("README.md", "passport.json")
    }
    path = signed.folder / "model.sig"
    bundle = json.loads(path.read_text(encoding="utf-8"))
    payload = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    for item in payload["predicate"]["resources"]:
        item["digest"] = hashes.get(item["name"], item["digest"])
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()
    path.write_text(json.dumps(bundle, separators=(",", ":")), encoding="utf-8")
    assert verify(signed.folder).ok  # not detectable without the key
    (issue,) = verify(signed.folder, key=signed.public).issues
    assert issue.where == "model.sig"


def test_replaced_teacher_is_an_issue(signed) -> None:
    other = dataclasses.replace(signed.facts, teachers=(ModelFacts("other", digest="e" * 64),))
    rewrite(other)
    issues = verify(signed.folder, key=signed.public).issues
    assert issues[0].where == "passport.json"
    assert {issue.kind for issue in issues} == {"signature", "stamp"}
    # With new metadata, the files are not those that were signed.
    embed_metadata(other)
    rewrite(other)
    issues = verify(signed.folder, key=signed.public).issues
    assert [issue.where for issue in issues] == [
        "model.onnx",
        "model.safetensors",
        "passport.json",
    ]


def test_without_a_key_signed_hashes_are_compared(signed) -> None:
    found = verify(signed.folder)
    assert found.ok
    assert found.trust == "signed, key not given"
    forge(signed.folder, random.Random(0))
    assert [issue.kind for issue in verify(signed.folder).issues] == ["signature"]


def test_missing_signature_is_an_issue_only_with_a_key(signed) -> None:
    (signed.folder / "model.sig").unlink()
    assert verify(signed.folder).ok
    (issue,) = verify(signed.folder, key=signed.public).issues
    assert str(issue).startswith("signature: 'model.sig': listed a signature by the key")


MALFORMED = [
    b"",
    b"{}",
    b"[]",
    b"null",
    b"[" * 100_000,
    b'{"a": NaN}',
    b"\xff",
    b"9" * 5000,
    b'{"verificationMaterial":{"publicKey":{"hint":[]}},"dsseEnvelope":{}}',
]


@pytest.mark.parametrize("content", MALFORMED, ids=range(len(MALFORMED)))
def test_malformed_signature_is_one_issue(signed, content: bytes) -> None:
    (signed.folder / "model.sig").write_bytes(content)
    for key in (None, signed.public):
        (issue,) = verify(signed.folder, key=key).issues
        assert (issue.kind, issue.where) == ("signature", "model.sig")
        assert len(str(issue)) < 600


def test_signature_that_is_not_a_plain_file_is_not_opened(signed) -> None:
    path = signed.folder / "model.sig"
    path.rename(signed.folder.parent / "moved.sig")
    path.symlink_to(signed.folder.parent / "moved.sig")
    assert not verify(signed.folder, key=signed.public).ok
    path.unlink()
    os.mkfifo(path)
    assert not verify(signed.folder, key=signed.public).ok
    path.unlink()
    path.mkdir()
    assert not verify(signed.folder, key=signed.public).ok


def leaves(part) -> list[tuple]:
    found: list[tuple] = []
    for key in list(part) if isinstance(part, dict) else range(len(part)):
        found.append((part, key))
        if isinstance(part[key], dict | list):
            found += leaves(part[key])
    return found


def test_forged_signatures_raise_no_other_exception(signed) -> None:
    path = signed.folder / "model.sig"
    original = path.read_text(encoding="utf-8")
    values = [None, 0, True, 1.5, "", "x", "\ud800", [], {}, [None], {"a": {}}, "QQ==", "é"]
    for seed in range(80):
        draw = random.Random(seed)
        bundle = json.loads(original)
        sealed = bundle["dsseEnvelope"]
        payload = json.loads(base64.b64decode(sealed["payload"]))
        part, key = draw.choice(leaves(draw.choice([bundle, payload])))
        part[key] = draw.choice(values)
        if isinstance(bundle["dsseEnvelope"], dict) and sealed.get("payload"):
            text = json.dumps(payload).encode()
            sealed["payload"] = base64.b64encode(text).decode() if seed % 2 else sealed["payload"]
        path.write_text(json.dumps(bundle, separators=(",", ":")), encoding="utf-8")
        assert not verify(signed.folder, key=signed.public).ok or bundle == json.loads(original)
        verify(signed.folder)


def test_sign_requires_a_folder_that_matches_its_passport(signed) -> None:
    (signed.folder / "README.md").write_text("other", encoding="utf-8")
    before = (signed.folder / "model.sig").read_bytes()
    with pytest.raises(InputError, match=r"README\.md"):
        sign(signed.folder, signed.private)
    assert (signed.folder / "model.sig").read_bytes() == before
    rewrite(signed.facts)
    sign(signed.folder, signed.private)
    assert verify(signed.folder, key=signed.public).ok
    with pytest.raises(InputError, match="a student folder"):
        sign(signed.folder / "none", signed.private)
    with pytest.raises(InputError, match="a student folder"):
        verify_signature(signed.folder / "none", signed.public)


def test_keys_are_private_and_never_overwritten(tmp_path: Path) -> None:
    private, public = tmp_path / "a.pem", tmp_path / "b.pem"
    make_keys(private, public)
    assert private.stat().st_mode & 0o777 == 0o600
    before = private.read_bytes()
    with pytest.raises(InputError) as caught:
        make_keys(private, public)
    assert len(caught.value.problems) == 2
    assert private.read_bytes() == before


def test_keys_of_other_kinds_are_rejected(signed, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    def pem(key, name: str, lock=None) -> tuple[Path, Path]:
        lock = lock or form.NoEncryption()
        private, public = tmp_path / f"{name}.pem", tmp_path / f"{name}.pub"
        private.write_bytes(key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, lock))
        public.write_bytes(
            key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
        )
        return private, public

    secret = form.BestAvailableEncryption(b"secret")
    locked, _ = pem(ec.generate_private_key(ec.SECP256R1()), "locked", secret)
    edwards = pem(ed25519.Ed25519PrivateKey.generate(), "edwards")
    bitcoin = pem(ec.generate_private_key(ec.SECP256K1()), "bitcoin")
    (tmp_path / "text.pem").write_text("key", encoding="utf-8")
    for private in (locked, edwards[0], bitcoin[0], tmp_path / "text.pem", tmp_path, signed.public):
        with pytest.raises(InputError, match="a private key in PEM"):
            sign(signed.folder, private)
    for public in (edwards[1], bitcoin[1], tmp_path / "text.pem", tmp_path / "no", signed.private):
        with pytest.raises(InputError, match="a public key in PEM"):
            verify(signed.folder, key=public)
    for curve in (ec.SECP384R1(), ec.SECP521R1()):
        private, public = pem(ec.generate_private_key(curve), curve.name)
        sign(signed.folder, private)
        assert verify(signed.folder, key=public).ok


def test_key_in_the_student_folder_is_rejected(signed) -> None:
    shutil.copy(signed.private, signed.folder / "key.pem")
    rewrite(signed.facts)
    with pytest.raises(InputError, match="Whoever gets the student"):
        sign(signed.folder, signed.folder / "key.pem")


def test_folder_with_a_link_cannot_be_signed(signed) -> None:
    (signed.folder / "again.md").symlink_to("README.md")
    rewrite(signed.facts)
    with pytest.raises(InputError, match="plain files"):
        sign(signed.folder, signed.private)
