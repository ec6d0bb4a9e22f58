"""A tag per word: labels of token sequences, such as the entities of a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from pydantic import Field

from limbeck.core.entity_spans import OUTSIDE, is_bio, is_bio_tag
from limbeck.data.label import UNLABELLED, LabelKind, Labels, Loadable, Spatial
from limbeck.data.labels._class_names import class_rows
from limbeck.data.settings import Settings, duplicates
from limbeck.data.stratify import hide_labels
from limbeck.errors import InputError, LimbeckError, Problem, did_you_mean

if TYPE_CHECKING:
    import datasets
    from numpy.typing import NDArray
    from torch import Tensor

    from limbeck.data.preprocess import Preprocess
    from limbeck.data.rows import Batch, RowLabels, Samples
    from limbeck.data.spec import DataSpec

MOST_PROBLEMS = 10
KEY = "data.tags"
Scheme = Literal["BIO", "none"]


class TagSpec(Settings):
    """Settings of a tag per word: a column with a list for each row.

    Attributes:
        column: The column of the tags: for each row a list of names or numbers, one per word; null
            or -100 for a word without a tag. A text is divided at white space.
        scheme: `BIO` for entities: the classes are O, and B-TYPE and I-TYPE for each type; `none`
            for tags that are independent of each other, such as parts of speech.
        classes: The tags, in the order of the numbers; those of the training rows if not given: O
            first, the others in alphabetical order.
        labelled: The number of training rows that keep their tags, stratified by their rarest tag:
            the others train under the teacher alone, as in semi-supervised learning.
    """

    column: str = "ner_tags"
    scheme: Scheme = "BIO"
    classes: Annotated[tuple[str, ...], Field(min_length=2)] | None = None
    labelled: Annotated[int, Field(ge=1, le=10**12)] | None = None


class TagKeys(Settings):
    """The keys of labels that are tags.

    Attributes:
        tags: The tags of words; the label column is then not used.
    """

    tags: TagSpec | None = None


@runtime_checkable
class HasWords(Protocol):
    """Samples that are sequences of words, with the position of each in the model's input."""

    @property
    def lengths(self) -> Tensor:
        """Return the number of positions of each row, int64 `[rows]`."""
        ...

    @property
    def positions(self) -> list[NDArray[np.int64]]:
        """Return the position of each word, `[words]` per row; -1 for a word that was cut."""
        ...


@dataclass(frozen=True)
class TagLabels(Labels):
    """The tags of the source's rows; the stratum of a row is its rarest tag.

    Attributes:
        numbers: The class of each word, int64 `[words]` per row, -100 without a tag, by the
            source's split.
    """

    numbers: dict[str, list[NDArray[np.int64]]] = field(default_factory=dict)

    def of(
        self, source: str, rows: NDArray[np.int64], samples: Samples, prepare: Preprocess
    ) -> RowLabels:
        """Return the tags of some rows, at the positions of their words.

        Raises:
            InputError: The data are no words, or a row has another number of tags than of words.
        """
        if not isinstance(samples, HasWords):
            raise InputError(Problem(KEY, f"data of the kind {prepare.kind}", "tokens"))
        placed, words, problems = [], [], []
        lengths = samples.lengths.tolist()
        for row, positions, length in zip(rows.tolist(), samples.positions, lengths, strict=True):
            tags = self.numbers[source][row]
            if len(tags) != len(positions):
                where = f"{KEY}.column (row {row} of {source})"
                allowed = f"{len(positions)}, one for each word"
                problems.append(Problem(where, f"{len(tags)} tags", allowed))
                continue
            labels = np.full(length, UNLABELLED, dtype=np.int64)
            labels[positions[positions >= 0]] = tags[positions >= 0]
            placed.append(labels)
            words.append(np.isin(np.arange(length), positions))
        if problems:
            raise InputError(*problems[:MOST_PROBLEMS])
        return TagRows(placed, self.rows[source][rows], words)

    def check(self, rows: Mapping[str, tuple[str, NDArray[np.int64]]]) -> list[str]:
        """Check that each split has tags, and training those of every class that a split has."""
        counts = {
            name: _counts([self.numbers[source][row] for row in own], len(self.classes))
            for name, (source, own) in rows.items()
        }
        empty = [name for name, one in counts.items() if not one.any()]
        if empty:
            fix = "Every word may lack its tag, but a split without any cannot be scored."
            raise InputError(
                *(Problem(f"{KEY} ({name})", "no tag", "words with tags", fix) for name in empty)
            )
        missing = {name: np.flatnonzero(one == 0) for name, one in counts.items()}
        total = np.sum(list(counts.values()), axis=0)
        unseen = [self.classes[number] for number in missing["train"] if total[number]]
        if unseen:
            fix = "Add rows with these tags to train, or leave the classes out."
            given = f"no tag {', '.join(unseen)}, which another split has"
            raise InputError(Problem(f"{KEY} (train)", given, "words of each class in train", fix))
        return [
            f"{name}: no tag {', '.join(self.classes[number] for number in one)}"
            for name, one in missing.items()
            if len(one)
        ]


