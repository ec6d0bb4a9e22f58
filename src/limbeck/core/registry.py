"""Registries of names for recipes and the command line.

The names of a kind are built-in, or added by other packages through entry points of the kind's
group, or the user's own objects, `python:file.py:object`. A folder is the registry of built-in
ones: adding `stages/prune.py` adds the stage `prune`, without other changes. Files and plug-ins are
listed without importing them, so listing is fast.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

from limbeck.core import imports
from limbeck.core.plugins import Plugin, plugins
from limbeck.errors import InputError, Problem, check_choice, did_you_mean

PYTHON = "python:"
"""The prefix of a name of the user's own object in a recipe."""

OWN = f"{PYTHON}file.py:object"
BUILTIN = "built-in"


@cache
def _modules(package: str, folders: bool) -> tuple[str, ...]:
    path = importlib.import_module(package).__path__
    names = (one.name for one in pkgutil.iter_modules(path) if one.ispkg or not folders)
    return tuple(sorted(name for name in names if not name.startswith("_")))


def camel_case(name: str) -> str:
    """Convert a file's name to the name of its class.

    Example:
        >>> camel_case("image_classification")
        'ImageClassification'
    """
    return "".join(part.capitalize() for part in name.split("_"))


def is_own(name: str) -> bool:
    """Return whether a name is that of the user's own object.

    Example:
        >>> is_own("python:mine.py:Mine"), is_own("offline")
        (True, False)
    """
    return name.startswith(PYTHON)


class Names(ABC):
    """The objects of one kind by name: built-in, of plug-ins, or the user's own.

    Args:
        kind: The name of the kind in messages ("stage", "task").
        group: The group of entry points by which packages add names.
        own: Whether `python:file.py:object` is a name.
    """

    def __init__(self, *, kind: str, group: str, own: bool = False) -> None:
        self.kind, self.group, self.own = kind, group, own

    @abstractmethod
    def builtin(self) -> list[str]:
        """Return the built-in names, without importing the objects."""

    @abstractmethod
    def _builtin(self, name: str) -> Any:
        """Import the object of a built-in name."""

    @abstractmethod
    def _inside(self, module: ModuleType, name: str) -> Any:
        """Return the object of a plug-in that names a module; None if the module has none."""

    def plugins(self) -> dict[str, Plugin]:
        """Return the plug-ins by name, without importing them.

        Raises:
            InputError: A name is added twice, or is built-in; the message names both packages.
        """
        return plugins(self.group, kind=self.kind, builtin=self.builtin())

    def names(self) -> list[str]:
        """Return the built-in names and those of plug-ins, without importing the objects."""
        return sorted([*self.builtin(), *self.plugins()])

    def origins(self) -> dict[str, str]:
        """Return the origin of each name: `built-in`, or the package and its version."""
        added = {name: one.origin for name, one in self.plugins().items()}
        return dict(sorted((dict.fromkeys(self.builtin(), BUILTIN) | added).items()))

    def check(self, name: str, *, where: str = "") -> None:
        """Check that a name exists; the user's own is checked for its form only.

        Raises:
            InputError: The name is unknown; the message lists the nearest ones.
        """
        if self.own and is_own(name):
            with imports.deferred():
                imports.find(name.removeprefix(PYTHON), where=where or self.kind)
            return
        allowed = self.names()
        if name not in allowed and self.own:
            listed = f"{', '.join(allowed)}, or {OWN}"
            raise InputError(Problem(where or self.kind, name, listed, did_you_mean(name, allowed)))
        check_choice(name, allowed, where=where or self.kind)

    def load(self, name: str, *, where: str = "") -> Any:
        """Import the object of a name; inside of `imports.deferred`, not the user's own.

        Raises:
            InputError: The name is unknown, or cannot be imported.
        """
        self.check(name, where=where)
        if self.own and is_own(name):
            return self._own(name.removeprefix(PYTHON), where or self.kind)
        plugin = self.plugins().get(name)
        if plugin is None:
            return self._builtin(name)
        return self._of_plugin(plugin, where or self.kind)

    def code_of(self, name: str) -> str:
        """Return `module:object` of a name that is not built-in, for its hash; else an empty text.

        Example:
            >>> from limbeck.tasks import TASKS
            >>> TASKS.code_of("image_classification"), TASKS.code_of("python:mine.py:Mine")
            ('', 'mine.py:Mine')
        """
        if self.own and is_own(name):
            return name.removeprefix(PYTHON)
        plugin = self.plugins().get(name)
        return "" if plugin is None else plugin.value

    def _own(self, name: str, where: str) -> Any:
        return imports.find(name, where=where)

    def _of_plugin(self, plugin: Plugin, where: str) -> Any:
        found = plugin.load(where=where)
        if not isinstance(found, ModuleType):
            return found
        inside = self._inside(found, plugin.name)
        if inside is None:
            given = f"{plugin.name} of {plugin.origin} ({plugin.value})"
            fix = "Name the object in the entry point: package.module:object."
            raise InputError(Problem(where, given, f"a module that has a {self.kind}", fix))
        return inside


