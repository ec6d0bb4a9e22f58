"""The division of a source's rows into train, validation and test, stratified by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from limbeck.data.label import UNLABELLED
from limbeck.errors import InputError, Problem

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from limbeck.data.label import Labels
    from limbeck.data.spec import DataSpec
    from limbeck.data.split_by import Draw

TEST, VALIDATION, LIMIT, LABELLED = 1, 2, 3, 4
SHOWN = 10


def choose(
    labels: NDArray[np.int64], count: int, *, seed: int, purpose: int, least: int = 0, left: int = 0
) -> NDArray[np.bool_]:
    """Draw a stratified random subset in which each class keeps its share, within one row.

    Args:
        labels: The class of each row.
        count: The number of rows to draw.
        seed: The random seed.
        purpose: The purpose of the draw, so that two draws with one seed differ.
        least: The minimum number of drawn rows per class.
        left: The minimum number of remaining rows per class.

    Returns:
        A mask over the rows with exactly `count` true values. If `least` or `left` cannot be met,
        because a class is too small or `count` too large, only the shares decide.

    Example:
        >>> labels = np.array([0, 1] * 50)
        >>> chosen = choose(labels, 10, seed=0, purpose=TEST)
        >>> np.bincount(labels[chosen]).tolist()
        [5, 5]
    """
    from limbeck.core.random import random_bits  # imports torch

    rows = len(labels)
    order = np.lexsort((random_bits(seed, purpose, index=np.arange(rows)), labels))
    # Every (rows / count)-th row of the rows sorted by class: no class is off by more than one.
    steps = np.arange(rows + 1, dtype=np.int64) * count // max(rows, 1)
    chosen = np.zeros(rows, dtype=np.bool_)
    chosen[order[np.diff(steps) > 0]] = True
    if rows and (least or left):
        _balance(labels, order, chosen, least=least, left=left)
    return chosen


def _balance(
    labels: NDArray[np.int64],
    order: NDArray[np.int64],
    chosen: NDArray[np.bool_],
    *,
    least: int,
    left: int,
) -> None:
    """Exchange rows of rare classes for rows of the most frequent classes, in place."""
    sizes = np.bincount(labels)
    taken = np.bincount(labels[chosen], minlength=len(sizes))
    low = np.minimum(least, sizes)
    high = np.maximum(sizes - left, low)
    for add in (True, False):
        for rare in np.flatnonzero(taken < low if add else taken > high):
            while taken[rare] < low[rare] if add else taken[rare] > high[rare]:
                spare = taken - low if add else high - taken
                common = int(spare.argmax())
                if spare[common] <= 0:
                    return
                for label, value in ((rare, add), (common, not add)):
                    candidates = order[(labels[order] == label) & (chosen[order] != value)]
                    chosen[candidates[0]] = value
                    taken[label] += 1 if value else -1


@dataclass(frozen=True)
class Stratified:
    """Splits at random, in which each stratum keeps its share, within one row.

    Attributes:
        strata: The stratum of each training row.
        seed: The random seed.
        by: What the strata are, for notes.
    """

    strata: NDArray[np.int64]
    seed: int
    by: str = "class"

    def take(
        self, name: str, rows: NDArray[np.int64], share: float
    ) -> tuple[NDArray[np.bool_], str]:
        """Draw rows; each stratum keeps a training row, since it could not be learned otherwise."""
        count = round(share * len(rows))
        purpose = TEST if name == "test" else VALIDATION
        chosen = choose(self.strata[rows], count, seed=self.seed, purpose=purpose, left=1)
        note = (
            f"The {name} split has {count:,} of the {len(rows):,} training rows, "
            f"{_how(self.by)} with split_seed {self.seed}."
        )
        return chosen, note

    def fits(self, others: NDArray[np.int64], drawn: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return that all other rows may stay in train."""
        return np.ones(len(others), dtype=np.bool_)


