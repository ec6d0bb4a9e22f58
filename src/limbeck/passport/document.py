"""The passport document: canonical JSON, content hash and strict parsing.

A passport may come from an untrusted source: every fault in it raises one `InputError`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from limbeck.core.files import read_bytes
from limbeck.errors import InputError, Problem
from limbeck.passport.folder import FileHash

if TYPE_CHECKING:
    from cyclonedx.validation.json import JsonStrictValidator

PASSPORT = "passport.json"
"""The passport's file name in a student folder."""

SIGNATURE = "model.sig"
"""The signature's file name in a student folder."""

CONTENT = "limbeck:content-sha256"  # the property that holds the hash of the passport's own content
LARGEST = 64 * 2**20  # the largest passport in bytes
MOST_ERRORS = 100  # the most schema violations that are collected
# The longest document, in characters, that is validated: more would take seconds.
SCHEMA_LARGEST = 2**20
SHA256 = re.compile(r"[0-9a-f]{64}")
NO_PASSPORT = "This is not a passport written by limbeck."
_KINDS: dict[type, str] = {
    dict: "an object", list: "a list", str: "a text", int: "a whole number", float: "a number",
}  # fmt: skip


def canonical(content: Any) -> str:
    r"""Write plain data as canonical JSON: sorted keys, no spaces, ASCII.

    Example:
        >>> canonical({"b": "é", "a": 1})
        '{"a":1,"b":"\\u00e9"}'
    """
    return json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)


def sha256(text: str) -> str:
    """Compute the SHA-256 of a text; lone surrogates, which JSON can hold, are allowed."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def render(passport: Mapping[str, Any]) -> str:
    """Write the passport as the text of its file.

    `verify` reports any other form of the same content as an edit.

    Example:
        >>> print(render({"specVersion": "1.6", "bomFormat": "CycloneDX"}), end="")
        {
          "bomFormat": "CycloneDX",
          "specVersion": "1.6"
        }
    """
    return json.dumps(passport, indent=2, sort_keys=True, allow_nan=False) + "\n"


def content_sha256(passport: Mapping[str, Any]) -> str:
    """Compute the hash of the passport's content, without the property that states this hash.

    This is a checksum, not a signature: it detects an edit only if the hash was not updated, and it
    does not show who wrote the passport.
    """
    others = [item for item in passport.get("properties", []) if item.get("name") != CONTENT]
    return sha256(canonical({**passport, "properties": others}))


def read(path: Path) -> tuple[dict[str, Any], bool]:
    """Read a passport's file; return the document, and whether its text is as `render` writes it.

    Raises:
        InputError: There is no such file, or it is not a JSON object that could be a passport.
    """
    raw = read_bytes(path, limit=LARGEST, allowed="the passport.json of a student, up to 64 MiB")
    try:
        document = strict_json(raw.decode("utf-8"))
        as_written = render(document).encode("ascii") == raw
    except RecursionError:
        refuse(str(path), "too many levels of nesting", "a CycloneDX document")
    except ValueError as error:
        refuse(str(path), str(error), "a CycloneDX document in JSON and UTF-8")
    if not isinstance(document, dict):
        refuse(str(path), f"a {type(document).__name__}", "a JSON object")
    for key, allowed in (("bomFormat", "CycloneDX"), ("specVersion", "1.6")):
        if document.get(key) != allowed:
            refuse(f"{path}: {key}", document.get(key), f'"{allowed}"')
    return document, as_written


def was_passport(path: Path) -> bool:
    """Return whether a file that is no valid passport has limbeck's properties: it is damaged."""
    with path.open("rb") as file:
        return b'"limbeck:' in file.read(LARGEST)


def refuse(where: str, given: object, allowed: str) -> NoReturn:
    """Raise an `InputError` about a passport."""
    raise InputError(Problem(_place(where), given, allowed, NO_PASSPORT))


def _place(where: str) -> str:
    # It may contain a foreign name, which must not control a terminal.
    return where if where.isprintable() else ascii(where)


