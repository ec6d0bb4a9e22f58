"""Callables that a user names: `package.module:function` or `file.py:function`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from limbeck.errors import InputError, Problem, did_you_mean

FORMS = "package.module:function or path/to/file.py:function"


def find(name: str, *, where: str) -> Callable[..., Any]:
    """Import what a name stands for.

    Args:
        name: `package.module:function`, or `file.py:function` with the file relative to the
            current folder.
        where: The place in the recipe, for messages.

    Raises:
        InputError: The name has another form, the module or file is not there or cannot be
            imported, or it holds no such callable.

    Example:
        >>> find("math:sqrt", where="model.name")(9.0)
        3.0
        >>> find("math:sqroot", where="model.name")
        Traceback (most recent call last):
        ...
        limbeck.errors.InputError: model.name: got 'math:sqroot'; allowed: ... "sqrt" ...
    """
    module_name, colon, attribute = name.rpartition(":")
    if not colon or not module_name or not attribute:
        raise InputError(Problem(where, name, FORMS))
    module = _import(module_name, name, where)
    found = getattr(module, attribute, None)
    if not callable(found):
        public = [key for key, value in vars(module).items() if callable(value) and key[0] != "_"]
        hint = did_you_mean(attribute, public)
        raise InputError(Problem(where, name, f"a callable that {module_name} holds", hint))
    result: Callable[..., Any] = found
    return result


def file_of(name: str) -> Path | None:
    """Give the file of a `file.py:function` name; None for a module's.

    Example:
        >>> file_of("nets/mine.py:build").name, file_of("nets.mine:build")
        ('mine.py', None)
    """
    module_name = name.rpartition(":")[0]
    return Path(module_name) if module_name.endswith(".py") else None


def _import(module_name: str, name: str, where: str) -> ModuleType:
    path = file_of(name)
    if path is not None and not path.is_file():
        raise InputError(
            Problem(where, name, f"a file that exists; no such file: {path.absolute()}")
        )
    try:
        return _import_file(path) if path is not None else importlib.import_module(module_name)
    # Whatever the user's own module raises while it is imported is what the user has to hear.
    except Exception as error:
        cause = f"{type(error).__name__}: {error}"
        raise InputError(Problem(where, name, f"{FORMS} that can be imported", cause)) from error


def _import_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"_limbeck_user_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickling look a module up by its name while it is executed.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
