"""Import of the user's own modules from their current source, and dependency tracking.

A module is the user's if its file is outside the standard library, outside every `site-packages`,
and outside limbeck.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, FrameType, ModuleType

from limbeck.core.files import open_regular

INSTALLED = {"site-packages", "dist-packages"}
# A module that imports or executes by a computed name may depend on any other.
DYNAMIC = ("importlib", "__import__", "exec(", "eval(", "runpy", "pkgutil")
_EXECUTED: dict[str, str] = {}
_READ: dict[str, set[str]] = {}
_SOURCES: set[str] = set()
_RECORDERS: list[tuple[set[str], set[str]]] = []  # files read, and files written


@cache
def _roots() -> tuple[str, ...]:
    standard = [str(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")]
    own = os.path.dirname(os.path.dirname(__file__))
    return tuple(os.path.realpath(root) + os.sep for root in (*standard, own))


@cache
def is_user_file(path: str) -> bool:
    """Return whether a file is outside the standard library, site-packages and limbeck.

    Example:
        >>> is_user_file(__file__), is_user_file("/home/me/nets/mine.py")
        (False, True)
    """
    if INSTALLED & set(Path(path).parts):
        return False
    return not os.path.realpath(path).startswith(_roots())


class _Loader(SourceFileLoader):
    """A loader of the current source: cached bytecode is matched only by time and size."""

    def get_code(self, fullname: str) -> CodeType:
        source = self.get_data(self.path)
        _SOURCES.add(os.path.abspath(self.path))
        if _RECORDERS:  # imported for a recipe, not by the program around limbeck
            _EXECUTED[fullname] = hashlib.sha256(source).hexdigest()
        return self.source_to_code(source, self.path)

    def exec_module(self, module: ModuleType) -> None:
        if not _RECORDERS:
            super().exec_module(module)
            return
        with reads() as read:
            super().exec_module(module)
        _READ[module.__name__] = read


class _Finder(MetaPathFinder):
    """A finder of the user's modules, in Python's search order, that uses `_Loader`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or type(spec.loader) is not SourceFileLoader:
            return None
        if not is_user_file(spec.loader.path):
            return None
        spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


def install() -> None:
    """Start to record executed source and files opened for reading by the user's code.

    The current folder is appended to the module search path, as `python -m limbeck` does.
    """
    if not {"", os.getcwd()} & {*sys.path}:
        sys.path.append(os.getcwd())
    _watch()


@cache
def _watch() -> None:
    index = sys.meta_path.index(PathFinder) if PathFinder in sys.meta_path else 0
    sys.meta_path.insert(index, _Finder())
    sys.addaudithook(_audit)


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    if event != "open" or not _RECORDERS or not isinstance(arguments[0], str | bytes):
        return
    if not _is_called_by_user_code():
        return
    path, flags = os.path.abspath(os.fsdecode(arguments[0])), arguments[2]
    writes = isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR))
    for recorder in _RECORDERS:
        recorder[writes].add(path)


def _is_called_by_user_code() -> bool:
    """Return whether the innermost frame of the user's code is inside that of limbeck's."""
    own = os.path.dirname(os.path.dirname(__file__)) + os.sep
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and not frame.f_code.co_filename.startswith(own):
        file = frame.f_code.co_filename
        if not file.startswith("<") and is_user_file(file):
            return True
        frame = frame.f_back
    return False


@contextmanager
def reads() -> Iterator[set[str]]:
    """Record the absolute paths of the files that the user's code only reads in the block.

    Files opened in compiled code of a library or in another process are not recorded.
    """
    recorder: tuple[set[str], set[str]] = (set(), set())
    _RECORDERS.append(recorder)
    try:
        yield recorder[0]
    finally:
        recorder[0].difference_update(recorder[1])
        # Compared by identity: two recorders of the same files are equal.
        _RECORDERS[:] = [one for one in _RECORDERS if one is not recorder]


def hash_reads(paths: set[str], *, but: Sequence[Path] = ()) -> dict[str, str]:
    """Hash the user's files among absolute paths, except module sources and the folders `but`."""
    folders = tuple(os.path.realpath(folder) + os.sep for folder in but)
    user_files = (
        path
        for path in sorted(paths - _SOURCES)
        if "__pycache__" not in path
        and not path.startswith(("/proc/", "/sys/", "/dev/"))
        and not os.path.realpath(path).startswith(folders)
        and is_user_file(path)
    )
    return {path: digest for path in user_files if (digest := _digest(path))}


def _digest(path: str) -> str:
    """Hash a regular file; return an empty text if there is none."""
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def unchanged(hashes: dict[str, str]) -> bool:
    """Return whether files still have the content hashed by `hash_reads`."""
    return all(_digest(path) == digest for path, digest in hashes.items())


