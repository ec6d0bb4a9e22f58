"""Signing a student folder with a key of one's own, as OpenSSF's model-signing does.

The signature covers every file, the passport too; whoever has the public key can tell that nothing
was changed since, and by whom it was signed. Keyless signing through Sigstore is not done here: use
the `model_signing` command for that.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from limbeck.errors import InputError, LimbeckError, Problem
from limbeck.optional import require
from limbeck.passport.document import SIGNATURE
from limbeck.passport.envelope import CURVES, of_signature, read_envelope, read_public_key
from limbeck.passport.finding import Finding
from limbeck.passport.folder import replacing, survey
from limbeck.passport.signature_record import note_signature
from limbeck.passport.verify import verify


def make_keys(private: Path, public: Path) -> None:
    """Make a key pair on the curve P-256, and write it as two PEM files.

    Only the owner may read the private key, which is not encrypted. Nothing is written over.

    Args:
        private: Where the key to sign with is written.
        public: Where the key to verify with is written.

    Raises:
        InputError: One of the files is there already.
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
    """Sign a student folder: every file in it, the passport too.

    Args:
        folder: The student folder. It has to be as its passport says.
        private_key: A PEM file outside of the folder (see `make_keys`).

    Returns:
        The signature's path, `model.sig` in the folder; an earlier one is replaced. The user's
        state folder keeps a note of it, so that `verify` finds a signature that was removed.

    Raises:
        InputError: The folder is not as its passport says, or the key cannot be used.
        LimbeckError: The signature could not be written.
    """
    _check_folder(folder)
    _check_key(private_key, folder)
    require("OpenSSL", extra="sign")  # which model-signing needs, but does not ask for
    signing = require("model_signing.signing", extra="sign")
    hashing = require("model_signing.hashing", extra="sign")
    # Unless told otherwise, the library signs no file that belongs to git.
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
    """Hold a folder against its signature alone, whatever its passport says.

    Args:
        folder: The student folder.
        public_key: The PEM file of whoever has to have signed it.

    Returns:
        What departs from the signature; nothing if all is as it was signed.

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
    # An earlier signature is about to be replaced, whatever it says.
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
    try:
        key = form.load_pem_private_key(path.read_bytes(), None)
    except (OSError, TypeError, ValueError, exceptions.UnsupportedAlgorithm) as error:
        reason = "no such file" if not path.exists() else "none, or one that is encrypted"
        raise InputError(Problem(str(path), reason, allowed)) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in CURVES:
        raise InputError(Problem(str(path), "a key of another kind", allowed))


def _write_new(path: Path, content: bytes, mode: int) -> None:
    try:
        # Made with its mode and not given it later, so that nobody can read it in between.
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
    except OSError as error:
        reason = error.strerror or str(error)
        raise LimbeckError(f"{path}: could not be written ({reason}).") from error
