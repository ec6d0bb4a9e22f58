"""Alignment of two tokenizations of one text, by UTF-8 bytes.

A token's bytes are read from its string in the vocabulary: byte-level BPE ("Ġthe"), SentencePiece
with byte fallback ("▁the", "<0x0A>"). If these do not spell the text (WordPiece, unknown tokens,
a normaliser that changes characters), the tokenizer's offsets in characters are used.
"""

from __future__ import annotations

import json
import re
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np

from limbeck.errors import InputError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from tokenizers import Encoding, Tokenizer

NO_CHUNK = -1
Style: TypeAlias = Literal["byte_level", "sentencepiece", "wordpiece", "plain"]

_FALLBACK = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE = "▁"


class Spans(NamedTuple):
    """The bytes of a text that each token covers.

    Attributes:
        ids: The token ids, int64 `[tokens]`.
        starts: The first byte of each token, int64 `[tokens]`.
        ends: The byte after each token, int64 `[tokens]`; equal to `starts` for a token without
            bytes.
        special: Whether the tokenizer's template added a token (BOS, EOS), bool `[tokens]`.
    """

    ids: NDArray[np.int64]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    special: NDArray[np.bool_]


class Alignment(NamedTuple):
    """The chunks of a text under two tokenizers: the smallest spans that both close.

    Attributes:
        first: The chunk of each token of the first tokenizer, int64 `[tokens]`; -1 for special
            tokens, which have no bytes.
        second: The chunk of each token of the second tokenizer.
        ends: The byte after each chunk, int64 `[chunks]`, ascending; the last is the text's size.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    ends: NDArray[np.int64]

    def chunks(self, text: str) -> list[bytes]:
        """Return the UTF-8 bytes of each chunk, which concatenate to the text.

        A chunk may end within a character, if both tokenizers divide that character there.
        """
        content = text.encode()
        starts = [0, *self.ends[:-1].tolist()]
        return [content[start:end] for start, end in zip(starts, self.ends.tolist(), strict=True)]


class TokenBytes:
    """The bytes of the tokens of a tokenizer.

    Args:
        tokenizer: A tokenizer of the library `tokenizers`. Padding and truncation are ignored in
            `spans`, which reads encodings.

    Example:
        >>> from tokenizers import Tokenizer, models, pre_tokenizers
        >>> bpe = Tokenizer(models.BPE({"Ġ": 0, "a": 1, "Ġa": 2}, [("Ġ", "a")]))
        >>> bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        >>> TokenBytes(bpe).canonical[2]
        b' a'
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.style = style_of(json.loads(tokenizer.to_str()))
        self._added = {id: one.content for id, one in tokenizer.get_added_tokens_decoder().items()}

    @cached_property
    def canonical(self) -> dict[int, bytes]:
        """Return the bytes of each token, with one notation for all tokenizers.

        "▁the" of SentencePiece, "Ġthe" of byte-level BPE and "the" of WordPiece, which starts a
        word, are b" the"; "##ing" is b"ing". Special tokens are left out: they have no bytes.
        """
        decoder = self._tokenizer.get_added_tokens_decoder()
        found = {}
        for token, id in self._tokenizer.get_vocab(with_added_tokens=True).items():
            if id in decoder:
                if not decoder[id].special:
                    found[id] = token.encode()
            else:
                found[id] = _bytes_of(token, self.style)
        return found

    def token(self, id: int) -> str:
        """Return the string of a token in the vocabulary."""
        return self._tokenizer.id_to_token(id) or ""

    def spans(self, text: str, encoding: Encoding) -> Spans:
        """Return the bytes of a text that each token covers.

        Raises:
            InputError: A text has no token except special ones.
        """
        special = np.array(encoding.special_tokens_mask, dtype=bool)
        content = text.encode()
        kept = np.flatnonzero(~special)
        if content and not len(kept):
            fix = "Leave the row out: no token covers its text."
            raise InputError(Problem("text", repr(text)[:80], "a text with tokens", fix))
        tokens = [encoding.tokens[place] for place in kept]
        own = self._exact([encoding.ids[place] for place in kept], tokens, content)
        if own is None:
            own = _by_offsets(text, [encoding.offsets[place] for place in kept])
        # A special token is between the tokens beside it.
        ends = np.zeros(len(special), dtype=np.int64)
        ends[kept] = own
        ends = np.maximum.accumulate(ends) if len(ends) else ends
        starts = np.concatenate([[0], ends[:-1]]).astype(np.int64)[: len(ends)]
        return Spans(np.array(encoding.ids, dtype=np.int64), starts, ends, special)

    def _exact(
        self, ids: Sequence[int], tokens: Sequence[str], content: bytes
    ) -> NDArray[np.int64] | None:
        """Return the end of each token, or None if the tokens' bytes do not spell the text.

        One space before the text is ignored: SentencePiece adds it.
        """
        if self.style == "wordpiece":
            return None
        parts = [
            self._added[id].encode() if id in self._added else _bytes_of(token, self.style)
            for id, token in zip(ids, tokens, strict=True)
        ]
        spelled = b"".join(parts)
        if spelled == content:
            before = 0
        elif spelled == b" " + content:
            before = 1
        else:
            return None
        ends = np.cumsum([len(part) for part in parts], dtype=np.int64) - before
        return np.maximum(ends, 0)


