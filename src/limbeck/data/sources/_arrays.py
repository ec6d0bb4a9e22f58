"""Arrays in memory as a `datasets.Dataset`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from limbeck.errors import InputError, Problem

if TYPE_CHECKING:
    import datasets
    from numpy.typing import NDArray


def from_arrays(
    inputs: Any, labels: Any, *, names: list[str] | None, where: str
) -> datasets.Dataset:
    """Build a data set of images or texts and their labels.

    Args:
        inputs: Images `[n, h, w]`, `[n, c, h, w]` or `[n, h, w, c]`, or n texts.
        labels: n integers, or class names.
        names: The class names, if the labels are numbers and have names.
        where: The key in the recipe, for messages.

    Raises:
        InputError: A shape is not supported, or the numbers of labels and inputs differ.
    """
    import datasets
    import pyarrow  # type: ignore[import-untyped]

    array, targets = _array(inputs, where, "inputs"), _array(labels, where, "labels")
    if array.shape[:1] != targets.shape[:1] or array.ndim == 0:
        given = f"inputs of shape {array.shape}, labels of shape {targets.shape}"
        raise InputError(Problem(where, given, "as many labels as inputs"))
    if targets.ndim == 2 and targets.shape[1] == 1:
        targets = targets[:, 0]
    if targets.ndim != 1:
        fix = "Data with several labels per row (multi-label) is not supported."
        given = f"labels of shape {targets.shape}"
        raise InputError(Problem(where, given, "one label for each input", fix))
    if array.dtype.kind in "UO" and array.ndim == 1:
        kind, column = datasets.Value("string"), "text"
    elif array.ndim in (3, 4) and array.dtype.kind in "biuf":
        shaped = datasets.Array2D if array.ndim == 3 else datasets.Array3D
        kind, column = shaped(array.shape[1:], str(array.dtype)), "image"
    else:
        allowed = "n texts, or images of shape [n, h, w], [n, c, h, w] or [n, h, w, c]"
        fix = "A table is given as a datasets.Dataset with a column for each feature."
        given = f"an array of shape {array.shape} ({array.dtype})"
        raise InputError(Problem(where, given, allowed, fix))
    try:
        data = datasets.Dataset.from_dict({column: array}, datasets.Features({column: kind}))
        if targets.dtype.kind in "UO":
            return data.add_column("label", targets.tolist())
        label = datasets.ClassLabel(names=names) if names else None
        return data.add_column("label", targets, feature=label)
    # Values that arrow does not support: mixed types, dates, objects.
    except (pyarrow.ArrowException, TypeError, ValueError) as error:
        given = f"{array.dtype} and {targets.dtype} ({error})"
        raise InputError(Problem(where, given, "texts or numbers of one type")) from error


def _array(values: Any, where: str, name: str) -> NDArray[Any]:
    try:
        if hasattr(values, "detach"):  # a torch tensor, on any device
            values = values.detach().cpu()
        array = np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:
        allowed = "an array, a tensor or a list of rows of one shape"
        raise InputError(Problem(where, f"{name} ({error})", allowed)) from error
    # numpy converts values beside a text to text.
    if array.dtype.kind in "UO" and array.ndim == 1:
        wrong = [row for row, value in enumerate(values) if not isinstance(value, str)]
        if wrong:
            given = f"{name}: {values[wrong[0]]!r} in row {wrong[0]} ({len(wrong)} such rows)"
            raise InputError(Problem(where, given, "texts or numbers of one type"))
    return array
