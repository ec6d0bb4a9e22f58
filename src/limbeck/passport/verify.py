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
from limbeck.passport.chain import of_claims, of_lineage, of_teacher, passport_of
from limbeck.passport.document import (
    LARGEST,
    PASSPORT,
    SIGNATURE,
    Stated,
    content_sha256,
    read,
    read_stated,
    sha256,
    validate,
)
from limbeck.passport.embedded_metadata import of_stamps
from limbeck.passport.envelope import (
    PublicKey,
    noted_signature,
    of_signature,
    read_envelope,
    read_public_key,
)
from limbeck.passport.folder import Finding, Listing, hash_file, of_folder, survey
from limbeck.passport.lineage import STUDENT, read_lineage

Trust = Literal["unsigned", "signed, key not given", "verified", "failed"]


@dataclass(frozen=True)
class Verification:
    """The result of checking a folder against its passport and its signature.

    Attributes:
        passport: The passport's path.
        student: The student's name, empty if the passport could not be read.
        files: The number of files that the passport lists.
        findings: All deviations, in the order of the checks.
        notes: What was not checked, and why; hard links and unusual modes.
        signed_by: The SHA-256 of the key that the signature states; empty without a readable one.
        authenticated: Whether the signature was made by a key passed to `verify`.
    """

    passport: Path
    student: str
    files: int
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()
    signed_by: str = ""
    authenticated: bool = False

    @property
    def ok(self) -> bool:
        """Return whether there is no deviation from the passport."""
        return not self.findings

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
    """Check a student: passport, files, signature, stamps and chain of teachers, in this order.

    Without a key, the passport's content is only compared with the hash that it states. That is a
    checksum: only a signature detects an edit after which the hash was rewritten. A result without
    a key therefore shows integrity, not authenticity; see `Verification.trust`.

    A folder that was signed, or verified with a key, on this machine before must still be signed
    with the same key, unless other keys are passed.

    Args:
        passport: A `passport.json`, or the folder it lies in.
        key: The public key, in PEM, of the expected signer; with several, one of them must match.
        lineage: Teachers of any generation, which the passport must name: their folders (each
            verified in turn, if it has a passport), or files of weights.
        schema: Whether to validate the passport against CycloneDX's schema too, which takes
            seconds.
        require_signature: Whether a missing signature is a finding although no key is passed.

    Returns:
        The findings; empty if nothing changed. A passport that cannot be parsed is a finding.

    Raises:
        InputError: There is no such file, or the key cannot be used.
    """
    path = passport / PASSPORT if os.path.isdir(passport) else passport
    if not os.path.lexists(path):
        allowed = "the passport.json of a student, or its folder"
        raise InputError(Problem("passport", str(path), allowed, "There is no such file."))
    given = [] if key is None else [key] if isinstance(key, Path) else list(key)
    found = _Found(path, [read_public_key(one) for one in given])
    found.check(lineage, schema=schema, require_signature=require_signature)
    return Verification(
        path,
        found.student,
        found.files,
        tuple(found.findings),
        found.notes(),
        signed_by=found.signed_by,
        authenticated=bool(given) and not found.findings,
    )


