"""Holding a student folder against its passport: what was listed, what was found.

Nothing is executed and nothing outside the folder is read: the files are found by walking the
folder, and the passport's names are only compared with what was found.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from limbeck.errors import InputError, Problem
from limbeck.passport.document import (
    CONTENT,
    PASSPORT,
    content_sha256,
    member,
    properties_of,
    read,
    refuse,
    sha256,
    sha256_of,
)
from limbeck.passport.folder import FileHash, Listing, survey

Kind = Literal["changed", "missing", "added", "escape", "odd", "recipe", "edited", "malformed"]


@dataclass(frozen=True)
class Finding:
    """One way in which a folder departs from its passport.

    Attributes:
        kind: `changed`, `missing`, `added`: a file is. `escape`: a name or a link leads out of the
            folder. `odd`: not a plain file, or not readable. `recipe`: not what its hash says.
            `edited`: the passport is not as it was written. `malformed`: it is no passport.
        where: The file, or the place in the passport.
        listed: What the passport says.
        found: What is there.

    Example:
        >>> print(Finding("missing", "model.onnx", "9 bytes", "no such file"))
        missing: 'model.onnx': listed 9 bytes; found no such file
    """

    kind: Kind
    where: str
    listed: str
    found: str

    def __str__(self) -> str:
        # Names come from elsewhere: written so that they cannot steer a terminal.
        return f"{self.kind}: {self.where!r}: listed {self.listed}; found {self.found}"


@dataclass(frozen=True)
class Verification:
    """What came of holding a folder against its passport.

    Attributes:
        passport: The passport's path.
        student: The student's name, empty if the passport could not be read.
        files: How many files the passport lists.
        findings: Everything that departs from it.
    """

    passport: Path
    student: str
    files: int
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether everything is as the passport says."""
        return not self.findings


@dataclass(frozen=True)
class _Stated:
    """What a passport states that can be held against something."""

    student: str
    model_file: str
    model_sha256: str
    files: Mapping[str, FileHash]
    recipe: str
    recipe_sha256: str
    content_sha256: str


def verify(passport: Path) -> Verification:
    """Recompute every hash that a passport states, and look for files that it does not list.

    The passport's own content is held against the hash it states. That is a checksum and not a
    signature: somebody who edits the passport and writes its hash anew is not noticed.

    Args:
        passport: A `passport.json`, or the folder it lies in.

    Returns:
        The findings; none if all is as it was. A passport that cannot be understood is a finding.

    Raises:
        InputError: There is no such file.
    """
    path = passport / PASSPORT if os.path.isdir(passport) else passport
    if not os.path.lexists(path):
        allowed = "the passport.json of a student, or its folder"
        raise InputError(Problem("passport", str(path), allowed, "There is no such file."))
    link = _link_outside(path)
    if link is not None:
        return Verification(path, "", 0, (link,))
    try:
        document, as_written = read(path)
        stated = _stated(document, path.name)
    except InputError as error:
        listed = "a CycloneDX 1.6 passport"
        return Verification(path, "", 0, (Finding("malformed", path.name, listed, str(error)),))
    findings = (
        *_of_passport(document, stated, as_written, path.name),
        *_of_folder(stated, survey(path.parent, apart=path.name)),
    )
    return Verification(path, stated.student, len(stated.files), findings)


def _link_outside(path: Path) -> Finding | None:
    target, folder = (Path(os.path.realpath(place)) for place in (path, path.parent))
    if target.is_relative_to(folder):
        return None
    found = f"a link to {str(target)!r}, outside the folder"
    return Finding("escape", path.name, "a file of the folder", found)


def _stated(document: dict[str, Any], own_name: str) -> _Stated:
    metadata = member(document, "metadata", dict, "passport")
    student = member(metadata, "component", dict, "metadata")
    about = properties_of(metadata, "metadata")
    where = "metadata.component"
    stated = _Stated(
        student=member(student, "name", str, where),
        model_file=_property(student, "limbeck:model-file", where),
        model_sha256=sha256_of(student, where),
        files=_listed(document, own_name),
        recipe=member(about, "limbeck:recipe", str, "metadata.properties"),
        recipe_sha256=member(about, "limbeck:recipe-sha256", str, "metadata.properties"),
        content_sha256=_property(document, CONTENT, "passport"),
    )
    entry = stated.files.get(stated.model_file)
    if entry is None or entry.sha256 != stated.model_sha256:
        refuse(
            f"{where}: limbeck:model-file", stated.model_file, "a listed file, with the same hash"
        )
    return stated


def _listed(document: dict[str, Any], own_name: str) -> dict[str, FileHash]:
    files: dict[str, FileHash] = {}
    for number, item in enumerate(member(document, "components", list, "passport")):
        where = f"components[{number}]"
        if member(item, "type", str, where) != "file":
            continue
        name = member(item, "name", str, where)
        if name in files or name == own_name:
            refuse(
                f"{where}.name", name, "each file of the folder once, the passport not among them"
            )
        size = _property(item, "limbeck:size", where)
        if not re.fullmatch(r"[0-9]{1,18}", size):
            refuse(f"{where}: limbeck:size", size, "a number of bytes")
        files[name] = FileHash(sha256_of(item, where), int(size))
    return files


def _property(parent: dict[str, Any], name: str, where: str) -> str:
    return str(member(properties_of(parent, where), name, str, f"{where}.properties"))


def _of_passport(
    document: dict[str, Any], stated: _Stated, as_written: bool, own_name: str
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


def _of_folder(stated: _Stated, listing: Listing) -> Iterator[Finding]:
    for name, oddity in sorted(listing.oddities.items()):
        listed = str(stated.files.get(name, "nothing"))
        yield Finding("escape" if oddity.escapes else "odd", name, listed, oddity.what)
    for name in sorted(stated.files.keys() - listing.oddities.keys()):
        found = listing.files.get(name)
        if found == stated.files[name]:
            continue
        if found is not None:
            yield Finding("changed", name, str(stated.files[name]), str(found))
        elif _leads_out(name):
            listed = f"{stated.files[name]} outside the folder"
            yield Finding("escape", name, listed, "a name that was not followed")
        else:
            yield Finding("missing", name, str(stated.files[name]), "no such file")
    for name in sorted(listing.files.keys() - stated.files.keys()):
        yield Finding("added", name, "no such file", str(listing.files[name]))


def _leads_out(name: str) -> bool:
    # On every system's terms, since a passport may be read on another than it was written on.
    parts = re.split(r"[/\\]", name)
    return parts[0] == "" or ".." in parts or re.match(r"[A-Za-z]:", name) is not None
