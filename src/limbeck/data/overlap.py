"""Data leakage: equal rows in several splits, and equal rows with different labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from limbeck.errors import InputError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

PAIRS = (("validation", "train"), ("test", "train"), ("test", "validation"))
NATURAL = 0.01
"""Coincidences are called natural if chance alone makes at least this share of rows equal."""

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
    coincidence, is an error: such test rows do not measure generalisation. So is
    such a share with another label: the splits contradict each other.

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
        known, mine = _known(hashes[other], labels[other]), hashes[name]
        equal = np.isin(mine, known["row"])
        same = np.isin(_pairs(mine, labels[name]), known)
        if not equal.any():
            continue
        share = float(same.mean())
        if share - expected > largest:
            given = (
                f"{int(same.sum()):,} of {len(mine):,} rows ({share:.1%}) equal a row of {other}"
            )
            allowed = f"at most {largest:.1%} of the rows"
            if expected:
                allowed += f", beyond the {expected:.1%} that are expected by coincidence"
            fix = "Remove the equal rows, or state in data.max_overlap the share to be allowed."
            problems.append(Problem(f"data ({name})", given, allowed, fix))
        opposed = equal & ~same
        if opposed.mean() - expected > max(largest, CONTRADICTED):
            given = (
                f"{int(opposed.sum()):,} of {len(mine):,} rows ({opposed.mean():.1%}) equal a row "
                f"of {other} that has another label"
            )
            allowed = f"at most {max(largest, CONTRADICTED):.1%} of the rows"
            fix = (
                "The labels of one split are wrong, or stand for other classes than the other's: "
                "compare their names; or state in data.max_overlap the share to be allowed."
            )
            problems.append(Problem(f"data ({name})", given, allowed, fix))
        notes.append(
            f"{name}: {int(equal.sum()):,} of {len(mine):,} rows ({equal.mean():.1%}) equal a row "
            f"of {other}, {int(same.sum()):,} of them ({share:.1%} of the rows) with the same label"
        )
    if problems:
        raise InputError(*problems)
    return (*notes, *_contradictions(hashes["train"], labels["train"]))


def _pairs(hashes: NDArray[np.uint64], labels: NDArray[np.int64]) -> NDArray[np.void]:
    pairs = np.empty(len(hashes), dtype=[("row", np.uint64), ("labels", np.int64)])
    pairs["row"], pairs["labels"] = hashes, labels
    return pairs


def _known(hashes: NDArray[np.uint64], labels: NDArray[np.int64]) -> NDArray[np.void]:
    return np.unique(_pairs(hashes, labels))


def _contradictions(hashes: NDArray[np.uint64], labels: NDArray[np.int64]) -> Iterator[str]:
    rows, counts = np.unique(_known(hashes, labels)["row"], return_counts=True)
    count = int(np.isin(hashes, rows[counts > 1]).sum())
    if count:
        yield (
            f"train: {count:,} of {len(hashes):,} rows ({count / len(hashes):.1%}) equal another "
            "row with another label"
        )


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
    if -np.expm1(-len(hashes) * chance) < NATURAL:
        return 0.0
    return 1.0 - float((counts == 1).sum() / len(hashes))
