"""Verification of a student against its passport, its signature and its teachers.

Nothing is executed and nothing outside the folder is read: the files are found by walking the
folder, and the passport's names are only compared with the result.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from limbeck.errors import InputError, Problem
from limbeck.passport.chain import (
    check_claims,
    check_exists,
    check_lineage,
    check_teacher,
    passport_of,
)
from limbeck.passport.document import (
    LARGEST,
    PASSPORT,
    SIGNATURE,
    StatedFacts,
    content_sha256,
    read,
    read_stated,
    sha256,
    validate,
    was_passport,
)
from limbeck.passport.embedded_metadata import check_embedded_metadata
from limbeck.passport.envelope import (
    PublicKey,
    check_signature,
    noted_signature,
    read_envelope,
    read_public_key,
)
from limbeck.passport.folder import Issue, Listing, check_files, hash_file, scan_folder
from limbeck.passport.lineage import STUDENT, read_lineage

Trust = Literal["unsigned", "signed, key not given", "verified", "failed"]


@dataclass(frozen=True)
class Verification:
    """The result of checking a folder against its passport and its signature.

    Attributes:
        passport: The passport's path.
        student: The student's name, empty if the passport could not be read.
        files: The number of files that the passport lists.
        issues: All deviations, in the order of the checks.
        notes: What was not checked, and why; hard links and unusual modes.
        signed_by: The SHA-256 of the key that the signature states; empty without a readable one.
        authenticated: Whether the signature was made by a key passed to `verify`.
    """

    passport: Path
    student: str
    files: int
    issues: tuple[Issue, ...]
    notes: tuple[str, ...] = ()
    signed_by: str = ""
    authenticated: bool = False

    @property
    def ok(self) -> bool:
        """Return whether there is no deviation from the passport."""
        return not self.issues

    @property
    def trust(self) -> Trust:
        """Return the level of trust.

        `verified`: every file is as a given key signed it. `signed, key not given`: the files match
        the signature, which anyone could have made. `unsigned`: the files match the passport, which
        anyone with write access to the folder could have rewritten: integrity, not authenticity.
        `failed`: there is a deviation.
        """
        if not self.ok:
            return "failed"
        if self.authenticated:
            return "verified"
        return "signed, key not given" if self.signed_by else "unsigned"


def verify(
    passport: Path,
    *,
    key: Path | Sequence[Path] | None = None,
    lineage: Sequence[Path] = (),
    schema: bool = False,
    require_signature: bool = False,
) -> Verification:
    """Verify a student: passport, files, signature, embedded metadata and chain of teachers.

    Without a key, the passport's content is only compared with the hash that it states. That is a
    checksum: only a signature detects an edit after which the hash was rewritten. A result without
    a key therefore shows integrity, not authenticity; see `Verification.trust`.

    A folder that was signed, or verified with a key, on this machine before must still be signed
    with the same key, unless other keys are passed.

    Args:
        passport: A `passport.json`, or the folder that contains it.
        key: The public key, in PEM, of the expected signer; with several, one of them must match.
        lineage: Teachers of any generation, which the passport must name: their folders (each
            verified in turn, if it has a passport), or files of weights.
        schema: Whether to validate the passport against CycloneDX's schema too, which takes
            seconds.
        require_signature: Whether a missing signature is an issue although no key is passed.

    Returns:
        The issues; empty if nothing changed.

    Raises:
        InputError: There is no such file or teacher, one is a device or a pipe, the file is no
            passport, or the key cannot be used.
    """
    path = passport / PASSPORT if os.path.isdir(passport) else passport
    if not os.path.lexists(path):
        raise _no_passport(path, "There is no such file.")
    for place in lineage:
        check_exists(place)
    keys = [] if key is None else [key] if isinstance(key, Path) else list(key)
    public = [read_public_key(one) for one in keys]
    target, folder = (Path(os.path.realpath(place)) for place in (path, path.parent))
    if not target.is_relative_to(folder):
        outside = f"a link to {str(target)!r}, outside the folder"
        issue = Issue("escape", path.name, "a file of the folder", outside)
        return Verification(path, "", 0, (issue,))
    if os.path.exists(target) and not os.path.isfile(target):
        raise _no_passport(path, "This is not a regular file.")

    issues: list[Issue] = []
    notes: list[str] = []
    document: dict[str, Any] = {}
    stated: StatedFacts | None = None
    try:
        document, as_written = read(path)
        stated = read_stated(document, path.name)
    except InputError as error:
        if not (os.path.lexists(path.parent / SIGNATURE) or was_passport(path)):
            raise
        issues.append(_malformed(path, error))
    else:
        if schema:
            violations = validate(document)
            if violations is None:
                notes.append("The schema was not checked: cyclonedx-python-lib is not installed.")
            valid = "a valid CycloneDX 1.6 document"
            issues += [Issue("schema", path.name, valid, one) for one in violations or ()]
        issues += _check_passport(document, stated, as_written, path.name)
    listed = {} if stated is None else stated.files
    listing = scan_folder(path.parent, exclude=(path.name, SIGNATURE), listed=listed)
    if stated is not None:
        issues += check_files(listed, listing)
    signed_by = _signer(path.parent)
    known = {issue.where for issue in issues}
    found = _check_signature(path, listing, public, signed_by, required=require_signature)
    issues += [issue for issue in found if issue.where not in known]
    notes += listing.notes()
    if stated is not None:
        unchanged = listing.files.keys() - {issue.where for issue in issues}
        try:
            models = read_lineage(document)
            issues += check_lineage(document, models)
            issues += check_claims(document, models[STUDENT])
            issues += check_embedded_metadata(path.parent, unchanged, models[STUDENT], stated)
        except InputError as error:
            issues.append(_malformed(path, error))
        else:
            for place in lineage:
                if os.path.lexists(passport_of(place)):
                    issues += [
                        Issue(one.kind, f"{place.name}/{one.where}", one.listed, one.found)
                        for one in verify(passport_of(place)).issues
                    ]
                issues += check_teacher(models, place)
    student, files = ("", 0) if stated is None else (stated.student, len(stated.files))
    authenticated = bool(keys) and not issues
    return Verification(path, student, files, tuple(issues), tuple(notes), signed_by, authenticated)


def _no_passport(path: Path, fix: str) -> InputError:
    allowed = "the passport.json of a student, or its folder"
    return InputError(Problem("passport", str(path), allowed, fix))


def _malformed(path: Path, error: InputError) -> Issue:
    return Issue("malformed", path.name, "a CycloneDX 1.6 passport", str(error))


def _signer(folder: Path) -> str:
    """Return the SHA-256 of the key that a folder's signature states; empty if there is none."""
    try:
        return read_envelope(folder / SIGNATURE).key
    except InputError:
        return ""