def modules_of(module: str, file: Path | None = None) -> dict[str, str]:
    """Return a user's module and the user's modules that it imports, directly or indirectly.

    Imports are read from the source, including those in functions, and parent packages are
    included. Imports by computed names are not found.

    Args:
        module: The name of an importable module.
        file: Its file, if it was not imported yet and cannot be found by name.

    Returns:
        The file of each module by its dotted name; empty if the module is not the user's.
    """
    return dict(_dependencies(module, file, dynamic=False))


def fingerprint_of(module: str) -> list[tuple[str, str]]:
    """Hash a user's imported module, the user's modules that it imports, and the files they read.

    A module that imports by computed names depends on every user's module.

    Returns:
        Names with hashes, sorted; empty if the module is not the user's.
    """
    found = dict(_dependencies(module, None, dynamic=True))
    hashes: dict[str, str] = {}
    for name, path in found.items():
        current = _digest(path)
        executed = _EXECUTED.get(name, current)
        digest = current if executed == current else f"{executed}, {current}"
        # Without the folder's location: a moved folder has the same hash.
        hashes[f"{name.partition('@')[0]} {digest[:8]}"] = digest
    read = {path for name in found for path in _READ.get(name, ())}
    for path, digest in hash_reads(read).items():
        base = os.path.basename(path)
        hashes[base] = hashes.get(base, "") + digest
    return sorted(hashes.items())


def _dependencies(module: str, file: Path | None, *, dynamic: bool) -> Iterator[tuple[str, str]]:
    pending, seen = [module], set[str]()
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        path = os.path.abspath(file) if file and name == module else _located(name)
        if path is not None and is_user_file(path):
            yield name, path
            pending += _imported(name, path, dynamic=dynamic)


def _located(name: str) -> str | None:
    """Return the file of a module, found without importing it."""
    module = sys.modules.get(name)
    if module is not None:
        return getattr(module, "__file__", None)
    spec = _spec(name)
    return None if spec is None or not spec.has_location else spec.origin


def _spec(name: str) -> ModuleSpec | None:
    parent, _, _ = name.rpartition(".")
    folders: Sequence[str] | None = None
    if parent:
        package = sys.modules.get(parent)
        spec = _spec(parent) if package is None else None
        folders = spec.submodule_search_locations if spec else getattr(package, "__path__", None)
        if folders is None:
            return None
    try:
        return PathFinder.find_spec(name, folders)
    except (ImportError, ValueError, AttributeError):
        return None


def _imported(name: str, path: str, *, dynamic: bool) -> list[str]:
    if not path.endswith(".py"):
        return []
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
        tree = ast.parse(text)
    except (OSError, SyntaxError, ValueError, RecursionError):
        return []
    package = name if Path(path).name == "__init__.py" else name.rpartition(".")[0]
    names: set[str] = {package} if package else set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names.update(_with_parents(alias.name))
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                try:
                    base = importlib.util.resolve_name("." * node.level + base, package)
                except ImportError:
                    continue
            names.update(_with_parents(base))
            names.update(f"{base}.{alias.name}" for alias in node.names)
    if dynamic and any(word in text for word in DYNAMIC):
        names.update(_EXECUTED)
    return [one for one in names if one]


def _with_parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[: count + 1]) for count in range(len(parts))]


def name_of(path: Path) -> str:
    """Return the module name of a file: files in different folders differ.

    Example:
        >>> name_of(Path("a/net.py")) == name_of(Path("b/net.py"))
        False
    """
    digest = hashlib.sha256(os.path.abspath(path).encode("utf-8", "surrogatepass")).hexdigest()
    return f"_limbeck_user_{path.stem}@{digest[:12]}".replace(".", "_")


def import_file(path: Path) -> ModuleType:
    """Execute a Python file as a separate module, named after its absolute path.

    Raises:
        ImportError: The file is not a Python file.
    """
    install()
    name = name_of(path)
    loader = _Loader(name, os.path.abspath(path))
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    if spec is None or path.suffix != ".py":
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickling look up a module by name while it is executed.
    sys.modules[name] = module
    with reads():
        loader.exec_module(module)
    return module


def import_module(name: str) -> ModuleType:
    """Import a module by its dotted name, again if one of its user files was edited.

    Modules that the caller's program already imported are not reloaded.
    """
    install()
    edited = any(
        (path := _located(one)) is not None and _digest(path) != digest
        for one, digest in _EXECUTED.items()
    )
    if edited:
        for one in list(_EXECUTED):
            sys.modules.pop(one, None)
        _EXECUTED.clear()
        _READ.clear()
    importlib.invalidate_caches()
    with reads():
        return importlib.import_module(name)
