"""Which rows belong to which split, with the classes in their proportions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from limbeck.data.randomness import random_bits

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from limbeck.data.spec import DataSpec

TEST, VALIDATION, LIMIT = 1, 2, 3


def choose(labels: NDArray[np.int64], count: int, *, seed: int, purpose: int) -> NDArray[np.bool_]:
    """Choose rows at random so that each class keeps its share, within one row.

    Args:
        labels: The class of each row.
        count: How many rows to choose.
        seed: Which rows these are.
        purpose: What they are for, so that two choices with one seed are not alike.

    Returns:
        For each row whether it is chosen; exactly `count` are.

    Example:
        >>> labels = np.array([0, 1] * 50)
        >>> chosen = choose(labels, 10, seed=0, purpose=TEST)
        >>> np.bincount(labels[chosen]).tolist()
        [5, 5]
    """
    rows = len(labels)
    order = np.lexsort((random_bits(seed, purpose, index=np.arange(rows)), labels))
    # With the rows sorted by class, every (rows / count)-th one: no class is off by more than one.
    steps = np.arange(rows + 1, dtype=np.int64) * count // max(rows, 1)
    chosen = np.zeros(rows, dtype=np.bool_)
    chosen[order[np.diff(steps) > 0]] = True
    return chosen


def divide(
    labels: dict[str, NDArray[np.int64]], spec: DataSpec
) -> tuple[dict[str, tuple[str, NDArray[np.int64]]], tuple[str, ...]]:
    """Say for each split which rows of which of the source's splits it has, and what was done.

    The test rows are taken first and do not depend on the share of validation; then validation;
    then the limits are applied. Rows stay in the source's order.

    Returns:
        For each split the source's split and the rows in it; and notes for the report.
    """
    rows = {name: (name, np.arange(len(values))) for name, values in labels.items()}
    notes: list[str] = []
    for name, share, purpose in (
        ("test", spec.test, TEST),
        ("validation", spec.validation, VALIDATION),
    ):
        if name not in rows:
            source, train = rows["train"]
            seed, count = spec.split_seed, round(share * len(train))
            chosen = choose(labels[source][train], count, seed=seed, purpose=purpose)
            rows[name] = (source, train[chosen])
            rows["train"] = (source, train[~chosen])
            notes.append(
                f"{name}: {count} of {len(train)} training rows, stratified, split_seed {seed}"
            )
    for name, limit in spec.limit.items():
        source, kept = rows[name]
        if limit < len(kept):
            chosen = choose(labels[source][kept], limit, seed=spec.split_seed, purpose=LIMIT)
            rows[name] = (source, kept[chosen])
            notes.append(f"{name}: limited to {limit} of {len(kept)} rows, stratified")
    return rows, tuple(notes)