def _check_signature(
    path: Path, listing: Listing, keys: Sequence[PublicKey], signed_by: str, *, required: bool
) -> Iterator[Issue]:
    """Check the signature, and without a key also the record of earlier signatures."""
    folder = path.parent
    hashes = {
        name: contents.sha256 or f"not computed of {contents.size:,} bytes"
        for name, contents in listing.files.items()
    }
    if path.is_file() and path.stat().st_size <= LARGEST:
        hashes[path.name] = hash_file(path).sha256
    key = next((key for key in keys if key.sha256 == signed_by), next(iter(keys), None))
    yield from check_signature(folder, hashes, key)
    if keys:
        return
    signed = os.path.lexists(folder / SIGNATURE)
    noted = noted_signature(folder)
    if noted is not None and noted.key != signed_by:
        listed = f"a signature by the key {noted.key}, as noted at {noted.noted}"
        found = f"one by the key {signed_by}" if signed else "no such file"
        yield Issue("signature", SIGNATURE, listed, found)
    elif not signed and required:
        yield Issue("signature", SIGNATURE, "a signature", "no such file")


def _check_passport(
    document: dict[str, Any], stated: StatedFacts, as_written: bool, own_name: str
) -> Iterator[Issue]:
    content = content_sha256(document)
    if content != stated.content_sha256:
        listed = f"content with sha256 {stated.content_sha256!r}"
        yield Issue("edited", own_name, listed, f"content with sha256 {content!r}")
    elif not as_written:
        found = "the same content in another JSON format"
        yield Issue("edited", own_name, "JSON as limbeck writes it", found)
    recipe = sha256(stated.recipe)
    if recipe != stated.recipe_sha256:
        listed = f"a recipe with sha256 {stated.recipe_sha256!r}"
        yield Issue("recipe", "limbeck:recipe", listed, f"a recipe with sha256 {recipe!r}")
