"""Preprocessing of words to numbers, and what preprocess.json states about it.

With a vocabulary, a word is a row of numbers: its own in `vocabulary`, from 2 on (1 if it is
unknown), and those of the hashes of its prefix, suffixes and shape, after the words; 0 is padding.
With a tokenizer, tokenizer.json divides words into pieces.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from limbeck.core import files
from limbeck.core.imports import require
from limbeck.data.modalities.text._preprocess import SHOWN, TOKENIZER, Count, Length
from limbeck.data.preprocess import (
    LARGEST_FILE,
    Comparison,
    Named,
    Preprocess,
    Target,
    Tokenizer,
    parse_record,
)
from limbeck.errors import InputError, Problem

if TYPE_CHECKING:
    from numpy.typing import NDArray

PADDING, UNKNOWN, FIRST = 0, 1, 2
"""The numbers of padding, of an unknown word, and of the first word."""

WORD = re.compile(r"[^\W_]+(?:[.,'’@/&-][^\W_]+)*|[^\w\s]|_")
"""A word with its inner points, hyphens and apostrophes, or a punctuation mark."""

_DIGIT, _LETTER, _REPEATED = re.compile(r"\d"), re.compile(r"[^\W\d_]"), re.compile(r"(.)\1+")
ALLOWED = "a text, or a list of words"


class Sentence(NamedTuple):
    """A sequence of words.

    Attributes:
        words: The words, at least one.
        text: The text that they are of; empty if words were given.
        offsets: The first and the end character of each word in the text.
    """

    words: tuple[str, ...]
    text: str = ""
    offsets: tuple[tuple[int, int], ...] = ()


class Encoded(NamedTuple):
    """The numbers of a sequence.

    Attributes:
        ids: The numbers at each position, `[positions]` or `[positions, features]`.
        positions: The position of each word, or of its first piece, `[words]`; -1 if it was cut, or
            has no piece.
    """

    ids: NDArray[np.int64]
    positions: NDArray[np.int64]


def normal_form(word: str) -> str:
    """Return the form of a word in the vocabulary: in lower case, with 0 for each digit.

    Example:
        >>> normal_form("EFE2002")
        'efe0000'
    """
    return _DIGIT.sub("0", word.lower())


def affixes(word: str) -> tuple[str, ...]:
    """Return the prefix of three letters, suffixes of two, three and four, and the shape.

    Example:
        >>> affixes("Melbourne"), affixes("25")[-1]
        (('Mel', 'ne', 'rne', 'urne', 'Xxx'), '00')

    Source: Miranda et al. 2022, "Multi hash embeddings in spaCy".
    """
    shape = _LETTER.sub(lambda one: "X" if one[0].isupper() else "x", word)
    shape = _REPEATED.sub(r"\1\1", _DIGIT.sub("0", shape))[:8]
    return word[:3], word[-2:], word[-3:], word[-4:], shape


def divide(text: str) -> Sentence:
    """Divide a text into words and punctuation marks.

    Example:
        >>> divide("Me llamo Ana-María.").words
        ('Me', 'llamo', 'Ana-María', '.')
    """
    found = list(WORD.finditer(text))
    return Sentence(tuple(one[0] for one in found), text, tuple(one.span() for one in found))


@dataclass(frozen=True)
class TokensPreprocess(Preprocess):
    """Preprocessing of token sequences: from words to numbers.

    Attributes:
        max_length: Sequences are cut after this many positions.
        vocab_size: The number of different numbers.
        vocabulary: The words, numbered from 2; None with a tokenizer.
        buckets: The number of hash values of prefix, suffixes and shape; 0 for words only.
        tokenizer: The content of tokenizer.json; None with a vocabulary.
        pad: The number at padding.
        classes: The class names, in the order of the model's outputs.
        targets: None.
    """

    max_length: Length
    vocab_size: Count
    vocabulary: tuple[str, ...] | None = None
    buckets: Count = 0
    tokenizer: str | None = None
    pad: Count = PADDING
    kind: Literal["tokens"] = "tokens"
    classes: tuple[str, ...] = ()
    targets: tuple[Target, ...] = ()

    @property
    def tokenization(self) -> Tokenizer | None:
        """Return the tokenizer; None with a vocabulary."""
        return None if self.tokenizer is None else Tokenizer(self.tokenizer, self.max_length)

    @classmethod
    def complete(cls, content: dict[str, Any], folder: Path) -> dict[str, Any]:
        """Return the content of a preprocess.json with that of a tokenizer.json beside it."""
        if content.get("tokenizer") is None:
            return content
        text = files.read_text(folder / TOKENIZER, limit=LARGEST_FILE)
        return {**content, "tokenizer": text}

    def save(self, folder: Path) -> list[Path]:
        """Write preprocess.json, and tokenizer.json if there is one; return the paths written."""
        if self.tokenizer is None:
            return [self._write(folder)]
        files.write_text(folder / TOKENIZER, self.tokenizer)
        return [self._write(folder, tokenizer=TOKENIZER), folder / TOKENIZER]

    def model_inputs(self) -> dict[str, int]:
        """Return the number of different numbers, and that of padding."""
        return {"vocab_size": self.vocab_size, "pad_token": self.pad}

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {word: place for place, word in enumerate(self.vocabulary or (), start=FIRST)}

    @cached_property
    def _encoder(self) -> Any:
        encoder = require("tokenizers", extra="text").Tokenizer.from_str(self.tokenizer)
        encoder.no_padding()
        return encoder

    def encode(self, sequences: Sequence[Sequence[str]]) -> list[Encoded]:
        """Convert words to numbers, and find their positions.

        Example:
            >>> prepare = TokensPreprocess(8, vocab_size=4, vocabulary=("me", "ana"))
            >>> [one] = prepare.encode([["Me", "llamo", "Ana"]])
            >>> one.ids.tolist(), one.positions.tolist()
            ([2, 1, 3], [0, 1, 2])
        """
        if self.tokenizer is None:
            return [self._looked_up(words) for words in sequences]
        found = self._encoder.encode_batch([list(one) for one in sequences], is_pretokenized=True)
        return [
            _first_pieces(one.ids, one.word_ids, len(words))
            for one, words in zip(found, sequences, strict=True)
        ]

    def _looked_up(self, words: Sequence[str]) -> Encoded:
        kept = words[: self.max_length]
        ids = np.array([self._row(word) for word in kept], dtype=np.int64)
        positions = np.arange(len(words))
        positions[len(kept) :] = -1
        return Encoded(ids if self.buckets else ids[:, 0], positions)

    def _row(self, word: str) -> list[int]:
        row = [self._numbers.get(normal_form(word), UNKNOWN)]
        if self.buckets:
            first = FIRST + len(self._numbers)
            for place, part in enumerate(affixes(word)):
                text = f"{place}:{part}".encode(errors="surrogatepass")
                row.append(first + zlib.crc32(text) % self.buckets)
        return row

    def __call__(self, samples: Sequence[Sentence]) -> dict[str, NDArray[np.int64]]:
        """Convert sequences: return `input_ids` and `attention_mask`, padded to the longest.

        `input_ids` is `[n, longest]`; with buckets `[n, longest, 6]`.
        """
        encoded = self.encode([one.words for one in samples])
        longest = max(len(one.ids) for one in encoded)
        shape = (len(encoded), longest, *encoded[0].ids.shape[1:])
        ids = np.full(shape, self.pad, dtype=np.int64)
        mask = np.zeros(shape[:2], dtype=np.int64)
        for row, one in enumerate(encoded):
            ids[row, : len(one.ids)], mask[row, : len(one.ids)] = one.ids, 1
        return {"input_ids": ids, "attention_mask": mask}

    def places(self, samples: Sequence[Sentence]) -> list[NDArray[np.int64]]:
        """Return the position of each word, `[words]` per sample; -1 for words that were cut."""
        return [one.positions for one in self.encode([one.words for one in samples])]

    def read(self, value: object, *, where: str) -> Sentence:
        """Return a sequence of words; a text is divided into words and punctuation marks.

        Args:
            value: A text, a list of words, or a mapping with either as `tokens`.
            where: The name of the input in messages.

        Raises:
            InputError: The value is none of these, or has no word.

        Example:
            >>> prepare = TokensPreprocess(8, vocab_size=4, vocabulary=("me", "ana"))
            >>> prepare.read(["Me", "llamo"], where="input").words
            ('Me', 'llamo')
        """
        if isinstance(value, Mapping) and self.kind in value:
            value = value[self.kind]
        if isinstance(value, np.ndarray) and value.ndim == 1:
            value = value.tolist()
        if isinstance(value, str):
            found = divide(value)
        elif isinstance(value, list | tuple) and all(isinstance(one, str) for one in value):
            found = Sentence(tuple(value))
        else:
            raise InputError(Problem(where, value, ALLOWED))
        if not found.words:
            raise InputError(Problem(where, value, f"{ALLOWED}, with at least one word"))
        if any(not word.strip() for word in found.words):
            raise InputError(Problem(where, "an empty word", "words of at least one letter"))
        return found

    def named(self, argument: str, *, row_files: Sequence[str]) -> list[Named]:
        """Return the argument itself, a text; a file that cannot hold words is refused."""
        shown = argument if len(argument) <= SHOWN else f"{argument[:SHOWN]}..."
        if 0 < len(argument) < 4096 and Path(argument).exists():
            allowed = f"a text, or a file that ends in {', '.join(row_files)}"
            raise InputError(Problem(shown, "a file or a folder", allowed))
        return [(shown, argument)]

    def of_line(self, line: str) -> Any:
        """Return the input of one line: a JSON list of words, or a text."""
        parsed = parse_record(line)
        return parsed if isinstance(parsed, list | dict) else line

    def compare(self, comparison: Comparison) -> None:
        """Compare the tokenizer with the one beside a trained model's weights."""
        from limbeck.data.modalities.text._preprocess import TextPreprocess
        from limbeck.data.modalities.text._statement import compare

        if self.tokenizer is None:
            if comparison.found.tokenizer is not None:
                allowed = f"the tokenizer that {comparison.where} was trained with"
                fix = f"Set data.tokens.tokenizer: {comparison.found.tokenizer}"
                comparison.refuse("data.tokens", "a vocabulary of the training rows", allowed, fix)
            return
        own = TextPreprocess(self.tokenizer, self.max_length, self.pad, self.vocab_size)
        compare(own, comparison, key="data.tokens", change=with_prefix_space)


def _first_pieces(ids: list[int], word_ids: list[int | None], words: int) -> Encoded:
    positions = np.full(words, -1, dtype=np.int64)
    for place, word in enumerate(word_ids):
        if word is not None and positions[word] < 0:
            positions[word] = place
    return Encoded(np.array(ids, dtype=np.int64), positions)


def with_prefix_space(text: str) -> str:
    """Return a tokenizer.json whose byte-level tokenizer adds a space before each word.

    Words that were divided before have no space; transformers requires the same setting,
    `add_prefix_space=True`, for `is_split_into_words`.
    """
    content = json.loads(text)
    first = content.get("pre_tokenizer") or {}
    changed = False
    for one in (first, *first.get("pretokenizers", ())):
        if one.get("type") == "ByteLevel" and not one.get("add_prefix_space"):
            one["add_prefix_space"] = changed = True
    return json.dumps(content, ensure_ascii=False) if changed else text
