"""Overrides of plain data at dotted paths, for `--set` and recipe profiles."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from typing import Any

from limbeck.errors import InputError, Problem, did_you_mean, gathering
from limbeck.pipeline.reading import DEEPEST, parse

LONGEST_PATH = 1000
"""Maximum number of characters of a dotted path."""


def parse_override(text: str) -> tuple[str, Any]:
    """Parse `path=value`; the value is YAML.

    Raises:
        InputError: There is no `=`, or a part of the path is empty.

    Example:
        >>> parse_override("stages.distill.epochs=5")
        ('stages.distill.epochs', 5)
    """
    path, equals, value = text.partition("=")
    path = path.strip()
    parts = path.split(".") if len(path) <= LONGEST_PATH else []
    if not equals or not all(parts) or not 0 < len(parts) <= DEEPEST:
        allowed = (
            "path=value, such as stages.distill.epochs=5; "
            f"at most {LONGEST_PATH} characters and {DEEPEST} parts"
        )
        raise InputError(Problem("--set", text[:LONGEST_PATH], allowed))
    return path, parse(value, where=f"--set {path}")


def apply_profile(content: Mapping[str, Any], profile: str) -> dict[str, Any]:
    """Apply one of a recipe's own profiles, and record its name.

    The result has no profiles: applied twice, one would undo later overrides.

    Raises:
        InputError: The recipe has no such profile, or a path in it does not exist.

    Example:
        >>> apply_profile({"seeds": [0, 1], "profiles": {"smoke": {"seeds": [0]}}}, "smoke")
        {'seeds': [0], 'profile': 'smoke'}
    """
    changed = copy.deepcopy(dict(content))
    profiles = changed.pop("profiles", None) or {}
    changed["profile"] = profile
    if profile == "default":
        return changed
    if not isinstance(profiles, dict) or profile not in profiles:
        allowed = ["default", *(profiles if isinstance(profiles, dict) else ())]
        fix = did_you_mean(profile, allowed)
        raise InputError(Problem("profile", profile, ", ".join(allowed), fix))
    settings = profiles[profile]
    if not isinstance(settings, dict):
        needed = "a mapping of dotted paths to values"
        raise InputError(Problem(f"profiles.{profile}", settings, needed))
    put_all(changed, settings, where=f"profiles.{profile}")
    return changed


def put_all(content: dict[str, Any], settings: Mapping[str, Any], *, where: str) -> None:
    """Set the values at several dotted paths.

    Raises:
        InputError: Some paths do not exist; all are reported.
    """
    problems: list[Problem] = []
    for path, value in settings.items():
        with gathering(problems):
            put(content, path, copy.deepcopy(value), where=where)
    if problems:
        raise InputError(*problems)


def put(content: dict[str, Any], path: str, value: Any, *, where: str = "--set") -> None:
    """Set the value at a dotted path.

    List entries are addressed by index, or by name where an entry is one name with its settings, as
    stages and terms are, and the name is unique.

    Raises:
        InputError: The path goes through a scalar, or to an entry that does not exist.

    Example:
        >>> recipe = {"stages": [{"teach": {"epochs": 20}}]}
        >>> put(recipe, "stages.teach.epochs", 5)
        >>> put(recipe, "stages.0.batch_size", 32)
        >>> recipe
        {'stages': [{'teach': {'epochs': 5, 'batch_size': 32}}]}
    """
    place = f"{where} {path}"
    holder: Any = content
    parts = path.split(".")
    for part, following in itertools.pairwise(parts):
        holder, key = _located(holder, part, place)
        if holder[key] is None:
            holder[key] = {}
        holder = holder[key]
        if _is_number(part) and _is_entry(holder) and following not in holder:
            holder = _settings(holder)
    holder, key = _located(holder, parts[-1], place)
    holder[key] = value


def _located(holder: Any, part: str, place: str) -> tuple[Any, Any]:
    """Return the container of a part, and its key or index; a missing key is created."""
    if isinstance(holder, dict):
        holder.setdefault(part, None)
        return holder, part
    if not isinstance(holder, list):
        raise InputError(Problem(place, holder, f"something with parts, before .{part}"))
    if _is_number(part) and int(part) < len(holder):
        return holder, int(part)
    named = [item for item in holder if isinstance(item, dict) and part in item]
    if len(named) == 1:
        return named[0], part
    names = [str(name) for item in holder if _is_entry(item) for name in item]
    fix = "Give a number instead." if named else did_you_mean(part, names)
    given = f"{part}, {len(named)} times" if named else part
    raise InputError(Problem(place, given, ", ".join(names) or "a number", fix))


def _is_number(part: str) -> bool:
    """Return whether a text is a short ASCII decimal: `int` accepts other digits, or raises."""
    return part.isascii() and part.isdigit() and len(part) < 10


def _is_entry(item: Any) -> bool:
    return isinstance(item, dict) and len(item) == 1


def _settings(entry: dict[str, Any]) -> Any:
    """Return an entry's settings, created if missing."""
    (name,) = entry
    if entry[name] is None:
        entry[name] = {}
    return entry[name]
