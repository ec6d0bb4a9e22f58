"""The signature of a student (`model.sig`): the signing key and the hash of every signed file.

`model.sig` has the format of OpenSSF's model-signing: a Sigstore bundle around a DSSE envelope
(https://github.com/secure-systems-lab/dsse), which holds an in-toto statement of every file's hash.
It is parsed here, more strictly than by that library, which skips files that the statement lists as
ignored, accepts formats from before its first release, and accepts a file with a changed byte that
has no meaning.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from limbeck.core.files import read_bytes
from limbeck.core.imports import require
from limbeck.errors import InputError, Problem
from limbeck.passport.document import SIGNATURE, no_constant, unique
from limbeck.passport.folder import Finding, replacing

_BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_STATEMENT = "application/vnd.in-toto+json"
_PREDICATE = "https://model_signing/signature/v1.0"
_LARGEST = 64 * 2**20
LARGEST_KEY = 64 * 2**10
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Envelope:
    """A parsed signature, not yet verified with a key.

    Attributes:
        key: The SHA-256 of the public key, as stated in the signature.
        payload: The signed bytes.
        signature: The signature, as DER.
        files: The SHA-256 of every signed file, by its name.
    """

    key: str
    payload: bytes
    signature: bytes
    files: Mapping[str, str]


@dataclass(frozen=True)
class PublicKey:
    """A public key, and its SHA-256 as stated in signatures."""

    key: Any
    sha256: str

    def signed(self, envelope: Envelope) -> bool:
        """Return whether a signature was made with this key."""
        ec = require("cryptography.hazmat.primitives.asymmetric.ec", extra="sign")
        hashes = require("cryptography.hazmat.primitives.hashes", extra="sign")
        exceptions = require("cryptography.exceptions", extra="sign")
        hash_of = {256: hashes.SHA256, 384: hashes.SHA384, 521: hashes.SHA512}
        # DSSE signs the payload together with its type and both lengths.
        head = f"DSSEv1 {len(_STATEMENT)} {_STATEMENT} {len(envelope.payload)} ".encode()
        chosen = ec.ECDSA(hash_of[self.key.curve.key_size]())
        try:
            self.key.verify(envelope.signature, head + envelope.payload, chosen)
        except exceptions.InvalidSignature:
            return False
        return True


def of_signature(
    folder: Path, found: Mapping[str, str], key: PublicKey | None
) -> Iterator[Finding]:
    """Check a folder against its signature.

    Args:
        folder: The student folder.
        found: The SHA-256 of every file in it but the signature.
        key: The key that must have signed it; without one, only the hashes are compared, and a
            folder without a signature is no finding.
    """
    path = folder / SIGNATURE
    if not os.path.lexists(path):
        if key is not None:
            listed = f"a signature by the key {key.sha256}"
            yield Finding("signature", SIGNATURE, listed, "no such file")
        return
    try:
        envelope = read_envelope(path)
    except InputError as error:
        listed = "a signature as model-signing writes it"
        yield Finding("signature", SIGNATURE, listed, str(error))
        return
    if key is not None and envelope.key != key.sha256:
        listed = f"a signature by the key {key.sha256}"
        yield Finding("signature", SIGNATURE, listed, f"one by the key {envelope.key}")
    elif key is not None and not key.signed(envelope):
        listed = f"a signature by the key {key.sha256}"
        yield Finding("signature", SIGNATURE, listed, "one that this key did not make")
    for name in sorted(envelope.files.keys() | found.keys()):
        signed, there = envelope.files.get(name), found.get(name)
        if signed != there:
            listed = f"sha256 {signed}, signed" if signed else "nothing signed"
            yield Finding("signature", name, listed, f"sha256 {there}" if there else "no such file")


def read_public_key(path: Path) -> PublicKey:
    """Read a public key from a PEM file.

    Raises:
        InputError: It is not a public key, or not on an elliptic curve that model-signing supports.
    """
    serialization = require("cryptography.hazmat.primitives.serialization", extra="sign")
    ec = require("cryptography.hazmat.primitives.asymmetric.ec", extra="sign")
    exceptions = require("cryptography.exceptions", extra="sign")
    allowed = "a public key in PEM, of the curve P-256, P-384 or P-521"
    content = read_bytes(path, limit=LARGEST_KEY, allowed=allowed)
    try:
        key = serialization.load_pem_public_key(content)
    except (ValueError, exceptions.UnsupportedAlgorithm) as error:
        raise InputError(Problem(str(path), "no public key", allowed)) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in CURVES:
        raise InputError(Problem(str(path), "a key of another kind", allowed))
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    pem = key.public_bytes(serialization.Encoding.PEM, form)
    return PublicKey(key, hashlib.sha256(pem).hexdigest())


CURVES = ("secp256r1", "secp384r1", "secp521r1")
"""The curves P-256, P-384 and P-521."""


def read_envelope(path: Path) -> Envelope:
    """Parse a signature without verifying it.

    Raises:
        InputError: It is not byte for byte in the format of model-signing.
    """
    bundle = _bundle(path)
    try:
        key = bundle["verificationMaterial"]["publicKey"]["hint"]
        sealed = bundle["dsseEnvelope"]
        payload, signature = sealed["payload"], sealed["signatures"][0]["sig"]
        if bundle != _written(key, payload, signature) or not _SHA256.fullmatch(key):
            _refuse("other contents than a bundle of one signature by a key")
        return Envelope(key, _base64(payload), _base64(signature), _files(_base64(payload)))
    except (KeyError, IndexError, TypeError, ValueError, RecursionError):
        _refuse("other contents than a bundle of one signature by a key")


def _written(key: Any, payload: Any, signature: Any) -> dict[str, Any]:
    """Write the one valid bundle of these parts, since nothing else in it is signed."""
    return {
        "mediaType": _BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": key}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": payload,
            "payloadType": _STATEMENT,
            "signatures": [{"sig": signature, "keyid": ""}],
        },
    }


def _bundle(path: Path) -> Any:
    if path.is_symlink() or not path.is_file():
        _refuse("neither a file nor a signature")
    try:
        if path.stat().st_size > _LARGEST:
            _refuse(f"{path.stat().st_size:,} bytes")
        text = path.read_bytes().decode("utf-8")
        bundle = json.loads(text, object_pairs_hook=unique, parse_constant=no_constant)
        if json.dumps(bundle, separators=(",", ":"), ensure_ascii=False) != text:
            _refuse("the same contents, written in another way")
    except OSError as error:
        _refuse(error.strerror or str(error))
    except (ValueError, RecursionError):
        _refuse("no JSON")
    return bundle


def _files(payload: bytes) -> dict[str, str]:
    statement = json.loads(payload.decode("utf-8"), object_pairs_hook=unique)
    predicate = statement["predicate"]
    form = predicate["serialization"]
    if statement["predicateType"] != _PREDICATE or form["method"] != "files":
        _refuse("a statement of another kind")
    files = {item["name"]: item["digest"] for item in predicate["resources"]}
    hashed = all(
        item["algorithm"] == "sha256" and _SHA256.fullmatch(item["digest"])
        for item in predicate["resources"]
    )
    if len(files) != len(predicate["resources"]) or not hashed:
        _refuse("a statement that does not name each file once, with its SHA-256")
    if not all(isinstance(name, str) for name in files):
        _refuse("a file whose name is no text")
    return files


def _base64(text: str) -> bytes:
    content = base64.b64decode(text, validate=True)
    if base64.b64encode(content).decode() != text:
        _refuse("the same contents, written in another way")
    return content


def _refuse(given: str) -> NoReturn:
    raise InputError(Problem(SIGNATURE, given, "what model-signing writes"))


_SIGNATURE_RECORD_LARGEST = 64 * 2**10


@dataclass(frozen=True)
class SignatureRecord:
    """A folder that was signed.

    Attributes:
        key: The SHA-256 of the public key.
        noted: When it was recorded, in ISO 8601.
    """

    key: str
    noted: str


def note_signature(folder: Path, key: str) -> bool:
    """Write the record that a folder is signed with a key; return False if it cannot be written.

    Args:
        folder: The student folder.
        key: The SHA-256 of the public key, as stated in the signature.
    """
    noted = datetime.now(UTC).isoformat(timespec="seconds")
    content = {"folder": os.path.realpath(folder), "key": key, "noted": noted}
    place = _place(folder)
    try:
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError:
        return False
    try:
        with replacing(place) as file:
            file.write(json.dumps(content, indent=2).encode())
    except Exception:  # a read-only home must not prevent signing
        return False
    return True


def noted_signature(folder: Path) -> SignatureRecord | None:
    """Return the record of a folder, or None."""
    place = _place(folder)
    try:
        if (
            place.is_symlink()
            or not place.is_file()
            or place.stat().st_size > _SIGNATURE_RECORD_LARGEST
        ):
            return None
        content = json.loads(place.read_text(encoding="utf-8"))
        key, noted = content["key"], content["noted"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    if not isinstance(key, str) or not _SHA256.fullmatch(key) or not isinstance(noted, str):
        return None
    return SignatureRecord(key, noted[:40])


def drop_signature_note(folder: Path) -> None:
    """Remove the record of a folder whose contents were replaced on purpose."""
    with contextlib.suppress(OSError):
        _place(folder).unlink(missing_ok=True)


def _place(folder: Path) -> Path:
    name = hashlib.sha256(os.fsencode(os.path.realpath(folder))).hexdigest()
    return _state_folder() / "signatures" / f"{name}.json"


def _state_folder() -> Path:
    stated = os.environ.get("LIMBECK_STATE")
    if stated:
        return Path(stated)
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "limbeck"
