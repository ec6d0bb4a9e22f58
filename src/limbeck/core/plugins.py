"""Plug-ins: names that installed packages add by entry points, listed without importing them."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path

from limbeck.core import fingerprint, user_code
from limbeck.errors import InputError, Problem, did_you_mean

PREFIX = "limbeck."


@dataclass(frozen=True)
class Plugin:
    """A name that an installed package adds, by an entry point of a group.

    Attributes:
        name: The name in recipes.
        group: The group, such as `limbeck.tasks`.
        value: `package.module:object`, or a module that is like a built-in file.
        package: The package.
        version: The package's version.
        summary: The package's own one-line description.
    """

    name: str
    group: str
    value: str
    package: str
    version: str
    summary: str = ""

    @property
    def origin(self) -> str:
        """Return the package and its version."""
        return f"{self.package} {self.version}"

    def load(self, *, where: str) -> object:
        """Import the object, or the module.

        Raises:
            InputError: The package cannot be imported, or has no such object.
        """
        module_name, _, path = self.value.partition(":")
        given = f"{self.name} of {self.origin} ({self.value})"
        try:
            found: object = importlib.import_module(module_name)
        # Another package's module may raise any exception on import.
        except Exception as error:
            fix = f"{type(error).__name__}: {error}"
            raise InputError(
                Problem(where, given, "a plug-in that can be imported", fix)
            ) from error
        for part in filter(None, path.split(".")):
            names = [one for one in vars(found) if not one.startswith("_")]
            if not hasattr(found, part):
                fix = did_you_mean(part, names)
                raise InputError(Problem(where, given, f"an object of {module_name}", fix))
            found = getattr(found, part)
        return found

    def fingerprint(self) -> list[tuple[str, str]]:
        """Hash the package's version and source, and the user's modules that it imports."""
        module_name = self.value.partition(":")[0]
        return [
            (self.package, self.version),
            *_source_hashes(module_name.partition(".")[0]),
            *user_code.fingerprint_of(module_name),
        ]


def plugins(group: str, *, kind: str, builtin: Collection[str]) -> dict[str, Plugin]:
    """Return the plug-ins of a group by name, without importing them.

    Args:
        group: The group of the entry points, such as `limbeck.tasks`.
        kind: The name of the kind, for messages.
        builtin: The built-in names of the kind.

    Raises:
        InputError: A name is added twice, or is built-in; the message names both packages.

    Example:
        >>> plugins("limbeck.no_such_group", kind="task", builtin=[])
        {}
    """
    found: dict[str, Plugin] = {}
    problems = []
    for one in _installed(tuple(sys.path)):
        if one.group != group:
            continue
        other = "limbeck itself" if one.name in builtin else ""
        if one.name in found:
            other = found[one.name].origin
        if other:
            given = f"{one.name} of {one.origin}, which {other} has too"
            fix = f"Uninstall {one.package}, or rename its entry point of the group {group}."
            problems.append(Problem(kind, given, "each name from one package", fix))
        found[one.name] = one
    if problems:
        raise InputError(*problems)
    return found


def fingerprint_of(value: str) -> list[tuple[str, str]]:
    """Hash the plug-in with that entry point's value; return an empty list if there is none.

    Example:
        >>> fingerprint_of("math:sqrt")
        []
    """
    named = [one for one in _installed(tuple(sys.path)) if one.value == value]
    return named[0].fingerprint() if named else []


@cache
def _installed(path: tuple[str, ...]) -> tuple[Plugin, ...]:
    """Return the plug-ins of all groups on a search path, sorted by name and package."""
    from importlib.metadata import distributions

    found: dict[tuple[str, str, str], Plugin] = {}
    # As on import, the first distribution of a name on the path hides the others.
    seen: set[str] = set()
    installed = list(distributions(path=list(path)))
    if not any(f"[{PREFIX}" in (one.read_text("entry_points.txt") or "") for one in installed):
        return ()  # the names of all packages take longer to read
    for one in installed:
        about = one.metadata
        package = str(about["Name"]) if about and "Name" in about else ""
        known = package.lower().replace("_", "-")
        if not known or known in seen:  # the name is missing if it is only half uninstalled
            continue
        seen.add(known)
        for entry in one.entry_points:
            if entry.group.startswith(PREFIX):
                summary = str(about["Summary"]) if "Summary" in about else ""
                found[entry.name, entry.group, package] = Plugin(
                    entry.name, entry.group, entry.value.strip(), package, one.version, summary
                )
    return tuple(found[key] for key in sorted(found))


def _source_hashes(top: str) -> list[tuple[str, str]]:
    """Hash the Python files of a top-level package or module, found without importing it."""
    spec = PathFinder.find_spec(top)
    if spec is None:
        return []
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    files = [
        (path, path.relative_to(root).as_posix()) for root in folders for path in root.rglob("*.py")
    ]
    if not folders and spec.origin:
        files = [(Path(spec.origin), Path(spec.origin).name)]
    return sorted((name, fingerprint.of_file(path)) for path, name in files)
