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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from limbeck.core.files import read_bytes
from limbeck.core.imports import require
from limbeck.errors import InputError, Problem
from limbeck.passport.document import SHA256, SIGNATURE, strict_json, unique
from limbeck.passport.folder import Issue, replacing

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

_BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_STATEMENT = "application/vnd.in-toto+json"
_PREDICATE = "https://model_signing/signature/v1.0"
_ALLOWED = "a signature as model-signing writes it"
_LARGEST = 64 * 2**20
_LARGEST_RECORD = 64 * 2**10
_LARGEST_KEY = 64 * 2**10
_CURVES = ("secp256r1", "secp384r1", "secp521r1")


@dataclass(frozen=True)
class Envelope:
    """A parsed signature, not yet verified with a key."""

    key: str  # the SHA-256 of the public key, as stated in the signature
    payload: bytes
    signature: bytes  # as DER
    files: Mapping[str, str]  # the SHA-256 of every signed file


@dataclass(frozen=True)
class PublicKey:
    """A public key, and its SHA-256 as stated in signatures."""

    key: ec.EllipticCurvePublicKey
    sha256: str

    def signed(self, envelope: Envelope) -> bool:
        """Return whether a signature was made with this key."""
        curves = require("cryptography.hazmat.primitives.asymmetric.ec", extra="sign")
        hashes = require("cryptography.hazmat.primitives.hashes", extra="sign")
        exceptions = require("cryptography.exceptions", extra="sign")
        hash_of = {256: hashes.SHA256, 384: hashes.SHA384, 521: hashes.SHA512}
        # DSSE signs the payload together with its type and both lengths.
        head = f"DSSEv1 {len(_STATEMENT)} {_STATEMENT} {len(envelope.payload)} ".encode()
        algorithm = curves.ECDSA(hash_of[self.key.curve.key_size]())
        try:
            self.key.verify(envelope.signature, head + envelope.payload, algorithm)
        except exceptions.InvalidSignature:
            return False
        return True


def check_signature(
    folder: Path, found: Mapping[str, str], key: PublicKey | None
) -> Iterator[Issue]:
    """Check a folder, whose files have the SHA-256 in `found`, against its signature.

    Without a key, only the hashes are compared, and a folder without a signature has no issue.
    """
    path = folder / SIGNATURE
    by_key = "" if key is None else f"a signature by the key {key.sha256}"
    if not os.path.lexists(path):
        if key is not None:
            yield Issue("signature", SIGNATURE, by_key, "no such file")
        return
    try:
        envelope = read_envelope(path)
    except InputError as error:
        yield Issue("signature", SIGNATURE, _ALLOWED, str(error))
        return
    if key is not None and envelope.key != key.sha256:
        yield Issue("signature", SIGNATURE, by_key, f"one by the key {envelope.key}")
    elif key is not None and not key.signed(envelope):
        yield Issue("signature", SIGNATURE, by_key, "one that this key did not make")
    for name in sorted(envelope.files.keys() | found.keys()):
        signed, actual = envelope.files.get(name), found.get(name)
        if signed != actual:
            listed = f"sha256 {signed}, signed" if signed else "nothing signed"
            current = f"sha256 {actual}" if actual else "no such file"
            yield Issue("signature", name, listed, current)


def read_public_key(path: Path) -> PublicKey:
    """Read a public key from a PEM file, on an elliptic curve that model-signing supports."""
    form = require("cryptography.hazmat.primitives.serialization", extra="sign")
    allowed = "a public key in PEM, of the curve P-256, P-384 or P-521"
    key: ec.EllipticCurvePublicKey = _load_key(
        path, form.load_pem_public_key, "EllipticCurvePublicKey", "no public key", allowed
    )
    pem = key.public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    return PublicKey(key, hashlib.sha256(pem).hexdigest())


def check_private_key(path: Path) -> None:
    """Check that a PEM file holds an unencrypted private key that model-signing supports."""
    form = require("cryptography.hazmat.primitives.serialization", extra="sign")
    allowed = "a private key in PEM, of the curve P-256, P-384 or P-521, not encrypted"
    load = partial(form.load_pem_private_key, password=None)
    _load_key(path, load, "EllipticCurvePrivateKey", "none, or one that is encrypted", allowed)


