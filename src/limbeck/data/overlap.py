"""Data leakage: equal rows in several splits, and equal rows with different labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from limbeck.errors import InputError, Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

PAIRS = (("validation", "train"), ("test", "train"), ("test", "validation"))
CHANCE = 0.01
"""Equal rows are a coincidence if chance alone makes at least this share of rows equal."""

CONTRADICTED = 0.1
"""The largest share of rows that may equal a row of another split with another label; where
`data.max_overlap` is larger, that."""


def check_overlap(
    hashes: Mapping[str, NDArray[np.uint64]],
    labels: Mapping[str, NDArray[np.int64]],
    *,
    largest: float,
    expected: float = 0.0,
) -> tuple[str, ...]:
    """Count rows of a split that equal rows of another split.

    A share of rows with equal content and label above `largest`, beyond the share expected by
    coincidence, is an error: such test rows do not measure generalisation. So is such a share with
    another label: the splits contradict each other.

    Args:
        hashes: The hash of each row, by split.
        labels: The class of each row, by split.
        largest: The largest share, `data.max_overlap`.
        expected: The share expected by coincidence.

    Returns:
        Notes for the report.

    Raises:
        InputError: A share is larger; the message lists each pair of splits.
    """
    problems, notes = [], []
    for name, other in PAIRS:
        known, own = np.unique(_pairs(hashes[other], labels[other])), hashes[name]
        equal = np.isin(own, known["row"])
        same = np.isin(_pairs(own, labels[name]), known)
        if not equal.any():
            continue
        opposed = equal & ~same
        stated = "state in data.max_overlap the share to be allowed."
        for rows, limit, which, fix in (
            (same, largest, "", f"Remove the equal rows, or {stated}"),
            (
                opposed,
                max(largest, CONTRADICTED),
                " that has another label",
                "The labels of one split are wrong, or denote other classes than the other's: "
                f"compare their names; or {stated}",
            ),
        ):
            if rows.mean() - expected > limit:
                given = f"{_share(rows)} equal a row of {other}{which}"
                allowed = f"at most {limit:.1%} of the rows"
                if expected:
                    allowed += f", beyond the {expected:.1%} that are expected by coincidence"
                problems.append(Problem(f"data ({name})", given, allowed, fix))
        notes.append(
            f"{name}: {_share(equal)} equal a row of {other}, {int(same.sum()):,} of them "
            f"({same.mean():.1%} of the rows) with the same label"
        )
    if problems:
        raise InputError(*problems)
    train = np.unique(_pairs(hashes["train"], labels["train"]))["row"]
    different, counts = np.unique(train, return_counts=True)
    opposed = np.isin(hashes["train"], different[counts > 1])
    if opposed.any():
        notes.append(f"train: {_share(opposed)} equal another row with another label")
    return tuple(notes)


def _share(rows: NDArray[np.bool_]) -> str:
    return f"{int(rows.sum()):,} of {len(rows):,} rows ({rows.mean():.1%})"


def _pairs(hashes: NDArray[np.uint64], labels: NDArray[np.int64]) -> NDArray[np.void]:
    pairs = np.empty(len(hashes), dtype=[("row", np.uint64), ("labels", np.int64)])
    pairs["row"], pairs["labels"] = hashes, labels
    return pairs


def expected_share(cells: NDArray[np.int64], hashes: NDArray[np.uint64]) -> float:
    r"""Estimate the share of a table's rows that equals a training row by coincidence.

    Rows of few columns with few values are equal by chance. If columns were independent, two rows
    would be equal with the probability $p = \prod_c s_c$, where $s_c$ is that of two equal cells in
    column c, taken over the different rows. If at least 1 % of the rows would equal one of n by
    chance, $1 - e^{-np} \ge 0.01$, the expected share for a new row is the share of training rows
    that equal another training row: one minus the share of unique rows (Good-Turing). Otherwise
    equal rows are copies, and 0 is returned.

    Args:
        cells: The training rows as value codes, `[n, columns]`.
        hashes: A hash of each row, `[n]`.

    Source:
        I. J. Good, "The population frequencies of species and the estimation of population
        parameters", Biometrika 40 (1953).
    """
    _, first, counts = np.unique(hashes, return_index=True, return_counts=True)
    different = cells[first]
    count = len(different)
    if count < 2:
        return 1.0
    chance = 1.0
    for column in different.T:
        sizes = np.unique(column, return_counts=True)[1].astype(np.float64)
        chance *= float((sizes * (sizes - 1)).sum() / (count * (count - 1)))
    if -np.expm1(-len(hashes) * chance) < CHANCE:
        return 0.0
    return 1.0 - float((counts == 1).sum() / len(hashes))
