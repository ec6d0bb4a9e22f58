"""Registries of names for recipes and the command line: one file per name in a folder.

A folder is the registry: adding `stages/prune.py` adds the stage `prune`, without other changes.
Files are listed without importing them, so listing is fast.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from functools import cache
from typing import Any

from limbeck.errors import check_choice


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


class Registry:
    """The objects of one kind, one file each, found by file name.

    Args:
        package: The folder, as a module path.
        kind: The name of the kind in messages ("stage", "task").
        attribute: The attribute of the module: a fixed name, or a function of the file's name.
        skip: Files of the folder that are not of this kind.
        folders: Whether each name is a sub-folder; files of the folder are then not of this kind.
        within: The module of the sub-folder that holds the attribute; default: its `__init__`.

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
    ) -> None:
        self.package = package
        self.kind = kind
        self._attribute = attribute
        self._skip = skip
        self._folders = folders
        self._within = within

    def names(self) -> list[str]:
        """Return the names, without importing the modules."""
        return [name for name in _modules(self.package, self._folders) if name not in self._skip]

    def load(self, name: str, *, where: str = "") -> Any:
        """Import the object of a name.

        Raises:
            InputError: The name is unknown; the message lists the nearest ones.
        """
        check_choice(name, self.names(), where=where or self.kind)
        path = ".".join(part for part in (self.package, name, self._within) if part)
        module = importlib.import_module(path)
        attribute = self._attribute if isinstance(self._attribute, str) else self._attribute(name)
        return getattr(module, attribute)
