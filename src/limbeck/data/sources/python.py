"""Data that a function of the user's gives: `{source: python, name: "file.py:function"}`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from limbeck.callables import find
from limbeck.data.loaded import Loaded
from limbeck.data.sources._arrays import from_arrays
from limbeck.errors import InputError, Problem

if TYPE_CHECKING:
    import datasets

    from limbeck.data.spec import DataSpec

FORMS = "a dict of splits, each a datasets.Dataset or a pair (inputs, labels); or one such pair"


def load(spec: DataSpec) -> Loaded:
    """Call the function and take what it gives: splits by name, or one pair of arrays.

    Raises:
        InputError: There is no such function, it fails, or it gives something else.
    """
    function = find(spec.name, where="data.name")
    try:
        given = function()
    # The function is the user's: whatever it raises is what the user has to hear.
    except Exception as error:
        fix = f"It failed: {type(error).__name__}: {error}"
        raise InputError(
            Problem("data.name", spec.name, "a function of no arguments", fix)
        ) from error
    splits = given if isinstance(given, Mapping) else {"train": given}
    unknown = [name for name in splits if name not in {"train", "validation", "test"}]
    if unknown or "train" not in splits:
        allowed = "train, and validation and test if there are any"
        raise InputError(Problem(f"data.name ({spec.name})", sorted(splits), allowed))
    return Loaded({name: _dataset(name, value) for name, value in splits.items()})


def _dataset(name: str, value: Any) -> datasets.Dataset:
    import datasets

    if isinstance(value, datasets.Dataset):
        return value
    if isinstance(value, tuple) and len(value) == 2:
        return from_arrays(*value, names=None, where=f"data ({name})")
    raise InputError(Problem(f"data ({name})", type(value).__name__, FORMS))
