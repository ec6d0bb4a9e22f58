"""Data returned by a user's function: `{source: python, name: "file.py:function"}`.

The function takes no arguments, and returns one of:

- a pair `(inputs, labels)` of arrays, tensors or lists of n rows. Inputs are n texts, or images of
  shape `[n, h, w]`, `[n, c, h, w]` or `[n, h, w, c]`: integers in 0..255, or floats, which are used
  unchanged. Labels are n integers from 0, or the names in `data.classes`;
- a `datasets.Dataset`, for a table or for other column names, given by `data.columns` and
  `data.table`;
- a dict of either by split: `train`, and `validation` and `test` if there are any. Missing splits
  are drawn from the training rows.

It must return the same rows at each call: they are hashed, and a stage whose data changed runs
again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from limbeck.core.imports import find
from limbeck.data.loaded import Loaded
from limbeck.data.sources._arrays import from_arrays
from limbeck.errors import InputError, Problem

if TYPE_CHECKING:
    import datasets

    from limbeck.data.spec import DataSpec

FORMS = "a datasets.Dataset or a pair (inputs, labels), or a dict of these by split"


def load(spec: DataSpec) -> Loaded:
    """Call the user's function and load its result.

    Raises:
        InputError: The function is missing, raises an error, or returns an unsupported type.
    """
    function = find(spec.name, where="data.name")
    try:
        returned = function()
    # A user's function may raise any exception, which is shown to the user.
    except Exception as error:
        fix = f"It failed: {type(error).__name__}: {error}"
        allowed = "a function of no arguments"
        raise InputError(Problem("data.name", spec.name, allowed, fix)) from error
    splits = returned if isinstance(returned, Mapping) else {"train": returned}
    unknown = [name for name in splits if name not in {"train", "validation", "test"}]
    if unknown or "train" not in splits:
        allowed = "train, and validation and test if there are any"
        given = ", ".join(map(str, splits)) or "no split"
        raise InputError(Problem(f"data.name ({spec.name})", given, allowed))
    return Loaded({name: _dataset(name, value) for name, value in splits.items()})


def _dataset(name: str, value: Any) -> datasets.Dataset:
    import datasets

    if isinstance(value, datasets.Dataset):
        return value
    if isinstance(value, tuple) and len(value) == 2:
        return from_arrays(*value, names=None, where=f"data ({name})")
    raise InputError(Problem(f"data ({name})", type(value).__name__, FORMS))
