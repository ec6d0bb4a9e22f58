"""Reading of files, shared by the file-based data sources."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.data.files import resolve
from limbeck.data.loaded import Loaded
from limbeck.errors import InputError, Problem, gathering

if TYPE_CHECKING:
    import datasets

    from limbeck.data.spec import DataSpec


def read_tables(
    spec: DataSpec, read: Callable[[Path], Any], *, kind: str, suffixes: tuple[str, ...]
) -> Loaded:
    """Read a spec's files as tables: each split with its own column types and class names.

    Nothing is written beside the data.

    Args:
        spec: The `data` section of a recipe.
        read: A function that reads one file to a `pyarrow.Table` or a `datasets.Dataset`.
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
    files: dict[str, list[Path]], read: Callable[[Path], Any], *, kind: str
) -> dict[str, datasets.Dataset]:
    """Read the files of each split, as `read_tables` does.

    Raises:
        InputError: As for `read_tables`.
    """
    problems: list[Problem] = []
    splits: dict[str, datasets.Dataset] = {}
    for split, paths in files.items():
        with gathering(problems):
            splits[split] = _split(paths, read, kind=kind, where=f"data.files.{split}")
    problems += [
        Problem(f"data ({split})", "no rows", "at least one row")
        for split, rows in splits.items()
        if not len(rows)
    ]
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

    parts = [_part(path, read, kind=kind, where=where) for path in paths]
    _check_alike(paths, parts, where)
    if len(parts) == 1:
        return parts[0]
    try:
        return datasets.concatenate_datasets(parts)
    except (pyarrow.ArrowException, ValueError, TypeError) as error:
        raise _unreadable(paths[0], error, kind, where) from error


def _part(path: Path, read: Callable[[Path], Any], *, kind: str, where: str) -> datasets.Dataset:
    """Read one file; any error of the reader is reported with the file's name."""
    import datasets

    try:
        found = read(path)
        if isinstance(found, datasets.Dataset):
            return found
        return datasets.Dataset(datasets.table.InMemoryTable(found))
    except InputError:
        raise
    # pyarrow and its decoders raise many exception types on invalid files.
    except Exception as error:
        raise _unreadable(path, error, kind, where) from error


def _unreadable(path: Path, error: Exception, kind: str, where: str) -> InputError:
    fix = f"It could not be read: {type(error).__name__}: {str(error)[:500]}"
    return InputError(Problem(where, str(path), f"files that {kind} can read", fix))


def _check_alike(paths: list[Path], parts: list[datasets.Dataset], where: str) -> None:
    """Raise an error if the columns of one split's files differ."""
    first = parts[0].features
    problems = []
    for path, part in zip(paths[1:], parts[1:], strict=True):
        names = sorted({*first, *part.features})
        differ = [name for name in names if first.get(name) != part.features.get(name)]
        if differ:
            shown = "; ".join(
                f"{name}: {part.features.get(name)} in {path.name}, "
                f"{first.get(name)} in {paths[0].name}"
                for name in differ[:5]
            )
            fix = "Write these columns with the same names, types and order of classes."
            problems.append(Problem(where, shown, "files with the same columns", fix))
    if problems:
        raise InputError(*problems)
