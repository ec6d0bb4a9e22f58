"""Splits of token sequences with the labels of a language model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from limbeck.data.label import UNLABELLED, Labels
from limbeck.data.modalities.language import KEY, LanguageSpec
from limbeck.data.modalities.language._chat import Chat
from limbeck.data.modalities.language._preprocess import (
    CONFIG,
    LanguagePreprocess,
    Stated,
    stated_in,
)
from limbeck.data.modalities.text import _tokenizers
from limbeck.data.split import Division, Prepared, hash_of
from limbeck.errors import InputError, LimbeckError, Problem

if TYPE_CHECKING:
    import datasets
    from numpy.typing import NDArray
    from torch import Tensor

    from limbeck.data.label import Spatial
    from limbeck.data.loaded import Loaded
    from limbeck.data.preprocess import Preprocess
    from limbeck.data.rows import Batch, RowLabels, Samples

CHUNK, MOST_PROBLEMS = 1000, 10


class Tokens(NamedTuple):
    """The tokens of a row.

    Attributes:
        ids: The token ids, `[n]`.
        predicted: Whether a token is predicted, `[n]`.
        sizes: The bytes of UTF-8 text that a token adds, `[n]`; 0 for special tokens.
    """

    ids: NDArray[np.int32]
    predicted: NDArray[np.bool_]
    sizes: NDArray[np.int32]

    def part(self, start: int, stop: int) -> Tokens:
        """Return some of the tokens."""
        return Tokens(self.ids[start:stop], self.predicted[start:stop], self.sizes[start:stop])

    @classmethod
    def joined(cls, rows: Sequence[Tokens]) -> Tokens:
        """Return the tokens of several rows, one after another."""
        return cls(
            np.concatenate([one.ids for one in rows]),
            np.concatenate([one.predicted for one in rows]),
            np.concatenate([one.sizes for one in rows]),
        )


@dataclass(frozen=True)
class NextTokens(Labels):
    """The labels of a language model: each sequence's own tokens."""

    @classmethod
    def of_rows(cls, loaded: Loaded) -> NextTokens:
        """Return the labels of a source's rows, which have one stratum."""
        rows = {name: np.zeros(len(one), dtype=np.int64) for name, one in loaded.splits.items()}
        return cls(rows, classes=(), by="")

    def of(
        self, source: str, rows: NDArray[np.int64], samples: Samples, prepare: Preprocess
    ) -> RowLabels:
        """Return the labels of token sequences."""
        if not isinstance(samples, Sequences):
            raise ValueError("next tokens are labels of token sequences")
        return SequenceLabels(samples)


def prepare(settings: LanguageSpec, loaded: Loaded, division: Division) -> Prepared:
    """Build splits of token sequences.

    Raises:
        InputError: The tokenizer is missing, a row has no text, or no token of a row is predicted.
    """
    problems: list[Problem] = []
    rows = {
        name: _read(loaded.splits[source].select(numbers), name, settings, problems)
        for name, (source, numbers) in division.rows.items()
    }
    if problems:
        raise InputError(*problems)
    preprocess = make(settings, [str(one) for one in rows["train"][:64]])
    tokenize = Tokenize(settings, preprocess)
    tokens = {name: tokenize(one, f"{KEY} (in {name})") for name, one in rows.items()}
    samples = {
        name: Sequences(_packed(one, settings.max_length) if settings.packed else one, preprocess)
        for name, one in tokens.items()
    }
    splits = {name: division.split(name, one, preprocess) for name, one in samples.items()}
    hashes = {
        name: np.array([hash_of(row.ids) for row in one], dtype=np.uint64)
        for name, one in tokens.items()
    }
    return Prepared(splits, preprocess, hashes, tuple(_notes(samples, settings, tokenize.cut)))


def make(settings: LanguageSpec, texts: Sequence[str]) -> LanguagePreprocess:
    """Load the tokenizer, and the chat template and the end token beside it.

    Raises:
        InputError: There is no such tokenizer, or it has no end token that is to be appended.
    """
    where = f"{KEY}.tokenizer"
    try:
        tokenizer = _tokenizers.find(settings.tokenizer, texts)
    except InputError as error:
        raise InputError(*(replace(one, where=where) for one in error.problems)) from error
    stated = _beside(settings.tokenizer)
    name = stated.eos
    eos = None if name is None else tokenizer.token_to_id(name)
    if eos is None and settings.append_eos:
        given = f"{settings.tokenizer}: no eos_token in {CONFIG}"
        fix = "Name it there, or set data.language.append_eos: false."
        raise InputError(Problem(where, given, "a tokenizer with an end token", fix))
    try:
        pad = _tokenizers.padding_of(tokenizer, settings.tokenizer)
    except InputError:  # padding has no weight: any token serves
        pad = eos or 0
    tokenizer.no_padding()
    tokenizer.no_truncation()
    size = _tokenizers.vocabulary_size(tokenizer)
    return LanguagePreprocess(
        tokenizer.to_str(),
        settings.max_length,
        pad=pad,
        vocab_size=size,
        eos=eos,
        template=stated.template,
    )