class TagRows:
    """The tags of a split, padded to the longest row of each batch.

    Args:
        tags: The class at each position of each row, int64 `[positions]`; -100 where there is none.
        strata: The stratum of each row, int64 `[rows]`.
        words: Whether each position of each row is that of a word, bool `[positions]`; by default
            those with a tag.

    Example:
        >>> import torch
        >>> rows = TagRows([np.array([1]), np.array([2, -100, 0])], np.zeros(2, np.int64))
        >>> rows.batch(torch.arange(2))["labels"]
        tensor([[   1, -100, -100],
                [   2, -100,    0]])
    """

    spatial: Sequence[Spatial] = ()

    def __init__(
        self,
        tags: list[NDArray[np.int64]],
        strata: NDArray[np.int64],
        words: Sequence[NDArray[np.bool_]] = (),
    ) -> None:
        import torch

        self._tags = [torch.from_numpy(one) for one in tags]
        self.strata = torch.from_numpy(strata)
        pairs = zip(words, tags, strict=False)
        partly = any((tags[is_word] == UNLABELLED).any() for is_word, tags in pairs)
        self._words = [torch.from_numpy(one) for one in words] if partly else []

    def __len__(self) -> int:
        return len(self._tags)

    @property
    def tensor(self) -> Tensor:
        """Raise: rows have different numbers of words."""
        raise LimbeckError("Tags have no tensor of all labels: read `labels` of the batches.")

    def batch(self, index: Tensor) -> Batch:
        """Return `labels`, int64 `[n, longest of the batch]`, -100 where there is no tag.

        If some words of the split have none, `words`, bool of the same shape, is where words are.
        """
        from torch.nn.utils.rnn import pad_sequence

        rows = [self._tags[row] for row in index.tolist()]
        batch = {"labels": pad_sequence(rows, batch_first=True, padding_value=UNLABELLED)}
        if self._words:
            words = [self._words[row] for row in index.tolist()]
            batch["words"] = pad_sequence(words, batch_first=True, padding_value=False)
        return batch

    def class_counts(self, classes: int) -> list[int]:
        """Count the words of each class."""
        return _counts([one.numpy() for one in self._tags], classes).tolist()


class Tags(LabelKind[TagKeys]):
    """A tag per word."""

    name: ClassVar[str] = "tags"
    keys: ClassVar[type[Settings]] = TagKeys
    entries: ClassVar[frozenset[str]] = frozenset({"labels", "words"})

    def _settings(self, spec: DataSpec) -> TagSpec:
        return self.of(spec).tags or TagSpec()

    def check(self, spec: DataSpec) -> None:
        """Check that each class is named once, and that the names are those of the scheme."""
        own = self._settings(spec)
        if repeated := duplicates(own.classes or ()):
            raise ValueError(f"tags.classes names {repeated} twice; allowed: each once")
        if own.classes and (reason := _scheme_problem(own.scheme, own.classes)):
            raise ValueError(f"tags.classes: {reason}")

    def columns(self, spec: DataSpec) -> dict[str, str]:
        """Return the column of the tags."""
        return {self._settings(spec).column: f"{KEY}.column"}

    def read(self, spec: DataSpec, loaded: Loadable) -> Labels:
        """Read the tags of all words of all splits.

        Raises:
            InputError: A row has no list of tags, a tag is no class, or the classes do not follow
                the scheme; the message lists the first ten problems of each split.
        """
        own = self._settings(spec)
        problems: list[Problem] = []
        cells = {
            name: _lists(dataset, name, own.column, problems)
            for name, dataset in loaded.splits.items()
        }
        if problems:
            raise InputError(*problems)
        flat = {name: _flat(loaded.splits[name], own.column, one) for name, one in cells.items()}
        flat = {name: one for name, one in flat.items() if len(one)}
        if "train" not in flat:
            raise InputError(Problem(f"{KEY} (train)", "no tag", "words with tags"))
        classes = own.classes or _names(flat["train"], own.column)
        numbers, classes, notes = class_rows(flat, own.column, classes, key=f"{KEY}.column")
        if reason := _scheme_problem(own.scheme, classes):
            raise InputError(Problem(KEY, ", ".join(classes), *reason.split("; ", 1)))
        each = {
            name: _per_row(numbers.get(name, np.zeros(0, np.int64)), one)
            for name, one in cells.items()
        }
        if own.scheme == "BIO":
            notes = (*notes, *_beginnings(each, classes))
        strata = _rarest(each, len(classes))
        return TagLabels(strata, classes, notes, "the rarest tag in the row", numbers=each)

    def limit(
        self, spec: DataSpec, labels: Labels, rows: NDArray[np.int64]
    ) -> tuple[Labels, tuple[str, ...]]:
        """Return labels without the tags of all training rows but some, drawn with `split_seed`."""
        count = self._settings(spec).labelled
        if count is None or not isinstance(labels, TagLabels):
            return labels, ()
        hidden, note = hide_labels(labels, rows, count, seed=spec.split_seed, key=f"{KEY}.labelled")
        numbers = [
            np.full_like(one, UNLABELLED) if stratum == UNLABELLED else one
            for one, stratum in zip(labels.numbers["train"], hidden, strict=True)
        ]
        return replace(
            labels,
            rows={**labels.rows, "train": hidden},
            numbers={**labels.numbers, "train": numbers},
        ), (note,)


