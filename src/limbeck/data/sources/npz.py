"""NumPy `.npz` files: arrays of equal first axis as columns, as graphs are often published."""

from __future__ import annotations

import re
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np

from limbeck.data.files import resolve
from limbeck.data.loaded import SPLITS, Loaded
from limbeck.errors import InputError, Problem, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import datasets
    from numpy.typing import NDArray

    from limbeck.data.spec import DataSpec

NODE = "node"
ALWAYS, EXPANSION = 512 * 2**20, 200
"""A file may take so much memory, or so many times its size."""

SPLIT = re.compile(r"(train|validation|valid|val|dev|test)_(idx|index|indices|mask)")
SPARSE = ("indptr", "indices", "data", "shape")
Arrays = dict[str, "NDArray[Any]"]


def load(spec: DataSpec) -> Loaded:
    """Load the arrays of one file as the columns of its rows.

    Arrays of as many rows as the label array are columns; those of two axes are lists. A sparse
    matrix in CSR form, `NAME_indptr`, `NAME_indices`, `NAME_data` and `NAME_shape`, is a column
    `NAME`. A column `node` numbers the rows. Arrays `train_idx`, `val_idx` and `test_idx`, or
    masks such as `train_mask`, divide the rows; those in none of them join training without their
    label. A negative label is none.

    Raises:
        InputError: A file is missing or no `.npz`, the label array is missing, or a row is in two
            splits.
    """
    [path, *others] = resolve(spec.files)["train"]
    if others or len(spec.files) > 1:
        allowed = "one file; its arrays state the splits"
        raise InputError(Problem("data.files", f"{len(others) + 1} files or more", allowed))
    where = f"data.files.train ({path})"
    arrays = read(path, where=where)
    label = spec.columns.label
    if label not in arrays or arrays[label].ndim != 1:
        hint = did_you_mean(label, list(arrays))
        allowed = f"an array of one axis: {', '.join(arrays)}"
        raise InputError(Problem("data.columns.label", label, allowed, hint))
    rows = len(arrays[label])
    columns = _columns(arrays, rows, where)
    labels = columns.pop(label)
    missing = labels < 0 if labels.dtype.kind in "if" else np.zeros(rows, dtype=np.bool_)
    parts = _parts(arrays, rows, where)
    notes = []
    if parts:
        rest = np.setdiff1d(np.arange(rows), np.concatenate([*parts.values()]))
        missing = missing.copy()
        missing[rest] = True
        parts["train"] = np.sort(np.concatenate([parts["train"], rest]))
        if len(rest):
            notes.append(f"{len(rest):,} rows in no split join training without their label")
    else:
        parts = {"train": np.arange(rows)}
    whole = _dataset(columns, label, labels, missing)
    splits = {name: whole.select(one) for name, one in parts.items()}
    return Loaded(splits, {name: [path] for name in splits}, notes=tuple(notes))