def _beside(name: str) -> Stated:
    """Read tokenizer_config.json and the chat template beside a tokenizer, if there are any."""
    folder = _tokenizers.folder_of(name)
    if folder is None and Path(name).is_file():
        folder = Path(name).parent
    if folder is None:
        return Stated()
    return stated_in(folder)


def _read(
    rows: datasets.Dataset, split: str, settings: LanguageSpec, problems: list[Problem]
) -> list[Any]:
    """Return a document, a pair of prompt and response, or a list of messages for each row."""
    columns = list(settings.columns)
    content = rows.select_columns(columns).with_format(None)[:]
    found, own = [], []
    for place, cells in enumerate(zip(*(content[name] for name in columns), strict=True)):
        if settings.messages is not None:
            reason = _wrong_chat(cells[0])
            allowed = "a list of messages with role and content, one of the assistant at least"
        else:
            wrong = [one for one in cells if not isinstance(one, str) or not one.strip()]
            reason, allowed = (f"{wrong[0]!r}" if wrong else ""), "a text"
        if reason:
            where = f"{KEY}.{'messages' if settings.messages else 'column'} (in {split})"
            own.append(Problem(f"{where}, row {place}", reason[:80], allowed))
            continue
        found.append(cells if len(cells) > 1 else cells[0])
    problems += own[:MOST_PROBLEMS]
    return found


def _wrong_chat(cell: Any) -> str:
    if isinstance(cell, str):  # as many data sets store it
        try:
            cell = json.loads(cell)
        except ValueError:
            return repr(cell)
    good = isinstance(cell, list) and all(
        isinstance(one, dict) and isinstance(one.get("role"), str) for one in cell
    )
    if not good or not any(one["role"] == "assistant" for one in cell):
        return repr(cell)
    return ""


class Tokenize:
    """The conversion of rows to tokens.

    Args:
        settings: The settings.
        preprocess: The tokenizer.

    Attributes:
        cut: The number of rows that were cut at `max_length`.
    """

    def __init__(self, settings: LanguageSpec, preprocess: LanguagePreprocess) -> None:
        self._settings, self._encoder = settings, preprocess.encoder
        self._eos = preprocess.eos if settings.append_eos else None
        self._chat = None if settings.messages is None else Chat(preprocess)
        self.cut = 0

    def __call__(self, rows: list[Any], where: str) -> list[Tokens]:
        """Convert rows.

        Raises:
            InputError: No token of a row is predicted.
        """
        if self._chat is not None:
            found = [self._chat(row, f"{where}, row {place}") for place, row in enumerate(rows)]
        elif self._settings.documents:
            found = self._texts(rows, special=True, predicted=True, end=True)
        else:
            prompts = self._texts([row[0] for row in rows], special=True, predicted=False)
            answers = self._texts([row[1] for row in rows], special=False, predicted=True, end=True)
            found = [Tokens.joined(pair) for pair in zip(prompts, answers, strict=True)]
        if not self._settings.packed:
            most = self._settings.max_length
            self.cut += sum(len(one.ids) > most for one in found)
            found = [one.part(0, most) for one in found]
        # The first token of a sequence is not predicted: nothing precedes it.
        empty = [place for place, one in enumerate(found) if not one.predicted[1:].any()]
        if empty:
            given = f"no predicted token in row {empty[0]} ({len(empty)} such rows)"
            fix = "A prompt of max_length tokens leaves no response: raise data.language.max_length"
            raise InputError(Problem(where, given, "a token to predict in every row", f"{fix}."))
        return found

    def _texts(
        self, texts: list[str], *, special: bool, predicted: bool, end: bool = False
    ) -> list[Tokens]:
        rows = []
        for start in range(0, len(texts), CHUNK):
            part = texts[start : start + CHUNK]
            encoded = self._encoder.encode_batch(part, add_special_tokens=special)
            for text, one in zip(part, encoded, strict=True):
                ids, sizes = list(one.ids), token_sizes(text, one.offsets)
                if end and self._eos is not None and (not ids or ids[-1] != self._eos):
                    ids, sizes = [*ids, self._eos], [*sizes, 0]
                rows.append(
                    Tokens(
                        np.array(ids, dtype=np.int32),
                        np.full(len(ids), predicted),
                        np.array(sizes, dtype=np.int32),
                    )
                )
        return rows