class _Found:
    """A collector of findings, in the order of the checks."""

    def __init__(self, path: Path, keys: Sequence[PublicKey]) -> None:
        self.path = path
        self.keys = keys
        self.signed_by = ""
        self.student = ""
        self.files = 0
        self.findings: list[Finding] = []
        self._notes: list[str] = []

    def check(self, lineage: Sequence[Path], *, schema: bool, require_signature: bool) -> None:
        link = _link_outside(self.path)
        if link is not None:
            self.findings.append(link)
            return
        read_in = self._passport(schema=schema)
        listed = {} if read_in is None else read_in[1].files
        listing = survey(self.path.parent, apart=(self.path.name, SIGNATURE), listed=listed)
        if read_in is not None:
            self.findings += of_folder(listed, listing)
        self._signature(listing, required=require_signature)
        self._notes += listing.notes()
        if read_in is not None:
            self._claims(*read_in, listing, lineage)

    def notes(self) -> tuple[str, ...]:
        return tuple(self._notes)

    def _passport(self, *, schema: bool) -> tuple[dict[str, Any], Stated] | None:
        try:
            document, as_written = read(self.path)
            stated = read_stated(document, self.path.name)
        except InputError as error:
            self._malformed(error)
            return None
        self.student, self.files = stated.student, len(stated.files)
        if schema:
            self._schema(document)
        self.findings += _of_passport(document, stated, as_written, self.path.name)
        return document, stated

    def _schema(self, document: dict[str, Any]) -> None:
        departures = validate(document)
        if departures is None:
            self._notes.append("The schema was not checked: cyclonedx-python-lib is not installed.")
        for departure in departures or ():
            listed = "a valid CycloneDX 1.6 document"
            self.findings.append(Finding("schema", self.path.name, listed, departure))

    def _signature(self, listing: Listing, *, required: bool) -> None:
        folder = self.path.parent
        there = {
            name: contents.sha256 or f"not computed of {contents.size:,} bytes"
            for name, contents in listing.files.items()
        }
        if self.path.is_file() and self.path.stat().st_size <= LARGEST:
            there[self.path.name] = hash_file(self.path).sha256
        self.signed_by = _signer(folder)
        key = next((key for key in self.keys if key.sha256 == self.signed_by), None)
        known = {finding.where for finding in self.findings}
        self.findings += (
            finding
            for finding in of_signature(folder, there, key or next(iter(self.keys), None))
            if finding.where not in known
        )
        if not self.keys:
            self._without_key(folder, required=required)

    def _without_key(self, folder: Path, *, required: bool) -> None:
        """Check the folder against the record of earlier signatures, as no key was passed."""
        signed = os.path.lexists(folder / SIGNATURE)
        noted = noted_signature(folder)
        if noted is not None and noted.key != self.signed_by:
            listed = f"a signature by the key {noted.key}, as noted at {noted.noted}"
            found = f"one by the key {self.signed_by}" if signed else "no such file"
            self.findings.append(Finding("signature", SIGNATURE, listed, found))
        elif not signed and required:
            self.findings.append(Finding("signature", SIGNATURE, "a signature", "no such file"))

    def _claims(
        self, document: dict[str, Any], stated: Stated, listing: Listing, lineage: Sequence[Path]
    ) -> None:
        known = {finding.where for finding in self.findings}
        try:
            models = read_lineage(document)
            self.findings += of_lineage(document, models)
            self.findings += of_claims(document, models[STUDENT])
            unchanged = listing.files.keys() - known
            self.findings += of_stamps(self.path.parent, unchanged, models[STUDENT], stated)
        except InputError as error:
            self._malformed(error)
            return
        for place in lineage:
            self._teacher(place)
            self.findings += of_teacher(models, place)

    def _teacher(self, place: Path) -> None:
        """Verify a teacher that has a passport of its own."""
        if os.path.lexists(passport_of(place)):
            self.findings += (
                Finding(one.kind, f"{place.name}/{one.where}", one.listed, one.found)
                for one in verify(passport_of(place)).findings
            )

    def _malformed(self, error: InputError) -> None:
        listed = "a CycloneDX 1.6 passport"
        self.findings.append(Finding("malformed", self.path.name, listed, str(error)))


def _signer(folder: Path) -> str:
    """Return the SHA-256 of the key that a folder's signature states; empty if there is none."""
    try:
        return read_envelope(folder / SIGNATURE).key
    except InputError:
        return ""


def _link_outside(path: Path) -> Finding | None:
    target, folder = (Path(os.path.realpath(place)) for place in (path, path.parent))
    if target.is_relative_to(folder):
        return None
    found = f"a link to {str(target)!r}, outside the folder"
    return Finding("escape", path.name, "a file of the folder", found)


def _of_passport(
    document: dict[str, Any], stated: Stated, as_written: bool, own_name: str
) -> Iterator[Finding]:
    content = content_sha256(document)
    if content != stated.content_sha256:
        listed = f"content with sha256 {stated.content_sha256!r}"
        yield Finding("edited", own_name, listed, f"content with sha256 {content!r}")
    elif not as_written:
        found = "the same content, written in another way"
        yield Finding("edited", own_name, "JSON as limbeck writes it", found)
    recipe = sha256(stated.recipe)
    if recipe != stated.recipe_sha256:
        listed = f"a recipe with sha256 {stated.recipe_sha256!r}"
        yield Finding("recipe", "limbeck:recipe", listed, f"a recipe with sha256 {recipe!r}")
