"""The verifiable facts of a passport."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from limbeck.passport.document import (
    CONTENT,
    SIGNATURE,
    member,
    properties_of,
    refuse,
    sha256_of,
)
from limbeck.passport.folder import FileHash


@dataclass(frozen=True)
class Stated:
    """The facts that a passport states of the student and its files.

    Attributes:
        student: The student's name.
        id: Its id; empty in a passport written before ids existed.
        model_file: The exported file.
        model_sha256: That file's hash.
        files: Every file of the folder.
        recipe: The recipe, as canonical JSON.
        recipe_sha256: Its hash.
        content_sha256: The hash of the passport's own content.
    """

    student: str
    id: str
    model_file: str
    model_sha256: str
    files: Mapping[str, FileHash]
    recipe: str
    recipe_sha256: str
    content_sha256: str


def read_stated(document: dict[str, Any], own_name: str) -> Stated:
    """Read the verifiable facts of a passport.

    Args:
        document: The passport.
        own_name: The name of its own file.

    Raises:
        InputError: A required fact is missing.
    """
    metadata = member(document, "metadata", dict, "passport")
    student = member(metadata, "component", dict, "metadata")
    about = properties_of(metadata, "metadata")
    where = "metadata.component"
    stated = Stated(
        student=member(student, "name", str, where),
        id=properties_of(student, where).get("limbeck:id", ""),
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
        if name in files or name in (own_name, SIGNATURE):
            refuse(f"{where}.name", name, "each file of the folder once, without the passport")
        size = _property(item, "limbeck:size", where)
        if not re.fullmatch(r"[0-9]{1,18}", size):
            refuse(f"{where}: limbeck:size", size, "a number of bytes")
        files[name] = FileHash(sha256_of(item, where), int(size))
    return files


def _property(parent: dict[str, Any], name: str, where: str) -> str:
    return str(member(properties_of(parent, where), name, str, f"{where}.properties"))
