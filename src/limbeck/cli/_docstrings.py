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
        optional: The parameters of a function with a default.
    """

    name: str
    docstring: str
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()

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
    return _all(_folder(package) / "__init__.py")


def of_package(package: str) -> dict[str, Documented]:
    """Return the objects in `__all__` of a package, wherever in the package they are defined."""
    wanted = public_names(package)
    found = {
        one.name: one
        for path in sorted(_folder(package).rglob("*.py"))
        for one in _definitions(path)
        if one.name in wanted
    }
    return {name: found[name] for name in wanted if name in found}


def of_package_folder(package: str) -> dict[str, Documented]:
    """Return the objects in the `__all__` of each module of a package."""
    found: dict[str, Documented] = {}
    for name in module_names(package):
        public = _all(_folder(package) / f"{name}.py")
        found |= {
            one.name: one
            for one in _definitions(_folder(package) / f"{name}.py")
            if one.name in public
        }
    return found


def module_names(package: str) -> list[str]:
    """Return the names of the public modules of a package."""
    found = pkgutil.iter_modules([str(_folder(package))])
    return sorted(one.name for one in found if not one.name.startswith("_"))


def of_module(module: str, name: str) -> Documented:
    """Return a function or class that a module, or the `__init__` of a package, defines."""
    path = _folder(module.rpartition(".")[0]) / module.rpartition(".")[2]
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return next((one for one in _definitions(file) if one.name == name), Documented(name, ""))


def _all(path: Path) -> tuple[str, ...]:
    for node in _tree(path).body:
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets
        ):
            return tuple(sorted(ast.literal_eval(node.value)))
    return ()


def _folder(package: str) -> Path:
    # The top package is found without an import, and the rest by its folder.
    top, *rest = package.split(".")
    spec = find_spec(top)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(next(iter(spec.submodule_search_locations)), *rest)


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _definitions(path: Path) -> Iterator[Documented]:
    for node in _tree(path).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            docstring = inspect.cleandoc(ast.get_docstring(node, clean=False) or "")
            required, optional = (
                _parameters(node) if isinstance(node, ast.FunctionDef) else ((), ())
            )
            yield Documented(node.name, docstring, required, optional)


def _parameters(node: ast.FunctionDef) -> tuple[tuple[str, ...], tuple[str, ...]]:
    given = node.args
    plain = [one.arg for one in (*given.posonlyargs, *given.args)]
    first = len(plain) - len(given.defaults)
    keyword = list(zip(given.kwonlyargs, given.kw_defaults, strict=True))
    required = (*plain[:first], *(one.arg for one, default in keyword if default is None))
    optional = (*plain[first:], *(one.arg for one, default in keyword if default is not None))
    return required, optional