kind = Tags()


def _scheme_problem(scheme: Scheme, classes: Sequence[str]) -> str:
    """Return what is allowed and the fix, if the classes do not follow the scheme."""
    if scheme == "none":
        if not is_bio(classes):
            return ""
        return "names that are no BIO tags, for scheme: none; Set tags.scheme: BIO"
    if is_bio(classes):
        return ""
    wrong = [name for name in classes if not is_bio_tag(name)]
    fix = f"{did_you_mean(wrong[0], [OUTSIDE])} " if wrong else ""
    fix += f"Not so: {', '.join(wrong) or 'without O'}. "
    fix += "Set tags.scheme: none, if the tags are no entities."
    return f"O, and B-TYPE and I-TYPE for each type of entity; {fix.strip()}"


def _lists(
    dataset: datasets.Dataset, split: str, column: str, problems: list[Problem]
) -> list[list[Any]]:
    """Return the tags of each row; null and -100 become None."""
    where, own, found = f"{KEY}.column ({column!r} in {split})", [], []
    for row, cell in enumerate(dataset.select_columns([column]).with_format(None)[:][column]):
        tags = cell.split() if isinstance(cell, str) else cell
        if not isinstance(tags, list):
            given = "null" if tags is None else f"{tags!r}"[:60]
            own.append(Problem(f"{where}, row {row}", given, "a list of tags, one for each word"))
            continue
        found.append([None if tag in (None, UNLABELLED) else tag for tag in tags])
    problems += own[:MOST_PROBLEMS]
    return found


def _flat(dataset: datasets.Dataset, column: str, cells: list[list[Any]]) -> datasets.Dataset:
    """Return the tags of all words that have one, a row each."""
    import datasets

    feature = dataset.features[column]
    inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", feature)
    flat = {column: [tag for cell in cells for tag in cell if tag is not None]}
    return datasets.Dataset.from_dict(flat, features=datasets.Features({column: inner}))


def _names(train: datasets.Dataset, column: str) -> tuple[str, ...] | None:
    """Return the tags of the training words, O first; None if the source numbers or names them."""
    if getattr(train.features[column], "names", None):
        return None
    found = set(train.unique(column))
    if not all(isinstance(one, str) for one in found):
        return None
    return tuple(sorted(found, key=lambda name: (name != OUTSIDE, name)))


def _per_row(numbers: NDArray[np.int64], cells: list[list[Any]]) -> list[NDArray[np.int64]]:
    """Return the class of each word, -100 without a tag, by row."""
    tagged = np.array([tag is not None for cell in cells for tag in cell], dtype=bool)
    flat = np.full(len(tagged), UNLABELLED, dtype=np.int64)
    flat[tagged] = numbers
    return np.split(flat, np.cumsum([len(one) for one in cells])[:-1])


def _counts(rows: list[NDArray[np.int64]], classes: int) -> NDArray[np.int64]:
    flat = np.concatenate(rows) if rows else np.zeros(0, np.int64)
    return np.bincount(flat[flat >= 0], minlength=classes)


def _beginnings(
    numbers: Mapping[str, list[NDArray[np.int64]]], classes: Sequence[str]
) -> list[str]:
    """Return notes on `I-` tags that continue no entity of their type."""
    inside = np.array([name.startswith("I-") for name in classes] + [False])
    types = [name[2:] for name in classes]
    kind = np.array([types.index(one) for one in types] + [-1])  # the last is for no tag
    notes = []
    for name, rows in numbers.items():
        wrong = 0
        for row in rows:
            now = np.where(row < 0, len(classes), row)
            before = np.concatenate([[len(classes)], now[:-1]])
            wrong += int((inside[now] & (kind[now] != kind[before])).sum())
        if wrong:
            notes.append(f"{name}: {wrong:,} I- tags without an entity before begin one")
    return notes


def _rarest(
    numbers: Mapping[str, list[NDArray[np.int64]]], classes: int
) -> dict[str, NDArray[np.int64]]:
    """Return the tag of each row that occurs in the fewest training rows.

    Rows without a tag have a stratum of their own, the number of classes; in train they have -100.
    """
    found = {
        name: np.stack([np.bincount(own[own >= 0], minlength=classes) > 0 for own in one])
        for name, one in numbers.items()
    }
    order = np.argsort(found["train"].sum(axis=0), kind="stable")
    return {
        name: np.where(
            one.any(axis=1),
            order[one[:, order].argmax(axis=1)],
            UNLABELLED if name == "train" else classes,
        )
        for name, one in found.items()
    }
