"""Names that come from recipes and the command line, each a file in one folder.

A folder is the registry: adding `stages/prune.py` adds the stage `prune`, and nothing else has to
be told. Files are listed without importing them, so a list of names costs nothing.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from functools import cache
from typing import Any

from limbeck.errors import InputError, Problem, did_you_mean


@cache
def _modules(package: str) -> tuple[str, ...]:
    path = importlib.import_module(package).__path__
    names = (module.name for module in pkgutil.iter_modules(path))
    return tuple(sorted(name for name in names if not name.startswith("_")))


def camel_case(name: str) -> str:
    """Turn a file's name into the name of the class that it holds.

    Example:
        >>> camel_case("image_classification")
        'ImageClassification'
    """
    return "".join(part.capitalize() for part in name.split("_"))


class Registry:
    """The things of one kind, one file a thing, found by the file's name.

    Args:
        package: The folder, as a module path.
        kind: What the things are called in a message ("stage", "task").
        attribute: What to take from a file: a fixed name, or a function of the file's name.
        skip: Files of the folder that hold no such thing.

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
    ) -> None:
        self.package = package
        self._kind = kind
        self._attribute = attribute
        self._skip = skip

    def names(self) -> list[str]:
        """List the names, without importing what they stand for."""
        return [name for name in _modules(self.package) if name not in self._skip]

    def load(self, name: str, *, where: str = "") -> Any:
        """Import what a name stands for.

        Raises:
            InputError: There is no such name; the nearest ones are named.
        """
        if name not in self.names():
            allowed = self.names()
            raise InputError(
                Problem(where or self._kind, name, ", ".join(allowed), did_you_mean(name, allowed))
            )
        module = importlib.import_module(f"{self.package}.{name}")
        attribute = self._attribute if isinstance(self._attribute, str) else self._attribute(name)
        return getattr(module, attribute)
