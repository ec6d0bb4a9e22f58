"""Signing and verification of a student folder with a local key, as in OpenSSF's model-signing.

The signature covers every file, including the passport; with the public key, a recipient can verify
the signer and that nothing was changed. Keyless signing through Sigstore is not supported here: use
the `model_signing` command for that.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from limbeck.core.imports import require
from limbeck.errors import InputError, LimbeckError, Problem
from limbeck.passport.document import SIGNATURE
from limbeck.passport.envelope import (
    check_private_key,
    check_signature,
    note_signature,
    read_envelope,
    read_public_key,
)
from limbeck.passport.folder import Issue, replacing, scan_folder
from limbeck.passport.verify import verify


def make_keys(private: Path, public: Path) -> None:
    """Generate a key pair on the curve P-256, and write it as two PEM files.

    Only the owner may read the private key, which is not encrypted. No file is overwritten.

    Raises:
        InputError: One of the files exists.
        LimbeckError: One could not be written.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> make_keys(folder / "private.pem", folder / "public.pem")
        >>> oct((folder / "private.pem").stat().st_mode)[-3:]
        '600'
    """
    ec = require("cryptography.hazmat.primitives.asymmetric.ec", extra="sign")
    form = require("cryptography.hazmat.primitives.serialization", extra="sign")
    existing = [path for path in (private, public) if os.path.lexists(path)]
    if existing:
        fix = "An overwritten key cannot be recovered."
        raise InputError(*(Problem(str(path), "a file", "a new path", fix) for path in existing))
    key = ec.generate_private_key(ec.SECP256R1())
    pem = form.Encoding.PEM
    secret = key.private_bytes(pem, form.PrivateFormat.PKCS8, form.NoEncryption())
    shared = key.public_key().public_bytes(pem, form.PublicFormat.SubjectPublicKeyInfo)
    _write_new(private, secret, 0o600)
    _write_new(public, shared, 0o644)


def sign(folder: Path, private_key: Path) -> Path:
    """Sign every file of a student folder, including the passport.

    Args:
        folder: The student folder. It must match its passport.
        private_key: A PEM file outside the folder (see `make_keys`).

    Returns:
        The signature's path, `model.sig` in the folder; an earlier one is replaced. The user's
        state folder keeps a record, so that `verify` detects a removed signature.

    Raises:
        InputError: The folder does not match its passport, or the key cannot be used.
        LimbeckError: The signature could not be written.
    """
    _check_folder(folder)
    # An earlier signature is about to be replaced, whatever its content.
    issues = [one for one in verify(folder).issues if one.kind != "signature"]
    if issues:
        allowed = "a folder that matches its passport"
        raise InputError(*(Problem(str(folder), str(one), allowed) for one in issues))
    if Path(os.path.realpath(private_key)).is_relative_to(os.path.realpath(folder)):
        allowed = "a path outside of it"
        fix = "Whoever gets the student would get the key."
        raise InputError(Problem(str(private_key), "in the student folder", allowed, fix))
    check_private_key(private_key)
    require("OpenSSL", extra="sign")  # model-signing needs it, but does not depend on it
    signing = require("model_signing.signing", extra="sign")
    hashing = require("model_signing.hashing", extra="sign")
    # By default, the library skips the files of git.
    covered = hashing.Config().set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False)
    with tempfile.TemporaryDirectory() as temporary:
        written = Path(temporary) / SIGNATURE
        try:
            config = signing.Config().use_elliptic_key_signer(private_key=private_key)
            config.set_hashing_config(covered).sign(folder, written)
        except (OSError, ValueError) as error:  # a link, or a name that is not Unicode
            allowed = "plain files with names in Unicode"
            raise InputError(Problem(str(folder), str(error), allowed)) from error
        with replacing(folder / SIGNATURE) as target:
            target.write(written.read_bytes())
    note_signature(folder, read_envelope(folder / SIGNATURE).key)
    return folder / SIGNATURE


def verify_signature(folder: Path, public_key: Path) -> tuple[Issue, ...]:
    """Verify a folder's signature alone, without its passport.

    Returns:
        The deviations from the signature; empty if the folder is as it was signed.

    Raises:
        InputError: The key cannot be used, or there is no such folder.
    """
    _check_folder(folder)
    key = read_public_key(public_key)
    listing = scan_folder(folder, exclude=[SIGNATURE])
    anomalies = sorted(listing.anomalies.items())
    hashes = {name: contents.sha256 for name, contents in listing.files.items()}
    return (
        *(anomaly.issue(name, "a signed file") for name, anomaly in anomalies),
        *check_signature(folder, hashes, key),
    )


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise InputError(Problem("folder", str(folder), "a student folder"))


def _write_new(path: Path, content: bytes, mode: int) -> None:
    try:
        # Created with its mode, so that no other user can read it before a later chmod.
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
    except OSError as error:
        reason = error.strerror or str(error)
        raise LimbeckError(f"{path}: could not be written ({reason}).") from error
