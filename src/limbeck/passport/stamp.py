"""The passport's short form, carried in the header of the student's own files.

A model file that has lost its folder still says whose it is: `limbeck.passport` in the metadata of
a safetensors file, or in the `metadata_props` of an ONNX file. The stamp is written before the
passport is built, since the passport hashes the file with its stamp; what the stamp states of the
weights is a hash of the file without it.
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
"""The name that the stamp goes by in a file's metadata."""

_IDS = uuid.UUID("0b1f7a0e-8a53-5b52-9a2e-5d1c3f6b7d42")


@dataclass(frozen=True)
class Stamp:
    """A passport in a few lines.

    Attributes:
        name: The student's name.
        id: The student's id, as its passport states it: the same facts and weights, the same id.
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
        """Write the stamp as it stands in a file."""
        content = {**vars(self), "roots": [list(root) for root in self.roots]}
        return canonical(content)


def stamp_folder(facts: PassportFacts) -> tuple[str, ...]:
    """Write the stamp into every safetensors and ONNX file of a student folder.

    Comes before `build_passport`, with the same facts. Done again, it changes nothing.

    Args:
        facts: What the passport will state.

    Returns:
        The files that were stamped, by their path in the folder.

    Raises:
        InputError: A file is not what its suffix says, or the facts cannot be stated.
        LimbeckError: A file could not be written.
    """
    student = student_id(facts)
    stamped = []
    for name in sorted(survey(facts.folder, apart=(PASSPORT, SIGNATURE)).files):
        path = facts.folder / name
        if path.is_symlink():
            continue  # what it leads to is stamped under its own name
        container = open_container(path, KEY)
        if container is not None:
            container.write(_stamp(facts, student, container.bare_sha256()).text())
            stamped.append(name)
    return tuple(stamped)


def read_stamp(path: Path) -> Stamp | None:
    """Read the stamp of a file; `None` if it carries none.

    Raises:
        InputError: The file is not what its suffix says, or its stamp is none.
    """
    container = open_container(path, KEY)
    return None if container is None or container.note is None else parse(container.note, path.name)


def bare_sha256(path: Path) -> str:
    """Hash a file without its stamp; of a file that can carry none, all of it.

    Raises:
        InputError: The file cannot be read.
    """
    try:
        container = open_container(path, KEY)
    except InputError:  # whatever it is, it carries no stamp
        container = None
    return hash_file(path).sha256 if container is None else container.bare_sha256()


def student_id(facts: PassportFacts) -> str:
    """Give a student's id: what it is called, taught by, and its weights."""
    stated = {
        "name": facts.name,
        "version": facts.version,
        "teachers": sorted([model.name, model.digest] for model in facts.teachers),
        "weights-sha256": bare_sha256(facts.folder / facts.model_file),
    }
    return str(uuid.uuid5(_IDS, canonical(stated)))


def roots_of(teachers: Iterable[ModelFacts]) -> tuple[tuple[str, str], ...]:
    """Name the root teachers: those of a lineage that descend from none.

    Example:
        >>> roots_of([ModelFacts("base", ancestors=(ModelFacts("large", digest="a" * 4),))])
        (('large', 'aaaa'),)
    """
    eldest = (model for model in eldest_first(teachers) if not model.ancestors)
    return tuple(sorted({(model.name, model.digest) for model in eldest}))


def parse(text: str, where: str) -> Stamp:
    """Read a stamp from its text.

    Raises:
        InputError: It is none.

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
    """Hold the stamps of a folder's files against its passport.

    A file that is not what its suffix says carries no stamp, and is no finding here.

    Args:
        folder: The student folder.
        files: The files to look at, by their path in it.
        student: The student, as its passport describes it.
        stated: What else the passport states.
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
