"""Splits of texts, as token ids."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from limbeck.data.modalities.text import _tokenizers
from limbeck.data.split import Division, Prepared, hash_of
from limbeck.errors import InputError, Problem

if TYPE_CHECKING:
    import datasets
    from numpy.typing import NDArray
    from torch import Tensor

    from limbeck.data.loaded import Loaded
    from limbeck.data.modalities.text import TextSpec
    from limbeck.data.modalities.text._preprocess import TextPreprocess


def prepare(
    column: str, settings: TextSpec, loaded: Loaded, division: Division, *, workdir: Path
) -> Prepared:
    """Build splits of texts; a tokenizer is trained on the training rows only.

    Raises:
        InputError: A row has no text; or the tokenizer is missing or cannot encode the texts.
    """
    check_texts(loaded.splits, column)
    chosen = {
        name: loaded.splits[source].select_columns([column]).select(rows)
        for name, (source, rows) in division.rows.items()
    }
    preprocess = _tokenizers.make(settings, list(chosen["train"][column]), workdir=workdir)
    where = f"data.columns.text ({column!r})"
    samples = {
        name: Texts(dataset, column, preprocess, where=f"{where[:-1]} in {name})")
        for name, dataset in chosen.items()
    }
    splits = {name: division.split(name, one, preprocess) for name, one in samples.items()}
    cut = [
        f"{one.cut:,} of {len(one):,} in {name} ({one.cut / len(one):.1%})"
        for name, one in samples.items()
        if one.cut
    ]
    note = f"texts cut at data.text.max_length, {settings.max_length} tokens: {', '.join(cut)}"
    hashes = {name: one.hashes for name, one in samples.items()}
    return Prepared(splits, preprocess, hashes, (note,) if cut else ())


def check_texts(splits: Mapping[str, datasets.Dataset], column: str) -> None:
    """Raise an error if a row has no text.

    Raises:
        InputError: Texts are missing; the message has their number and first row in each split.
    """
    problems = []
    for split, dataset in splits.items():
        values = list(dataset[column])
        wrong = [row for row, value in enumerate(values) if not isinstance(value, str)]
        if wrong:
            given = f"{values[wrong[0]]!r} in row {wrong[0]} ({len(wrong)} such rows)"
            where = f"data.columns.text ({column!r} in {split})"
            problems.append(Problem(where, given, "a text in every row"))
    if problems:
        raise InputError(*problems)


class Texts:
    """Texts as one concatenated array of token ids, and the start of each text.

    Args:
        dataset: The rows, for display.
        column: The text column.
        prepare: The preprocessing to token ids.
        where: The key in the recipe, for messages.

    Attributes:
        cut: The number of texts truncated at the preprocessing's `max_length`.
        hashes: A hash of each text, ignoring case and spaces, `[n]`.
        lengths: The number of tokens of each text, int64 `[n]`.

    Raises:
        InputError: The tokenizer fails, or has no token for a text.
    """

    def __init__(
        self, dataset: datasets.Dataset, column: str, prepare: TextPreprocess, *, where: str
    ) -> None:
        self._dataset = dataset
        self._column = column
        self._pad = prepare.pad
        texts = list(dataset[column])
        tokens, cut = _tokens(prepare, texts, where)
        self.cut = sum(cut)
        # Copies in another case are copies, too.
        plain = (" ".join(text.casefold().split()) for text in texts)
        self.hashes = np.array([hash_of(text.encode()) for text in plain], dtype=np.uint64)
        self.lengths = torch.tensor([len(text) for text in tokens], dtype=torch.int64)
        self._starts = self.lengths.cumsum(0) - self.lengths
        self._flat = torch.from_numpy(np.concatenate(tokens))

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, index: Tensor) -> dict[str, Tensor]:
        """Return `input_ids` and `attention_mask`, int64 `[n, longest of the batch]`."""
        lengths = self.lengths[index, None]
        places = torch.arange(int(lengths.max()))
        mask = places < lengths
        where = (self._starts[index, None] + places).clamp_(max=len(self._flat) - 1)
        tokens = self._flat[where].to(torch.int64).masked_fill_(~mask, self._pad)
        return {"input_ids": tokens, "attention_mask": mask.to(torch.int64)}

    def raw(self, row: int) -> dict[str, Any]:
        """Return `text`, as stored."""
        return {"text": self._dataset[row][self._column]}


def _tokens(
    prepare: TextPreprocess, texts: list[str], where: str
) -> tuple[list[NDArray[np.int32]], list[bool]]:
    try:
        found = list(prepare.tokens(texts))
    # The library raises plain Exception, for instance if the unknown token is missing.
    except Exception as error:
        allowed = "a tokenizer that can encode every text"
        raise InputError(Problem("data.text.tokenizer", str(error), allowed)) from error
    empty = [row for row, (tokens, _) in enumerate(found) if not len(tokens)]
    if empty:
        given = f"no token in row {empty[0]}, {texts[empty[0]]!r} ({len(empty)} such rows)"
        raise InputError(Problem(where, given, "a text with at least one token in every row"))
    return [tokens for tokens, _ in found], [cut for _, cut in found]