def split(
    labels: dict[str, NDArray[np.int64]],
    spec: DataSpec,
    *,
    by: str = "class",
    draw: Draw | None = None,
) -> tuple[dict[str, tuple[str, NDArray[np.int64]]], tuple[str, ...]]:
    """Split the rows of the source's splits into train, validation and test.

    Rows are stratified by their labels, which `by` names. The test rows are drawn first and do not
    depend on the validation share; then validation; then the limits are applied. Rows stay in the
    source's order. Rows of train without a label, -100, stay in train. With `draw` the rows of test
    and validation are drawn by it.

    Returns:
        The source split and row indices of each split; and notes for the report.

    Raises:
        InputError: A limit of `max_samples` leaves no row for some class.
    """
    rows = {name: (name, np.arange(len(values))) for name, values in labels.items()}
    labelled = labels["train"] != UNLABELLED
    rows["train"] = ("train", np.flatnonzero(labelled))
    notes: list[str] = []
    seed = spec.split_seed
    if draw is None:
        draw = Stratified(labels["train"], seed, by)
    for name, share in (("test", spec.test), ("validation", spec.validation)):
        if name not in rows:
            source, train = rows["train"]
            chosen, note = draw.take(name, train, share)
            rows[name] = (source, train[chosen])
            rows["train"] = (source, train[~chosen])
            notes.append(note)
    drawn_rows = {name: one for name, one in rows.items() if name != "train"}
    problems = []
    for name, limit in spec.max_samples.items():
        source, kept = rows[name]
        own = labels[source][kept]
        classes = len(np.unique(own))
        if limit < classes:
            allowed = f"at least {classes}, one row for each class"
            problems.append(Problem(f"data.max_samples.{name}", limit, allowed))
        elif limit < len(kept):
            rows[name] = (source, kept[choose(own, limit, seed=seed, purpose=LIMIT, least=1)])
            notes.append(
                f"The {name} split is limited to {limit:,} of {len(kept):,} rows, {_how(by)}."
            )
    if problems:
        raise InputError(*problems)
    others = np.flatnonzero(~labelled)
    if len(others):
        drawn = [one for name, (source, one) in drawn_rows.items() if source == "train"]
        fitting = draw.fits(others, np.concatenate([np.empty(0, dtype=np.int64), *drawn]))
        if not fitting.all():
            notes.append(
                f"{int((~fitting).sum()):,} training rows without a label are left out, since they "
                "belong to another split"
            )
        others = others[fitting]
    if len(others):
        own = np.sort(np.concatenate([rows["train"][1], others]))
        rows["train"] = ("train", own)
        notes.append(
            f"{len(others):,} of {len(own):,} training rows have no label: only a teacher trains "
            "them"
        )
    return rows, tuple(notes)


def hide_labels(
    labels: Labels, rows: NDArray[np.int64], count: int, *, seed: int, key: str
) -> tuple[NDArray[np.int64], str]:
    """Draw the training rows that keep their label, each stratum in its share, at least one row.

    Args:
        labels: The labels of the source.
        rows: The training rows in the source's split `train`.
        count: The number of rows that keep their label.
        seed: The random seed.
        key: The key of the number in the recipe, for messages.

    Returns:
        The strata of the source's split `train`, -100 for the other training rows; and a note.

    Raises:
        InputError: The number is below that of the strata, or above that of the rows with a label.
    """
    found = labels.rows["train"]
    known = rows[found[rows] != UNLABELLED]
    least = len(np.unique(found[known]))
    if not least <= count <= len(known):
        allowed = f"{least:,} to {len(known):,}: a row of each {labels.by}, up to all with a label"
        raise InputError(Problem(key, count, allowed))
    chosen = choose(found[known], count, seed=seed, purpose=LABELLED, least=1)
    hidden = found.copy()
    hidden[known[~chosen]] = UNLABELLED
    note = (
        f"{count:,} of {len(known):,} training rows keep their label, stratified by {labels.by} "
        f"with split_seed {seed}: the others train under the teacher alone"
    )
    return hidden, note


def check_classes(labels: Mapping[str, NDArray[np.int64]], classes: Sequence[str]) -> list[str]:
    """Check that every class has training rows; note classes that another split lacks.

    Args:
        labels: The class of each row, by split.
        classes: The class names.

    Returns:
        Notes for the report.

    Raises:
        InputError: Classes have no training row; the message lists each with its rows.

    Example:
        >>> check_classes({"train": np.array([0, 1]), "test": np.array([1])}, ["a", "b"])
        ['test: no row of a (1 in train)']
    """
    counts = {name: np.bincount(one, minlength=len(classes)) for name, one in labels.items()}
    present = sum(counts.values()) > 0
    missing = {name: np.flatnonzero((one == 0) & present) for name, one in counts.items()}

    def listed(split: str) -> str:
        parts = []
        for index in missing[split][:SHOWN]:
            others = [f"{one[index]} in {name}" for name, one in counts.items() if name != split]
            parts.append(f"{classes[index]} ({', '.join(others)})")
        more = len(missing[split]) - len(parts)
        return ", ".join(parts) + (f" and {more} more" if more > 0 else "")

    if len(missing["train"]):
        fix = "Add rows of these classes, remove them, or keep fewer rows for the test."
        allowed = "at least one training row for each class"
        raise InputError(Problem("data (train)", f"no row of {listed('train')}", allowed, fix))
    return [f"{name}: no row of {listed(name)}" for name in counts if len(missing[name])]


def _how(by: str) -> str:
    """Return how rows are drawn; strata without a name are one."""
    return f"stratified by {by}" if by else "drawn at random"
