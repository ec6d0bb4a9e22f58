"""Names and docstrings of a package, parsed from its source without importing it.

Importing torch takes seconds, which a list of names and first lines does not need.
"""

from __future__ import annotations

import ast
import inspect
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path


@dataclass(frozen=True)
class Documented:
    """A function or class with its docstring, as parsed from its source.

    Attributes:
        name: Its name.
        docstring: Its docstring, without indentation; empty if it has none.
        required: The parameters of a function without a default.
    """

    name: str
    docstring: str
    required: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """Return the first line of the docstring."""
        return self.docstring.split("\n", 1)[0]

    @property
    def source(self) -> str:
        """Return the papers cited in the docstring, in brackets; empty if there are none."""
        before, _, source = " ".join(self.docstring.split()).rpartition("Source: ")
        return f"({source.rstrip('.')})" if before else ""


def public_names(package: str) -> tuple[str, ...]:
    """Return `__all__` of a package, sorted."""
    return _all(_path(package) / "__init__.py")


def of_package(package: str) -> dict[str, Documented]:
    """Return the objects in `__all__` of a package, wherever in the package they are defined."""
    names = public_names(package)
    found = {
        one.name: one for path in sorted(_path(package).rglob("*.py")) for one in _definitions(path)
    }
    return {name: found[name] for name in names if name in found}


def of_modules(package: str) -> dict[str, Documented]:
    """Return the objects in the `__all__` of each module of a package."""
    paths = [_path(package) / f"{name}.py" for name in module_names(package)]
    return {one.name: one for path in paths for one in _definitions(path) if one.name in _all(path)}


def module_names(package: str) -> list[str]:
    """Return the names of the public modules of a package."""
    modules = pkgutil.iter_modules([str(_path(package))])
    return sorted(module.name for module in modules if not module.name.startswith("_"))


def of_module(module: str, name: str) -> Documented:
    """Return a function or class that a module, or the `__init__` of a package, defines."""
    path = _path(module)
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return next((one for one in _definitions(file) if one.name == name), Documented(name, ""))


def _path(module: str) -> Path:
    """Return the path of a module without its suffix; only the top package is searched for."""
    top, *rest = module.split(".")
    spec = find_spec(top)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(next(iter(spec.submodule_search_locations)), *rest)


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _all(path: Path) -> tuple[str, ...]:
    for node in _tree(path).body:
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets
        ):
            return tuple(sorted(ast.literal_eval(node.value)))
    return ()


def _definitions(path: Path) -> Iterator[Documented]:
    for node in _tree(path).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            docstring = inspect.cleandoc(ast.get_docstring(node, clean=False) or "")
            required = _required(node.args) if isinstance(node, ast.FunctionDef) else ()
            yield Documented(node.name, docstring, required)


def _required(parameters: ast.arguments) -> tuple[str, ...]:
    positional = [one.arg for one in (*parameters.posonlyargs, *parameters.args)]
    keyword = zip(parameters.kwonlyargs, parameters.kw_defaults, strict=True)
    return (
        *positional[: len(positional) - len(parameters.defaults)],
        *(one.arg for one, default in keyword if default is None),
    )