class Registry(Names):
    """The objects of one kind, one file each, found by file name.

    Args:
        package: The folder, as a module path.
        kind: The name of the kind in messages ("stage", "task").
        attribute: The attribute of the module: a fixed name, or a function of the file's name.
        skip: Files of the folder that are not of this kind.
        folders: Whether each name is a sub-folder; files of the folder are then not of this kind.
        within: The module of the sub-folder that holds the attribute; default: its `__init__`.
        group: The group of entry points by which packages add names; default: `limbeck.` and the
            name of the folder.
        own: Whether `python:file.py:object` is a name.

    Example:
        >>> tasks = Registry("limbeck.tasks", kind="task", attribute=camel_case)
        >>> "image_classification" in tasks.names()
        True
        >>> tasks.load("image_clasification")
        Traceback (most recent call last):
        ...
        limbeck.errors.InputError: task: got 'image_clasification'; ... did you mean ...
    """

    def __init__(
        self,
        package: str,
        *,
        kind: str,
        attribute: str | Callable[[str], str],
        skip: tuple[str, ...] = (),
        folders: bool = False,
        within: str = "",
        group: str = "",
        own: bool = False,
    ) -> None:
        super().__init__(kind=kind, group=group or f"limbeck.{package.rpartition('.')[2]}", own=own)
        self.package = package
        self._attribute = attribute
        self._skip = skip
        self._folders = folders
        self._within = within

    def builtin(self) -> list[str]:
        """Return the names of the files, without importing them."""
        return [name for name in _modules(self.package, self._folders) if name not in self._skip]

    def _attribute_of(self, name: str) -> str:
        return self._attribute if isinstance(self._attribute, str) else self._attribute(name)

    def _builtin(self, name: str) -> Any:
        path = ".".join(part for part in (self.package, name, self._within) if part)
        return getattr(importlib.import_module(path), self._attribute_of(name))

    def _inside(self, module: ModuleType, name: str) -> Any:
        if self._within:
            module = importlib.import_module(f"{module.__name__}.{self._within}")
        return getattr(module, self._attribute_of(name), None)


class Catalogue(Names):
    """The objects of one kind in the `__all__` of a package.

    Args:
        package: The package, as a module path.
        kind: The name of the kind in messages.
        group: The group of entry points by which packages add names.
        own: Whether `python:file.py:object` is a name.

    Example:
        >>> losses = Catalogue("limbeck.losses", kind="loss", group="limbeck.losses")
        >>> losses.load("dkd").__name__
        'dkd'
    """

    def __init__(self, package: str, *, kind: str, group: str, own: bool = False) -> None:
        super().__init__(kind=kind, group=group, own=own)
        self.package = package

    def builtin(self) -> list[str]:
        """Return `__all__` of the package."""
        return list(importlib.import_module(self.package).__all__)

    def _builtin(self, name: str) -> Any:
        return getattr(importlib.import_module(self.package), name)

    def _inside(self, module: ModuleType, name: str) -> Any:
        return getattr(module, name, None)