def read(path: Path, *, where: str) -> Arrays:
    """Read all arrays of a file; pickled objects are refused.

    Raises:
        InputError: It is no `.npz` file of numbers and texts, or expands beyond its size.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            taken = sum(entry.file_size for entry in archive.infolist())
        allowed = max(ALWAYS, EXPANSION * path.stat().st_size)
        if taken > allowed:
            given = f"a file that expands to {taken:,} bytes"
            raise InputError(Problem(where, given, f"at most {allowed:,}"))
        with np.load(path, allow_pickle=False) as found:
            return {name: found[name] for name in found.files}
    except InputError:
        raise
    # Damaged archives raise errors of many types.
    except Exception as error:
        fix = f"It could not be read: {type(error).__name__}: {str(error)[:300]}"
        raise InputError(Problem(where, "an invalid file", "a .npz file of arrays", fix)) from error


def pairs(path: Path, names: Sequence[str], *, where: str) -> NDArray[np.int64]:
    """Read pairs of whole numbers, such as edges, from an array `[2, n]` or `[n, 2]`, or two.

    Args:
        path: The file.
        names: The name of the array, or of two of one axis; default: the only array of two.
        where: The file, for messages.

    Raises:
        InputError: There is no such array, or more than one.
    """
    arrays = read(path, where=where)
    fitting = {name: one for name, one in arrays.items() if one.dtype.kind in "iu"}
    chosen = list(names) or [
        name for name, one in fitting.items() if one.ndim == 2 and 2 in one.shape
    ]
    missing = [name for name in chosen if name not in fitting]
    if missing or len(chosen) != max(1, len(names)):
        given = f"{', '.join(missing or chosen) or 'none'} in {where}"
        allowed = f"whole numbers in one of the arrays {', '.join(arrays)}"
        raise InputError(Problem("data.graph.edge_columns", given, allowed))
    found = [fitting[name] for name in chosen]
    if len(found) == 2 and found[0].ndim == found[1].ndim == 1 and len(found[0]) == len(found[1]):
        return np.stack(found, axis=1).astype(np.int64)
    if len(found) == 1 and found[0].ndim == 2 and 2 in found[0].shape:
        [one] = found
        return (one.T if one.shape[0] == 2 else one).astype(np.int64)
    given = " and ".join(f"{name} {list(fitting[name].shape)}" for name in chosen)
    allowed = "an array [2, edges] or [edges, 2], or two of one axis"
    raise InputError(Problem("data.graph.edge_columns", given, allowed))


def _columns(arrays: Arrays, rows: int, where: str) -> Arrays:
    """Return the arrays with as many rows, and sparse ones as dense."""
    found: Arrays = {}
    for name, one in arrays.items():
        base = name.removesuffix("_indptr")
        parts = [arrays.get(f"{base}_{part}") for part in SPARSE]
        if base != name and all(part is not None for part in parts):
            if arrays[f"{base}_shape"].tolist()[:1] == [rows]:
                found[base] = _dense(base, arrays, where)
        elif one.ndim in (1, 2) and len(one) == rows and not SPLIT.fullmatch(name):
            found[name] = one
    found.setdefault(NODE, np.arange(rows))
    return found


def _dense(name: str, arrays: Arrays, where: str) -> NDArray[np.float32]:
    indptr, indices, data, shape = (arrays[f"{name}_{part}"] for part in SPARSE)
    rows, width = (int(size) for size in shape)
    fits = (
        len(indptr) == rows + 1
        and len(indices) == len(data) == indptr[-1]
        and (np.diff(indptr) >= 0).all()
        and (len(indices) == 0 or (indices.min() >= 0 and indices.max() < width))
    )
    if not fits or rows * width * 4 > 16 * ALWAYS:
        given = f"{name} of the shape {shape.tolist()}"
        raise InputError(Problem(where, given, "a valid CSR matrix that fits 8 GB as a dense one"))
    dense = np.zeros((rows, width), dtype=np.float32)
    np.add.at(dense, (np.repeat(np.arange(rows), np.diff(indptr)), indices), data)
    return dense


def _parts(arrays: Arrays, rows: int, where: str) -> dict[str, NDArray[np.int64]]:
    """Return the rows of the splits that arrays state."""
    parts: dict[str, NDArray[np.int64]] = {}
    problems = []
    for name, one in arrays.items():
        if not (found := SPLIT.fullmatch(name)):
            continue
        is_mask = one.dtype == np.bool_ and one.shape == (rows,)
        valid = one.ndim == 1 and one.dtype.kind in "iu"
        if not is_mask and not (valid and ((one >= 0) & (one < rows)).all()):
            allowed = f"row numbers from 0 to {rows - 1}, or a mask of {rows}"
            problems.append(Problem(f"{where}, {name}", f"an array {list(one.shape)}", allowed))
            continue
        parts[SPLITS[found.group(1)]] = np.flatnonzero(one) if is_mask else one.astype(np.int64)
    if parts and "train" not in parts and not problems:
        problems.append(Problem(where, ", ".join(parts), "train_idx beside them"))
    every = np.concatenate([*parts.values()]) if parts else np.empty(0, dtype=np.int64)
    numbers, counts = np.unique(every, return_counts=True)
    if (counts > 1).any():
        given = f"row {numbers[counts > 1][0]} twice ({(counts > 1).sum()} such rows)"
        problems.append(Problem(f"{where}, splits", given, "each row in one split, once"))
    if problems:
        raise InputError(*problems)
    return parts


def _dataset(
    columns: Arrays, label: str, labels: NDArray[Any], missing: NDArray[np.bool_]
) -> datasets.Dataset:
    import datasets
    import pyarrow  # type: ignore[import-untyped]

    cells = {}
    for name, one in columns.items():
        if one.ndim == 1:
            cells[name] = pyarrow.array(one)
        else:
            flat = pyarrow.array(np.ascontiguousarray(one).ravel())
            cells[name] = pyarrow.FixedSizeListArray.from_arrays(flat, one.shape[1])
    cells[label] = pyarrow.array(labels, mask=missing)
    return datasets.Dataset(datasets.table.InMemoryTable(pyarrow.table(cells)))
