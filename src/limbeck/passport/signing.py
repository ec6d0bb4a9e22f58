"""Signing and verification of a student folder with a local key, as in OpenSSF's model-signing.

The signature covers every file, including the passport; with the public key, a recipient can verify
the signer and that nothing was changed. Keyless signing through Sigstore is not supported here: use
the `model_signing` command for that.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from limbeck.core.files import read_bytes
from limbeck.core.imports import require
from limbeck.errors import InputError, LimbeckError, Problem
from limbeck.passport.document import SIGNATURE
from limbeck.passport.envelope import (
    CURVES,
    LARGEST_KEY,
    note_signature,
    of_signature,
    read_envelope,
    read_public_key,
)
from limbeck.passport.folder import Finding, replacing, survey
from limbeck.passport.verify import verify


def make_keys(private: Path, public: Path) -> None:
    """Generate a key pair on the curve P-256, and write it as two PEM files.

    Only the owner may read the private key, which is not encrypted. No file is overwritten.

    Args:
        private: The file of the private key, for signing.
        public: The file of the public key, for verification.

    Raises:
        InputError: One of the files exists.
        LimbeckError: One could not be written.

    Example:
        >>> import tempfile
        >>> place = Path(tempfile.mkdtemp())
        >>> make_keys(place / "private.pem", place / "public.pem")
        >>> oct((place / "private.pem").stat().st_mode)[-3:]
        '600'
    """
    ec = require("cryptography.hazmat.primitives.asymmetric.ec", extra="sign")
    form = require("cryptography.hazmat.primitives.serialization", extra="sign")
    taken = [path for path in (private, public) if os.path.lexists(path)]
    if taken:
        fix = "A key that is written over is lost."
        raise InputError(*(Problem(str(path), "a file", "a new path", fix) for path in taken))
    key = ec.generate_private_key(ec.SECP256R1())
    secret = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    open_to_all = key.public_key().public_bytes(
        form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo
    )
    _write_new(private, secret, 0o600)
    _write_new(public, open_to_all, 0o644)


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
    _check_key(private_key, folder)
    require("OpenSSL", extra="sign")  # model-signing needs it, but does not depend on it
    signing = require("model_signing.signing", extra="sign")
    hashing = require("model_signing.hashing", extra="sign")
    # By default, the library skips the files of git.
    covered = hashing.Config().set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False)
    with tempfile.TemporaryDirectory() as place:
        made = Path(place) / SIGNATURE
        try:
            config = signing.Config().use_elliptic_key_signer(private_key=private_key)
            config.set_hashing_config(covered).sign(folder, made)
        except (OSError, ValueError) as error:  # a link, or a name that is not Unicode
            allowed = "plain files with names in Unicode"
            raise InputError(Problem(str(folder), str(error), allowed)) from error
        with replacing(folder / SIGNATURE) as target:
            target.write(made.read_bytes())
    note_signature(folder, read_envelope(folder / SIGNATURE).key)
    return folder / SIGNATURE


def verify_signature(folder: Path, public_key: Path) -> tuple[Finding, ...]:
    """Verify a folder's signature alone, without its passport.

    Args:
        folder: The student folder.
        public_key: The PEM file of the expected signer.

    Returns:
        The deviations from the signature; empty if the folder is as it was signed.

    Raises:
        InputError: The key cannot be used, or there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(Problem("folder", str(folder), "a student folder"))
    key = read_public_key(public_key)
    listing = survey(folder, apart=[SIGNATURE])
    odd = (
        Finding("escape" if oddity.escapes else "odd", name, "a signed file", oddity.what)
        for name, oddity in sorted(listing.oddities.items())
    )
    found = {name: contents.sha256 for name, contents in listing.files.items()}
    return (*odd, *of_signature(folder, found, key))


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise InputError(Problem("folder", str(folder), "a student folder"))
    # An earlier signature is about to be replaced, whatever its content.
    wrong = [one for one in verify(folder).findings if one.kind != "signature"]
    if wrong:
        allowed = "a folder that is as its passport says"
        raise InputError(*(Problem(str(folder), str(one), allowed) for one in wrong))


def _check_key(path: Path, folder: Path) -> None:
    form = require("cryptography.hazmat.primitives.serialization", extra="sign")
    ec = require("cryptography.hazmat.primitives.asymmetric.ec", extra="sign")
    exceptions = require("cryptography.exceptions", extra="sign")
    allowed = "a private key in PEM, of the curve P-256, P-384 or P-521, not encrypted"
    if Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        fix = "Whoever gets the student would get the key."
        raise InputError(Problem(str(path), "in the student folder", "a place outside of it", fix))
    content = read_bytes(path, limit=LARGEST_KEY, allowed=allowed)
    try:
        key = form.load_pem_private_key(content, None)
    except (TypeError, ValueError, exceptions.UnsupportedAlgorithm) as error:
        reason = "none, or one that is encrypted"
        raise InputError(Problem(str(path), reason, allowed)) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in CURVES:
        raise InputError(Problem(str(path), "a key of another kind", allowed))


def _write_new(path: Path, content: bytes, mode: int) -> None:
    try:
        # Created with its mode, so that nobody can read it before a later chmod.
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
    except OSError as error:
        reason = error.strerror or str(error)
        raise LimbeckError(f"{path}: could not be written ({reason}).") from error