def _load_key(
    path: Path, load: Callable[[bytes], Any], kind: str, otherwise: str, allowed: str
) -> Any:
    curves = require("cryptography.hazmat.primitives.asymmetric.ec", extra="sign")
    exceptions = require("cryptography.exceptions", extra="sign")
    content = read_bytes(path, limit=_LARGEST_KEY, allowed=allowed)
    try:
        key = load(content)
    except (TypeError, ValueError, exceptions.UnsupportedAlgorithm) as error:
        raise InputError(Problem(str(path), otherwise, allowed)) from error
    if not isinstance(key, getattr(curves, kind)) or key.curve.name not in _CURVES:
        raise InputError(Problem(str(path), "a key of another kind", allowed))
    return key


def read_envelope(path: Path) -> Envelope:
    """Parse a signature, without verifying it, byte for byte in the format of model-signing."""
    bundle = _bundle(path)
    try:
        key = bundle["verificationMaterial"]["publicKey"]["hint"]
        sealed = bundle["dsseEnvelope"]
        payload, signature = sealed["payload"], sealed["signatures"][0]["sig"]
        # The one valid bundle of these parts, since nothing else in it is signed.
        expected = {
            "mediaType": _BUNDLE,
            "verificationMaterial": {"publicKey": {"hint": key}, "tlogEntries": []},
            "dsseEnvelope": {
                "payload": payload,
                "payloadType": _STATEMENT,
                "signatures": [{"sig": signature, "keyid": ""}],
            },
        }
        if bundle != expected or not SHA256.fullmatch(key):
            raise ValueError("other contents")
        return Envelope(key, _base64(payload), _base64(signature), _files(_base64(payload)))
    except (KeyError, IndexError, TypeError, ValueError, RecursionError):
        _refuse("other contents than a bundle of one signature by a key")


def _bundle(path: Path) -> Any:
    if path.is_symlink():
        _refuse("a link")
    content = read_bytes(path, limit=_LARGEST, where=SIGNATURE, allowed=_ALLOWED)
    try:
        text = content.decode("utf-8")
        bundle = strict_json(text)
        if json.dumps(bundle, separators=(",", ":"), ensure_ascii=False) != text:
            _refuse("the same contents in another format")
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
        item["algorithm"] == "sha256" and SHA256.fullmatch(item["digest"])
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
        _refuse("the same contents in another format")
    return content


def _refuse(given: str) -> NoReturn:
    raise InputError(Problem(SIGNATURE, given, _ALLOWED))


@dataclass(frozen=True)
class SignatureRecord:
    """The key (SHA-256) that signed a folder, and when this was recorded (ISO 8601)."""

    key: str
    noted: str


def note_signature(folder: Path, key: str) -> bool:
    """Record that a folder is signed with a key; return False if it cannot be written.

    `key` is the SHA-256 of the public key, as stated in the signature.
    """
    noted = datetime.now(UTC).isoformat(timespec="seconds")
    content = {"folder": os.path.realpath(folder), "key": key, "noted": noted}
    path = _record_path(folder)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with replacing(path) as file:
            file.write(json.dumps(content, indent=2).encode())
    except Exception:  # a read-only home must not prevent signing
        return False
    return True


def noted_signature(folder: Path) -> SignatureRecord | None:
    """Return the record of a folder, or None."""
    path = _record_path(folder)
    try:
        if path.is_symlink():
            return None
        content = json.loads(read_bytes(path, limit=_LARGEST_RECORD).decode("utf-8"))
        key, noted = content["key"], content["noted"]
    except (InputError, OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    if not isinstance(key, str) or not SHA256.fullmatch(key) or not isinstance(noted, str):
        return None
    return SignatureRecord(key, noted[:40])


def drop_signature_note(folder: Path) -> None:
    """Remove the record of a folder whose contents were replaced on purpose."""
    with contextlib.suppress(OSError):
        _record_path(folder).unlink(missing_ok=True)


def _record_path(folder: Path) -> Path:
    name = hashlib.sha256(os.fsencode(os.path.realpath(folder))).hexdigest()
    base = os.environ.get("LIMBECK_STATE")
    if not base:
        state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        base = os.path.join(state, "limbeck")
    return Path(base) / "signatures" / f"{name}.json"