def token_sizes(text: str, offsets: Sequence[tuple[int, int]]) -> list[int]:
    """Count the bytes of UTF-8 that each token adds to those before it.

    Tokens of one character's bytes have the same offsets: the first of them adds all bytes. The
    sizes of a text's tokens sum to its bytes up to the last token.

    Example:
        >>> token_sizes("aé b", [(0, 1), (1, 2), (1, 2), (2, 4)])
        [1, 2, 0, 2]
    """
    if text.isascii():
        ends = [end for _, end in offsets]
    else:
        before = np.cumsum([0, *(len(one.encode(errors="surrogatepass")) for one in text)])
        ends = [int(before[end]) for _, end in offsets]
    reached, sizes = 0, []
    for end in ends:
        sizes.append(max(0, end - reached))
        reached = max(reached, end)
    return sizes


def _packed(rows: list[Tokens], length: int) -> list[Tokens]:
    """Join rows, and divide them into sequences of a length; the last may be shorter."""
    whole = Tokens.joined(rows)
    starts = range(0, len(whole.ids), length)
    parts = [whole.part(start, start + length) for start in starts]
    return parts if len(parts) == 1 or len(parts[-1].ids) > 1 else parts[:-1]


def _notes(samples: dict[str, Sequences], settings: LanguageSpec, cut: int) -> Iterable[str]:
    counts = ", ".join(f"{name} {one.predicted:,}" for name, one in samples.items())
    yield f"predicted tokens: {counts}"
    if settings.packed:
        yield f"documents are joined to sequences of {settings.max_length} tokens"
    if cut:
        yield f"rows cut at data.language.max_length, {settings.max_length} tokens: {cut:,}"


class Sequences:
    """Token sequences as one concatenated array, and the start of each.

    Args:
        rows: The tokens of each sequence.
        preprocess: The tokenizer.

    Attributes:
        lengths: The number of tokens of each sequence, int64 `[n]`.
        predicted: The number of predicted tokens.
    """

    def __init__(self, rows: list[Tokens], preprocess: LanguagePreprocess) -> None:
        self._preprocess = preprocess
        self.lengths = torch.tensor([len(one.ids) for one in rows], dtype=torch.int64)
        self._starts = self.lengths.cumsum(0) - self.lengths
        ids, predicted, sizes = Tokens.joined(rows)
        first = self._starts.numpy()
        predicted = predicted.copy()
        predicted[first] = False
        self._ids, self._sizes = torch.from_numpy(ids), torch.from_numpy(sizes)
        self._predicted = torch.from_numpy(predicted)
        self.predicted = int(predicted.sum())

    def __len__(self) -> int:
        return len(self.lengths)

    def _places(self, index: Tensor) -> tuple[Tensor, Tensor]:
        lengths = self.lengths[index, None]
        places = torch.arange(int(lengths.max()))
        where = (self._starts[index, None] + places).clamp_(max=len(self._ids) - 1)
        return where, places < lengths

    def batch(self, index: Tensor) -> Batch:
        """Return `input_ids` and `attention_mask`, int64 `[n, longest]`, padded on the right."""
        where, mask = self._places(index)
        ids = self._ids[where].to(torch.int64).masked_fill_(~mask, self._preprocess.pad)
        return {"input_ids": ids, "attention_mask": mask.to(torch.int64)}

    def targets(self, index: Tensor) -> Batch:
        """Return `labels` and `target_bytes`, int64 `[n, longest]`.

        The label of a position is its own token, -100 where it is not predicted, as in
        transformers; `target_bytes` is the number of bytes of text of each predicted token.
        """
        where, mask = self._places(index)
        kept = mask & self._predicted[where]
        labels = self._ids[where].to(torch.int64).masked_fill_(~kept, UNLABELLED)
        sizes = self._sizes[where].to(torch.int64).masked_fill_(~kept, 0)
        return {"labels": labels, "target_bytes": sizes}

    def raw(self, row: int) -> dict[str, Any]:
        """Return `text`, decoded."""
        start, length = int(self._starts[row]), int(self.lengths[row])
        return {"text": self._preprocess.decode(self._ids[start : start + length].tolist())}


class SequenceLabels:
    """The labels of token sequences.

    Args:
        sequences: The sequences.
    """

    spatial: Sequence[Spatial] = ()

    def __init__(self, sequences: Sequences) -> None:
        self._sequences = sequences
        self.strata = torch.zeros(len(sequences), dtype=torch.int64)

    def __len__(self) -> int:
        return len(self._sequences)

    @property
    def tensor(self) -> Tensor:
        """Raise: sequences have different lengths."""
        raise LimbeckError("Next tokens have no tensor of all labels: read those of the batches.")

    def batch(self, index: Tensor) -> Batch:
        """Return `labels` and `target_bytes`."""
        return self._sequences.targets(index)

    def class_counts(self, classes: int) -> list[int]:
        """Return none: a vocabulary has no class balance."""
        return []
