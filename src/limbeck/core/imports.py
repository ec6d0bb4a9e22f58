"""Callables by name: `package.module:function` or `file.py:function`."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import Any

from limbeck.core import user_code
from limbeck.errors import InputError, Problem, did_you_mean

FORMS = "package.module:function or path/to/file.py:function"
_DEFERRED: ContextVar[bool] = ContextVar("deferred", default=False)


@contextmanager
def deferred() -> Iterator[None]:
    """Disable imports within the block: `find` only checks the form of a name."""
    token = _DEFERRED.set(True)
    try:
        yield
    finally:
        _DEFERRED.reset(token)


def are_deferred() -> bool:
    """Return whether imports are deferred.

    Example:
        >>> with deferred():
        ...     are_deferred()
        True
    """
    return _DEFERRED.get()


def _unresolved(student: Any, teacher: Any, **arguments: Any) -> Any:
    """Stand in for a callable whose import is deferred; never called."""
    raise RuntimeError("a callable whose import was deferred")


def find(name: str, *, where: str) -> Callable[..., Any]:
    """Import a callable by name; inside of `deferred`, only check the form of the name.

    Args:
        name: `package.module:function`, or `file.py:function` with the file relative to the
            current folder.
        where: The key in the recipe, for messages.

    Raises:
        InputError: The name has an invalid form, the module or file is missing or cannot be
            imported, or it has no such callable.

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
    if are_deferred():
        return _unresolved
    module = _import(module_name, name, where)
    found = getattr(module, attribute, None)
    if not callable(found):
        public = [key for key, value in vars(module).items() if callable(value) and key[0] != "_"]
        hint = did_you_mean(attribute, public)
        raise InputError(Problem(where, name, f"a callable that {module_name} holds", hint))
    return found


def file_of(name: str) -> Path | None:
    """Return the file of a `file.py:function` name; None for a module's.

    Example:
        >>> file_of("nets/mine.py:build").name, file_of("nets.mine:build")
        ('mine.py', None)
    """
    module_name = name.rpartition(":")[0]
    return Path(module_name) if module_name.endswith(".py") else None


def local_modules(name: str) -> dict[str, Path]:
    """Return the user's modules that a callable's module imports; see `user_code.modules_of`.

    Args:
        name: An importable name, as for `find`.

    Returns:
        The file of each module by its dotted name; without the file of a `file.py:function` name,
        with the module of a `module:function` name.

    Example:
        >>> local_modules("json.decoder:JSONDecoder")
        {}
    """
    path = file_of(name)
    found = user_code.modules_of(_module_name(name), path)
    if path is not None:
        found.pop(user_code.name_of(path), None)
    return {dotted: Path(file) for dotted, file in sorted(found.items())}


def fingerprint_of(name: str) -> list[tuple[str, str]]:
    """Hash the dependencies of an imported callable: its module, and what that imports and reads.

    Example:
        >>> fingerprint_of("math:sqrt")
        []
    """
    return user_code.fingerprint_of(_module_name(name))


def _module_name(name: str) -> str:
    path = file_of(name)
    return name.rpartition(":")[0] if path is None else user_code.name_of(path)


def _import(module_name: str, name: str, where: str) -> ModuleType:
    path = file_of(name)
    if path is not None and not path.is_file():
        allowed = f"a file that exists; no such file: {path.absolute()}"
        raise InputError(Problem(where, name, allowed))
    try:
        return user_code.import_file(path) if path else user_code.import_module(module_name)
    # A user's module may raise any exception on import, which is shown to the user.
    except Exception as error:
        cause = f"{type(error).__name__}: {error}"
        raise InputError(Problem(where, name, f"{FORMS} that can be imported", cause)) from error


def require(module: str, *, extra: str) -> ModuleType:
    """Import an optional module; raise an error with the extra to install if it is missing.

    Example:
        >>> require("no_such_module", extra="vision")
        Traceback (most recent call last):
        ...
        limbeck.errors.InputError: no_such_module: ... Install it: pip install "limbeck[vision]"
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        fix = f'Install it: pip install "limbeck[{extra}]"'
        allowed = f'the "{extra}" extra of limbeck'
        raise InputError(Problem(module, "not installed", allowed, fix)) from error


def available(module: str) -> bool:
    """Return whether an optional module is installed, without importing it.

    Example:
        >>> available("json"), available("no_such_module")
        (True, False)
    """
    return importlib.util.find_spec(module) is not None
