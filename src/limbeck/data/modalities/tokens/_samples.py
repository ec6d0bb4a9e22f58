"""Splits of token sequences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from limbeck.data.modalities.text import TextSpec, _tokenizers
from limbeck.data.modalities.tokens import TokensSpec, VocabularySpec
from limbeck.data.modalities.tokens._preprocess import (
    FIRST,
    TokensPreprocess,
    normal_form,
    with_prefix_space,
)
from limbeck.data.split import Division, Prepared, hash_of
from limbeck.errors import InputError, Problem

if TYPE_CHECKING:
    import datasets
    from numpy.typing import NDArray
    from torch import Tensor

    from limbeck.data.loaded import Loaded

    Words = list[tuple[str, ...]]

KEY, MOST_PROBLEMS = "data.tokens", 10


def prepare(settings: TokensSpec, loaded: Loaded, division: Division, *, workdir: Path) -> Prepared:
    """Build splits of token sequences; a vocabulary or a tokenizer is that of the training rows.

    Raises:
        InputError: A row has no words, or the tokenizer is missing or cannot encode them.
    """
    problems: list[Problem] = []
    rows = {
        name: _read(dataset, name, settings.column, problems)
        for name, dataset in loaded.splits.items()
    }
    if problems:
        raise InputError(*problems)
    chosen = {
        name: [rows[source][row] for row in numbers]
        for name, (source, numbers) in division.rows.items()
    }
    preprocess = make(settings, chosen["train"], workdir=workdir)
    samples = {name: Sequences(words, preprocess) for name, words in chosen.items()}
    splits = {name: division.split(name, one, preprocess) for name, one in samples.items()}
    hashes = {name: one.hashes for name, one in samples.items()}
    return Prepared(splits, preprocess, hashes, tuple(_notes(samples, preprocess)))


def _read(dataset: datasets.Dataset, split: str, column: str, problems: list[Problem]) -> Words:
    """Read the words of each row."""
    where, own, found = f"{KEY}.column ({column!r} in {split})", [], []
    for row, cell in enumerate(dataset.select_columns([column]).with_format(None)[:][column]):
        words = cell.split() if isinstance(cell, str) else cell
        if reason := _wrong(words):
            fix = "Remove the row from all columns." if words == [] else ""
            allowed = "a list of words, at least one, and none empty"
            own.append(Problem(f"{where}, row {row}", reason, allowed, fix))
        else:
            found.append(tuple(words))
    problems += own[:MOST_PROBLEMS]
    return found


def _wrong(words: Any) -> str:
    if not isinstance(words, list):
        return f"{words!r}"[:60]
    if not words:
        return "an empty list"
    for place, word in enumerate(words):
        if not isinstance(word, str) or not word.strip():
            return f"{word!r} as word {place}"[:60]
    return ""


def make(settings: TokensSpec, train: Words, *, workdir: Path) -> TokensPreprocess:
    """Build the preprocessing: a vocabulary of the training words, or a tokenizer.

    Raises:
        InputError: The tokenizer is missing, or has no padding token.
    """
    length = settings.max_length
    if settings.tokenizer is None:
        own = settings.vocabulary or VocabularySpec()
        words = _vocabulary(train, own)
        size = FIRST + len(words) + own.buckets
        return TokensPreprocess(length, size, vocabulary=words, buckets=own.buckets)
    texts = [" ".join(one) for one in train]
    spec = TextSpec(tokenizer=settings.tokenizer, max_length=length)
    try:
        made = _tokenizers.make(spec, texts, workdir=workdir)
    except InputError as error:
        problems = [replace(one, where=f"{KEY}.tokenizer") for one in error.problems]
        raise InputError(*problems) from error
    text = with_prefix_space(made.tokenizer)
    return TokensPreprocess(length, made.vocab_size, tokenizer=text, pad=made.pad)


def _vocabulary(rows: Iterable[Sequence[str]], settings: VocabularySpec) -> tuple[str, ...]:
    """Return the most frequent words; of equal counts the first in alphabetical order."""
    counts = Counter(normal_form(word) for words in rows for word in words)
    known = [word for word, count in counts.items() if count >= settings.min_count]
    return tuple(sorted(known, key=lambda word: (-counts[word], word))[: settings.size])


def _notes(samples: dict[str, Sequences], prepare: TokensPreprocess) -> Iterable[str]:
    """Describe the vocabulary, the unknown words and what was cut."""
    lost = {name: (one.lost, one.words) for name, one in samples.items() if one.lost}
    if lost:
        shown = ", ".join(f"{cut:,} of {all_:,} in {name}" for name, (cut, all_) in lost.items())
        unit = "words" if prepare.tokenizer is None else "pieces"
        yield (
            f"words cut at data.tokens.max_length, {prepare.max_length} {unit}, without a "
            f"prediction and in no score: {shown}"
        )
    if prepare.vocabulary is not None:
        unknown = ", ".join(f"{one.unknown:.1%} in {name}" for name, one in samples.items())
        yield f"vocabulary of {len(prepare.vocabulary):,} words; unknown words: {unknown}"


class Sequences:
    """Token sequences as one concatenated array of numbers, and the start of each.

    Args:
        rows: The words of each row.
        prepare: The preprocessing to numbers.

    Attributes:
        lengths: The number of positions of each row, int64 `[n]`.
        positions: The position of each word, `[words]` per row; -1 if it was cut.
        hashes: A hash of each row's words, ignoring case, `[n]`.
        words: The number of words.
        lost: The number of words that were cut, or have no piece.
        unknown: The share of words that are not in the vocabulary.

    Raises:
        InputError: The tokenizer fails, or has no piece for a row.
    """

    def __init__(self, rows: Words, prepare: TokensPreprocess) -> None:
        self._rows, self._pad = rows, prepare.pad
        try:
            encoded = prepare.encode(rows)
        # The library raises plain Exception, for instance if the unknown token is missing.
        except Exception as error:
            allowed = "a tokenizer that can encode every word"
            raise InputError(Problem(f"{KEY}.tokenizer", str(error), allowed)) from error
        self.positions = [one.positions for one in encoded]
        empty = [row for row, one in enumerate(self.positions) if (one < 0).all()]
        if empty:
            given = f"no piece of any word in {rows[empty[0]]!r}"[:100]
            raise InputError(Problem(f"{KEY}.tokenizer", given, "a piece of each row at least"))
        self.words = sum(map(len, rows))
        self.lost = sum(int((one < 0).sum()) for one in self.positions)
        self.lengths = torch.tensor([len(one.ids) for one in encoded], dtype=torch.int64)
        self._starts = self.lengths.cumsum(0) - self.lengths
        flat = np.concatenate([one.ids for one in encoded])
        words = flat if flat.ndim == 1 else flat[:, 0]
        self.unknown = float((words == 1).mean())
        self._flat = torch.from_numpy(flat)
        joined = ("\n".join(words).casefold() for words in rows)
        self.hashes: NDArray[np.uint64] = np.array(
            [hash_of(text.encode(errors="surrogatepass")) for text in joined], dtype=np.uint64
        )

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, index: Tensor) -> dict[str, Tensor]:
        """Return `input_ids` and `attention_mask`, int64 `[n, longest of the batch]`.

        With hashed affixes `input_ids` is `[n, longest of the batch, 6]`.
        """
        lengths = self.lengths[index, None]
        places = torch.arange(int(lengths.max()))
        mask = places < lengths
        where = (self._starts[index, None] + places).clamp_(max=len(self._flat) - 1)
        ids = self._flat[where]
        ids[~mask] = self._pad
        return {"input_ids": ids, "attention_mask": mask.to(torch.int64)}

    def raw(self, row: int) -> dict[str, Any]:
        """Return `text`: the words, joined by spaces."""
        return {"text": " ".join(self._rows[row])}
