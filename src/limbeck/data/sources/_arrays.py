"""Arrays in memory as a `datasets.Dataset`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limbeck.errors import InputError, Problem

if TYPE_CHECKING:
    import datasets


def from_arrays(
    inputs: Any, labels: Any, *, names: list[str] | None, where: str
) -> datasets.Dataset:
    """Make a data set of pictures or texts and their labels.

    Args:
        inputs: Pictures `[n, h, w]`, `[n, c, h, w]` or `[n, h, w, c]`, or n texts.
        labels: n whole numbers, or names of classes.
        names: The classes' names, if the labels are numbers and they have any.
        where: The place in the recipe, for messages.

    Raises:
        InputError: The shapes are others, or there are not as many labels as inputs.
    """
    import datasets
    import numpy as np

    array, targets = np.asarray(inputs), np.asarray(labels)
    if len(array) != len(targets):
        given = f"{len(array)} inputs, {len(targets)} labels"
        raise InputError(Problem(where, given, "as many labels as inputs"))
    label = datasets.ClassLabel(names=names) if names else None
    if array.dtype.kind in "UO":
        kind, column = datasets.Value("string"), "text"
    elif array.ndim in (3, 4):
        shaped = datasets.Array2D if array.ndim == 3 else datasets.Array3D
        kind, column = shaped(array.shape[1:], str(array.dtype)), "image"
    else:
        allowed = "texts, or pictures of shape [n, h, w], [n, c, h, w] or [n, h, w, c]"
        raise InputError(Problem(where, f"an array of shape {array.shape}", allowed))
    data = datasets.Dataset.from_dict({column: array}, datasets.Features({column: kind}))
    return data.add_column("label", targets, feature=label)
