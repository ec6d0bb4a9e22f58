"""Callables that a user names: `package.module:function` or `file.py:function`."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import site
import sys
import sysconfig
from collections.abc import Callable, Iterator
from functools import cache
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


def local_modules(name: str) -> dict[str, Path]:
    """Find the user's own modules that a callable's module imports, directly or through others.

    A module is the user's own if its file lies outside the standard library, the installed
    packages and limbeck. Imports are read from the source; a module that is imported under a
    computed name is not found.

    Args:
        name: What `find` takes; it has to be importable.

    Returns:
        The file of each module by its dotted name, packages on the way included; the file of a
        `file.py:function` name is not among them, the module of a `module:function` name is.

    Example:
        >>> local_modules("json.decoder:JSONDecoder")
        {}
    """
    path = file_of(name)
    module_name = name.rpartition(":")[0]
    pending = [("", path)] if path is not None else list(_local(module_name))
    found: dict[str, Path] = {}
    while pending:
        dotted, file = pending.pop()
        if dotted in found:
            continue
        if dotted:
            found[dotted] = file
        if file.suffix == ".py":
            package = dotted if file.name == "__init__.py" else dotted.rpartition(".")[0]
            for imported in _imports(file, package):
                pending += _local(imported)
    return dict(sorted(found.items()))


def _imports(file: Path, package: str) -> Iterator[str]:
    """List the dotted names that a file imports, and those that may be modules in them."""
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1]
            parts = [*(base if node.level else []), *filter(None, [node.module])]
            module = ".".join(part for part in parts if part)
            yield from filter(None, [module, *(f"{module}.{alias.name}" for alias in node.names)])


def _local(dotted: str) -> Iterator[tuple[str, Path]]:
    """Give a module and the packages it is in, as far as they are the user's own."""
    parts = dotted.split(".")
    for count in range(1, len(parts) + 1):
        name = ".".join(parts[:count])
        if name in sys.builtin_module_names or name.split(".")[0] == "limbeck":
            return
        origin = _origin(name)
        if origin is None:
            continue  # a namespace package, or an attribute of a module
        if any(origin.is_relative_to(place) for place in _installed()):
            return
        yield name, origin


def _origin(name: str) -> Path | None:
    """Find a module's file, without importing anything that is not imported yet."""
    parent = name.rpartition(".")[0]
    if parent and parent not in sys.modules:
        return None
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return None
    if spec is None or spec.origin is None or not spec.has_location:
        return None
    return Path(spec.origin).resolve()


@cache
def _installed() -> tuple[Path, ...]:
    """List where the standard library and installed packages lie."""
    kinds = ("stdlib", "platstdlib", "purelib", "platlib")
    places = {sysconfig.get_path(kind) for kind in kinds} | {*site.getsitepackages()}
    return tuple(Path(place).resolve() for place in (*places, site.getusersitepackages()))


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