def member(parent: Any, key: str, kind: type, where: str) -> Any:
    """Return `parent[key]`; raise an `InputError` if it is missing or of another type."""
    if not isinstance(parent, dict) or key not in parent:
        raise InputError(Problem.missing(_place(f"{where}.{key}"), NO_PASSPORT))
    value = parent[key]
    if not isinstance(value, kind):
        refuse(f"{where}.{key}", value, _KINDS[kind])
    return value


def properties_of(parent: Any, where: str) -> dict[str, str]:
    """Read a component's properties; raise an `InputError` if a name is repeated."""
    found: dict[str, str] = {}
    if not isinstance(parent, dict) or "properties" not in parent:
        return found
    for number, item in enumerate(member(parent, "properties", list, where)):
        name = member(item, "name", str, f"{where}.properties[{number}]")
        if name in found:
            refuse(f"{where}.properties[{number}].name", name, "each name once")
        found[name] = member(item, "value", str, f"{where}.properties[{number}]")
    return found


def sha256_of(component: Any, where: str) -> str:
    """Read the only SHA-256 of a component; raise an `InputError` if it has none or several."""
    hashes = [
        member(item, "content", str, f"{where}.hashes")
        for item in member(component, "hashes", list, where)
        if member(item, "alg", str, f"{where}.hashes") == "SHA-256"
    ]
    if len(hashes) != 1 or not SHA256.fullmatch(hashes[0]):
        refuse(f"{where}.hashes", hashes, "one SHA-256, of 64 hexadecimal digits in lower case")
    return str(hashes[0])


def json_of(text: str, kind: type, where: str) -> Any:
    """Parse JSON stored as a string; raise an `InputError` if it is of another type."""
    try:
        content = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, kind):
        refuse(where, text, f"{_KINDS[kind]} in JSON")
    return content


def strict_json(text: str | bytes) -> Any:
    """Parse JSON; raise a `ValueError` for duplicate keys, NaN and infinities."""
    return json.loads(text, object_pairs_hook=unique, parse_constant=_refuse_constant)


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Raise for duplicate keys of an object, as `object_pairs_hook` of `json.loads`."""
    # Of duplicate keys, some parsers use the first value and others the last.
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is repeated in one object")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


@dataclass(frozen=True)
class StatedFacts:
    """The facts that a passport states of the student and its files."""

    student: str
    id: str  # empty in a passport written before ids existed
    model_file: str
    model_sha256: str
    files: Mapping[str, FileHash]
    recipe: str
    recipe_sha256: str
    content_sha256: str


def read_stated(document: dict[str, Any], own_name: str) -> StatedFacts:
    """Read the verifiable facts of a passport, whose own file has the name `own_name`."""
    metadata = member(document, "metadata", dict, "passport")
    student = member(metadata, "component", dict, "metadata")
    about = properties_of(metadata, "metadata")
    where = "metadata.component"
    stated = StatedFacts(
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
        allowed = "a listed file, with the same hash"
        refuse(f"{where}: limbeck:model-file", stated.model_file, allowed)
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


def validate(passport: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Validate a passport with cyclonedx-python-lib, strictly.

    Returns:
        The first hundred schema violations; `None` if the library is not installed.

    Example:
        >>> validate({"bomFormat": "CycloneDX", "specVersion": "1.6"}) in ((), None)
        True
    """
    validator = _validator()
    if validator is None:
        return None
    try:
        text = json.dumps(passport)
        if len(text) > SCHEMA_LARGEST:
            return (f"$: {len(text):,} characters; at most {SCHEMA_LARGEST:,} are validated",)
        errors = validator.validate_str(text, all_errors=True) or ()
        # The library wraps jsonschema's error, whose own text quotes the whole schema.
        return tuple(
            f"{error.data.json_path}: {error.data.message[:200]}"
            for error in islice(errors, MOST_ERRORS)
        )
    except RecursionError:
        return ("$: too many levels of nesting",)


@cache
def _validator() -> JsonStrictValidator | None:
    try:
        from cyclonedx.exception import MissingOptionalDependencyException
        from cyclonedx.schema import SchemaVersion
        from cyclonedx.validation.json import JsonStrictValidator
    except ImportError:
        return None
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    try:
        validator.validate_str("{}")
    except MissingOptionalDependencyException:
        return None
    return validator
