"""Reading of files, shared by the file-based data sources."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from limbeck.data.files import resolve
from limbeck.data.loaded import Loaded, check_rows
from limbeck.errors import InputError, Problem, gathering

if TYPE_CHECKING:
    import datasets

    from limbeck.data.spec import DataSpec


class Read(Protocol):
    """A reader of one file, which is given the bytes of all files of the source."""

    def __call__(self, path: Path, /, *, total: int) -> Any:
        """Read a file to a `pyarrow.Table` or a `datasets.Dataset`."""
        ...


def read_tables(spec: DataSpec, read: Read, *, kind: str, suffixes: tuple[str, ...]) -> Loaded:
    """Read a spec's files as tables: each split with its own column types and class names.

    Args:
        spec: The `data` section of a recipe.
        read: Reads one file.
        kind: The name of the format, for messages.
        suffixes: The file suffixes that are read from a folder.

    Raises:
        InputError: A file is missing, cannot be read, has no rows, or differs from the other files
            of its split in its columns. The message lists every problem.
    """
    files = {
        split: [file for path in paths for file in _in_folder(path, split, suffixes)]
        for split, paths in resolve(spec.files).items()
    }
    return Loaded(read_files(files, read, kind=kind), files)


def read_files(
    files: dict[str, list[Path]], read: Read, *, kind: str
) -> dict[str, datasets.Dataset]:
    """Read the files of each split; errors are those of `read_tables`."""
    problems: list[Problem] = []
    splits: dict[str, datasets.Dataset] = {}
    total = sum(path.stat().st_size for paths in files.values() for path in paths)
    for split, paths in files.items():
        with gathering(problems):
            splits[split] = _split(
                paths, partial(read, total=total), kind=kind, where=f"data.files.{split}"
            )
    with gathering(problems):
        check_rows(splits)
    if problems:
        raise InputError(*problems)
    return splits


def _in_folder(path: Path, split: str, suffixes: tuple[str, ...]) -> list[Path]:
    if not path.is_dir():
        return [path]
    inside = (file for file in path.rglob("*") if file.is_file())
    found = sorted(file for file in inside if file.name.lower().endswith(suffixes))
    if not found:
        allowed = f"a folder with files that end in {', '.join(suffixes)}"
        raise InputError(Problem(f"data.files.{split}", str(path), allowed))
    return found


def _split(
    paths: list[Path], read: Callable[[Path], Any], *, kind: str, where: str
) -> datasets.Dataset:
    import datasets
    import pyarrow  # type: ignore[import-untyped]

    parts = []
    for path in paths:
        try:
            content = read(path)
            if not isinstance(content, datasets.Dataset):
                content = datasets.Dataset(datasets.table.InMemoryTable(content))
        except InputError:
            raise
        # pyarrow and its decoders raise many exception types on invalid files.
        except Exception as error:
            raise _unreadable(path, error, kind, where) from error
        parts.append(content)
    _check_equal_columns(paths, parts, where)
    if len(parts) == 1:
        return parts[0]
    try:
        return datasets.concatenate_datasets(parts)
    except (pyarrow.ArrowException, ValueError, TypeError) as error:
        raise _unreadable(paths[0], error, kind, where) from error


def _unreadable(path: Path, error: Exception, kind: str, where: str) -> InputError:
    fix = f"It could not be read: {type(error).__name__}: {str(error)[:500]}"
    return InputError(Problem(where, str(path), f"files that {kind} can read", fix))


def _check_equal_columns(paths: list[Path], parts: list[datasets.Dataset], where: str) -> None:
    first = parts[0].features
    problems = []
    for path, part in zip(paths[1:], parts[1:], strict=True):
        own = part.features
        differ = [name for name in sorted({*first, *own}) if first.get(name) != own.get(name)]
        if differ:
            shown = "; ".join(
                f"{name}: {own.get(name)} in {path.name}, {first.get(name)} in {paths[0].name}"
                for name in differ[:5]
            )
            fix = "Write these columns with the same names, types and order of classes."
            problems.append(Problem(where, shown, "files with the same columns", fix))
    if problems:
        raise InputError(*problems)
