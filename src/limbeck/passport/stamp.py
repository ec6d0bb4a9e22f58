"""Embedded metadata: the passport's short form in the header of the student's own files.

A model file separated from its folder still names its origin: `limbeck.passport` in the metadata of
a safetensors file, or in the `metadata_props` of an ONNX file. The stamp is written before the
passport is built, since the passport hashes the file with its stamp; the stamp's own hash of the
weights is that of the file without it.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limbeck.errors import InputError, Problem
from limbeck.passport.containers import open_container
from limbeck.passport.document import (
    PASSPORT,
    SIGNATURE,
    canonical,
    member,
    no_constant,
    unique,
)
from limbeck.passport.facts import ModelFacts, PassportFacts
from limbeck.passport.finding import Finding
from limbeck.passport.folder import hash_file, survey
from limbeck.passport.licences import spelled
from limbeck.passport.lineage import eldest_first
from limbeck.passport.risk import inherit
from limbeck.passport.stated import Stated

KEY = "limbeck.passport"
"""The stamp's key in a file's metadata."""

_IDS = uuid.UUID("0b1f7a0e-8a53-5b52-9a2e-5d1c3f6b7d42")


@dataclass(frozen=True)
class Stamp:
    """A passport's short form.

    Attributes:
        name: The student's name.
        id: The student's id, as in its passport: the same facts and weights have the same id.
        roots: Each root teacher's name and the SHA-256 of its weights (empty when not stated).
        licence: The student's licence; empty when not stated.
        risk: Its class of risk; empty when not stated.
        weights_sha256: The hash of this file without the stamp.
    """

    name: str
    id: str
    roots: tuple[tuple[str, str], ...]
    licence: str
    risk: str
    weights_sha256: str

    def text(self) -> str:
        """Write the stamp as the text stored in a file."""
        content = {**vars(self), "roots": [list(root) for root in self.roots]}
        return canonical(content)


def stamp_folder(facts: PassportFacts) -> tuple[str, ...]:
    """Write the stamp into every safetensors and ONNX file of a student folder.

    Call it before `build_passport`, with the same facts. It is idempotent.

    Args:
        facts: The facts of the passport.

    Returns:
        The stamped files, by their path in the folder.

    Raises:
        InputError: A file is not what its suffix claims, or the facts are invalid.
        LimbeckError: A file could not be written.
    """
    student = student_id(facts)
    stamped = []
    for name in sorted(survey(facts.folder, apart=(PASSPORT, SIGNATURE)).files):
        path = facts.folder / name
        if path.is_symlink():
            continue  # the link's target is stamped under its own name
        container = open_container(path, KEY)
        if container is not None:
            container.write(_stamp(facts, student, container.bare_sha256()).text())
            stamped.append(name)
    return tuple(stamped)


def read_stamp(path: Path) -> Stamp | None:
    """Read the stamp of a file; return `None` if it carries none.

    Raises:
        InputError: The file is not what its suffix claims, or its stamp is invalid.
    """
    container = open_container(path, KEY)
    return None if container is None or container.note is None else parse(container.note, path.name)


def bare_sha256(path: Path) -> str:
    """Compute the hash of a file without its stamp; of all its bytes if it cannot carry one.

    Raises:
        InputError: The file cannot be read.
    """
    try:
        container = open_container(path, KEY)
    except InputError:  # an invalid file carries no stamp
        container = None
    return hash_file(path).sha256 if container is None else container.bare_sha256()


def student_id(facts: PassportFacts) -> str:
    """Compute a student's id from its name, its teachers and its weights."""
    stated = {
        "name": facts.name,
        "version": facts.version,
        "teachers": sorted([model.name, model.digest] for model in facts.teachers),
        "weights-sha256": bare_sha256(facts.folder / facts.model_file),
    }
    return str(uuid.uuid5(_IDS, canonical(stated)))


def roots_of(teachers: Iterable[ModelFacts]) -> tuple[tuple[str, str], ...]:
    """Return the root teachers: the models of a lineage without ancestors.

    Example:
        >>> roots_of([ModelFacts("base", ancestors=(ModelFacts("large", digest="a" * 4),))])
        (('large', 'aaaa'),)
    """
    eldest = (model for model in eldest_first(teachers) if not model.ancestors)
    return tuple(sorted({(model.name, model.digest) for model in eldest}))


def parse(text: str, where: str) -> Stamp:
    """Parse a stamp from its text.

    Raises:
        InputError: It is not a stamp.

    Example:
        >>> stamp = Stamp("digits", "1", (("large", ""),), "MIT", "", "b" * 64)
        >>> parse(stamp.text(), "model.onnx") == stamp
        True
    """
    try:
        content = json.loads(text, object_pairs_hook=unique, parse_constant=no_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(Problem(f"{where}: {KEY}", text, "an object in JSON")) from error
    texts = {
        key: str(member(content, key, str, KEY))
        for key in ("name", "id", "licence", "risk", "weights_sha256")
    }
    roots = tuple(_root(item, where) for item in member(content, "roots", list, KEY))
    stamp = Stamp(roots=roots, **texts)
    if text != stamp.text():
        raise InputError(Problem(f"{where}: {KEY}", text, "a stamp as limbeck writes it"))
    return stamp


def of_stamps(
    folder: Path, files: Iterable[str], student: ModelFacts, stated: Stated
) -> Iterator[Finding]:
    """Compare the stamps of a folder's files with its passport.

    A file that is not what its suffix claims carries no stamp, and is no finding here.

    Args:
        folder: The student folder.
        files: The files to check, by their path in it.
        student: The student, as described in its passport.
        stated: The other facts of the passport.
    """
    expected = {
        "name": student.name,
        "id": stated.id,
        "roots": roots_of(student.ancestors),
        "licence": student.licence,
        "risk": student.risk,
    }
    for name in sorted(files):
        try:
            container = open_container(folder / name, KEY)
        except InputError:
            continue
        if container is None or container.note is None:
            continue
        try:
            found = vars(parse(container.note, "header"))
        except InputError as error:
            yield Finding("stamp", name, "a stamp as limbeck writes it", str(error))
            continue
        held = {**expected, "weights_sha256": container.bare_sha256()}
        for key, value in held.items():
            if found[key] != value:
                yield Finding(
                    "stamp", name, f"{key} {value!r}", f"{key} {found[key]!r} in its header"
                )


def _root(item: Any, where: str) -> tuple[str, str]:
    if not (
        isinstance(item, list) and len(item) == 2 and all(isinstance(one, str) for one in item)
    ):
        raise InputError(Problem(f"{where}: {KEY}: roots", item, "a name and a hash"))
    return item[0], item[1]


def _stamp(facts: PassportFacts, student: str, weights: str) -> Stamp:
    family = eldest_first(facts.teachers)
    return Stamp(
        name=facts.name,
        id=student,
        roots=roots_of(facts.teachers),
        licence=spelled(facts.licence),
        risk=inherit(facts.risk, family, justification=facts.risk_justification).risk,
        weights_sha256=weights,
    )