def align(first: Spans, second: Spans) -> Alignment:
    """Return the smallest spans of bytes that both tokenizers close.

    A token without bytes, such as SentencePiece's space before a text, belongs to the chunk that
    follows, or to the last.

    Args:
        first: The spans of one tokenizer.
        second: The spans of the other, of the same text.

    Raises:
        InputError: The texts have different sizes.

    Example:
        >>> def spans(*ends):
        ...     n, ends = len(ends), np.array(ends)
        ...     starts = np.concatenate([[0], ends[:-1]])
        ...     return Spans(np.arange(n), starts, ends, np.zeros(n, dtype=bool))
        >>> align(spans(2, 3, 6), spans(1, 3, 4, 6))
        Alignment(first=array([0, 0, 1]), second=array([0, 0, 1, 1]), ends=array([3, 6]))
    """
    sizes = [int(one.ends.max(initial=0)) for one in (first, second)]
    if sizes[0] != sizes[1]:
        given = f"texts of {sizes[0]} and {sizes[1]} bytes"
        raise InputError(Problem("alignment", given, "two tokenizations of one text"))
    closed = np.intersect1d(first.ends[~first.special], second.ends[~second.special])
    closed = closed[closed > 0]
    return Alignment(_chunks_of(first, closed), _chunks_of(second, closed), closed)


def matched_tokens(first: TokenBytes, second: TokenBytes) -> NDArray[np.int64]:
    """Return the pairs of token ids with the same canonical bytes, int64 `[pairs, 2]`.

    Each id is in one pair at most: of several tokens with the same bytes, such as "a" and
    "<0x61>", the one that is not a byte of a fallback is paired.
    """
    one, other = _by_bytes(first), _by_bytes(second)
    pairs = [(id, other[content]) for content, id in one.items() if content in other]
    return np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2)


def style_of(content: dict[str, Any]) -> Style:
    """Return the notation of a vocabulary, from the content of a tokenizer.json."""
    types = set(_types(content.get("pre_tokenizer"))) | set(_types(content.get("decoder")))
    if "ByteLevel" in types:
        return "byte_level"
    if "WordPiece" in types or content["model"].get("type") == "WordPiece":
        return "wordpiece"
    replaced = json.dumps([content.get("normalizer"), content.get("decoder")], ensure_ascii=False)
    if types & {"Metaspace", "ByteFallback"} or _SPACE in replaced:
        return "sentencepiece"
    return "plain"


def _types(part: Any) -> Iterator[str]:
    """Yield the types of a pre-tokenizer or decoder, and of those inside a sequence."""
    if isinstance(part, dict):
        yield str(part.get("type"))
        for inner in part.get("pretokenizers", []) + part.get("decoders", []):
            yield from _types(inner)


def _byte_alphabet() -> dict[str, int]:
    """Return the byte of each character of byte-level BPE (GPT-2)."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [one for one in range(256) if one not in printed]
    return {chr(one): one for one in printed} | {
        chr(256 + place): one for place, one in enumerate(others)
    }


_BYTES = _byte_alphabet()


def _bytes_of(token: str, style: Style) -> bytes:
    if style == "byte_level":
        if all(one in _BYTES for one in token):
            return bytes(_BYTES[one] for one in token)
        return token.encode()
    if style == "sentencepiece":
        if found := _FALLBACK.fullmatch(token):
            return bytes([int(found[1], 16)])
        return token.replace(_SPACE, " ").encode()
    if style == "wordpiece":
        return token[2:].encode() if token.startswith("##") else b" " + token.encode()
    return token.encode()


def _by_bytes(tokens: TokenBytes) -> dict[bytes, int]:
    vocabulary = tokens.canonical
    # A token of the same bytes replaces a byte of a fallback.
    fallback = [
        id
        for id in vocabulary
        if tokens.style == "sentencepiece" and _FALLBACK.fullmatch(tokens.token(id))
    ]
    found = {vocabulary[id]: id for id in fallback}
    rest = set(fallback)
    for id in sorted(vocabulary, reverse=True):  # of equal tokens, the first id is kept
        if id not in rest:
            found[vocabulary[id]] = id
    return found


def _by_offsets(text: str, offsets: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """Return the end of each token by the tokenizer's offsets in characters.

    Characters between two tokens belong to the later; those after the last, to the last. Of tokens
    with the same offsets, which divide characters, only the last closes a span.
    """
    sizes = np.cumsum([0, *(len(one.encode()) for one in text)], dtype=np.int64)
    ends = sizes[[end for _, end in offsets]] if offsets else np.zeros(0, dtype=np.int64)
    for place in range(len(offsets) - 2, -1, -1):
        if offsets[place] == offsets[place + 1]:
            ends[place] = sizes[offsets[place][0]]
    if len(ends):
        ends = np.maximum.accumulate(ends)
        ends[-1] = sizes[-1]
    return ends


def _chunks_of(spans: Spans, closed: NDArray[np.int64]) -> NDArray[np.int64]:
    if not len(closed):
        return np.full(len(spans.ids), NO_CHUNK, dtype=np.int64)
    found = np.searchsorted(closed, spans.starts, side="right").clip(max=len(closed) - 1)
    return np.where(spans.special, NO_CHUNK, found).astype(np.int64)
