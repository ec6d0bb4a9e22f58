"""Bit packing of small integers, 1 to 8 bits each.

A code of 3, 5, 6 or 7 bits is split into fields of 4, 2 and 1 bits, which divide a byte evenly:
each field is packed separately, and unpacked by a few shifts on any machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
# The field widths of a code, by its number of bits; the lowest bits come first.
FIELDS = {1: (1,), 2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1), 8: (8,)}


@dataclass(frozen=True)
class Packed:
    """Bit-packed codes, with one array of bytes per field of `FIELDS[bits]`.

    The first code of a byte is in its lowest bits.
    """

    bits: int
    count: int
    fields: tuple[Bytes, ...]


def field_bytes(width: int, count: int) -> int:
    """Count the bytes of `count` fields of a width."""
    return -(-count * width // 8)


def packed_bytes(bits: int, count: int) -> int:
    """Count the bytes of `count` packed codes.

    Example:
        >>> packed_bytes(3, 8)
        3
    """
    return sum(field_bytes(width, count) for width in FIELDS[bits])


def bits_for(values: int) -> int:
    """Return the bits of a code that distinguishes a number of values."""
    return max(1, (values - 1).bit_length())


def pack(codes: Bytes, bits: int) -> Packed:
    """Pack codes, `[n]`, each below `2 ** bits`.

    Example:
        >>> pack(np.array([1, 2, 3, 0, 2], np.uint8), 2).fields
        (array([57,  2], dtype=uint8),)
    """
    fields, offset = [], 0
    for width in FIELDS[bits]:
        values = np.zeros((field_bytes(width, len(codes)), 8 // width), np.uint8)
        values.reshape(-1)[: len(codes)] = (codes >> offset) & (2**width - 1)
        fields.append(np.bitwise_or.reduce(values << shifts(width), axis=1))
        offset += width
    return Packed(bits, len(codes), tuple(fields))


def unpack(packed: Packed) -> Bytes:
    """Unpack the codes, `[n]`.

    Example:
        >>> unpack(pack(np.array([5, 0, 7], np.uint8), 3))
        array([5, 0, 7], dtype=uint8)
    """
    codes, offset = np.zeros(packed.count, np.uint8), 0
    for width, field in zip(FIELDS[packed.bits], packed.fields, strict=True):
        values = (field[:, None] >> shifts(width)) & (2**width - 1)
        codes |= values.reshape(-1)[: packed.count] << offset
        offset += width
    return codes


def shifts(width: int) -> Bytes:
    """Return the bit offsets of the fields of one byte, `[8 / width]`.

    Example:
        >>> shifts(2)
        array([0, 2, 4, 6], dtype=uint8)
    """
    return np.arange(0, 8, width, dtype=np.uint8)


Words: TypeAlias = NDArray[np.unsignedinteger[Any]]
Places: TypeAlias = Literal["mask", "steps"]
# Number of sampled elements before a full count: enough to see that a tensor has no codebook.
SAMPLE = 2**12


@dataclass(frozen=True)
class Palette:
    """Words as indices into a codebook, `book[codes]`."""

    codes: Packed
    book: Words


@dataclass(frozen=True)
class Bitmask:
    """Words with a bitmask, `values[cumsum(mask) * mask]`: the first value is the fill value."""

    mask: Packed
    values: Words | Palette


@dataclass(frozen=True)
class DeltaIndex:
    """Words with delta-encoded positions: each is at the previous position plus step plus one.

    Elsewhere is the fill value `blank`. The last element always has a step, so that the steps
    determine the number of elements.
    """

    steps: Packed
    values: Words | Palette
    blank: Words


Form: TypeAlias = Words | Palette | Bitmask | DeltaIndex


@dataclass(frozen=True)
class Plan:
    """A form for a specific tensor, before encoding.

    Attributes:
        payload: Bytes of the stored arrays.
        code_bits: Bits of a code; 0 without codes.
        by: Encoding of positions, if there is a fill value.
        place_bits: Bits of a step; 1 for a mask.
    """

    payload: int
    code_bits: int = 0
    by: Places | None = None
    place_bits: int = 0

    @property
    def pieces(self) -> int:
        """Return the number of arrays of the form; a single fill value is not counted."""
        codes = len(FIELDS[self.code_bits]) + 1 if self.code_bits else 1
        return codes + (len(FIELDS[self.place_bits]) if self.by else 0)

    def __str__(self) -> str:
        places = f"{self.place_bits}-bit steps" if self.by == "steps" else self.by or ""
        codes = f"{self.code_bits}-bit codes" if self.code_bits else ""
        return " + ".join(part for part in (places, codes) if part) or "raw"


class Content:
    """A tensor's word statistics, computed as far as the choice of a form needs them.

    Args:
        words: The elements, `[n]`, at least one.

    Example:
        >>> words = np.zeros(1000, np.uint32)
        >>> words[::10] = range(100)
        >>> print(min(Content(words).plans(), key=lambda plan: plan.payload))
        4-bit steps
    """

    def __init__(self, words: Words) -> None:
        self._words = words

    def plans(self) -> Iterator[Plan]:
        """Yield every form that the tensor can have."""
        item, count = self._words.itemsize, len(self._words)
        if self._book is not None:
            yield _coded(item, count, len(self._book))
        marked = len(self._marked) + 1
        yield from self._with_values("mask", 1, packed_bytes(1, count), marked)
        for bits in range(1, 9):
            entries = len(self._steps) + int((self._steps >> bits).sum())
            yield from self._with_values("steps", bits, packed_bytes(bits, entries), entries)

    def _with_values(self, by: Places, bits: int, payload: int, entries: int) -> Iterator[Plan]:
        item = self._words.itemsize
        yield Plan(payload + item * entries, 0, by, bits)
        if self._value_book is not None:
            coded = _coded(item, entries, len(self._value_book))
            yield Plan(payload + coded.payload, coded.code_bits, by, bits)

    def make(self, plan: Plan) -> Form:
        """Encode the tensor in a form."""
        if plan.by is None:
            return _stored(self._words, self._book)
        book = self._value_book if plan.code_bits else None
        if plan.by == "mask":
            mask = pack((self._words != self._blank).astype(np.uint8), 1)
            values = np.concatenate([self._blank, self._words[self._marked]])
            return Bitmask(mask, _stored(values, book))
        codes, values = self._with_fillers(plan.place_bits)
        return DeltaIndex(pack(codes, plan.place_bits), _stored(values, book), self._blank)

    def _with_fillers(self, bits: int) -> tuple[NDArray[np.uint8], Words]:
        """Return steps and words, with a fill value inserted where a step exceeds its bits."""
        at = np.cumsum((self._steps >> bits) + 1) - 1
        codes = np.full(at[-1] + 1, 2**bits - 1, np.uint8)
        codes[at] = self._steps & (2**bits - 1)
        values = np.full(len(codes), self._blank[0])
        values[at] = self._words[self._stepped]
        return codes, values

    @cached_property
    def _blank(self) -> Words:
        found, counts = np.unique(_sample(self._words), return_counts=True)
        return found[counts.argmax()].reshape(1)

    @cached_property
    def _marked(self) -> NDArray[np.int64]:  # the positions that differ from the fill value
        return np.flatnonzero(self._words != self._blank)

    @cached_property
    def _stepped(self) -> NDArray[np.int64]:  # the same, and the last element
        last = len(self._words) - 1
        marked = self._marked
        return marked if len(marked) and marked[-1] == last else np.append(marked, last)

    @cached_property
    def _steps(self) -> NDArray[np.int64]:
        return np.diff(self._stepped, prepend=-1) - 1

    @cached_property
    def _book(self) -> Words | None:
        return _distinct(self._words)

    @cached_property
    def _value_book(self) -> Words | None:  # with the fill value
        return _distinct(np.concatenate([self._blank, self._words[self._marked]]))


def restore(form: Form) -> Words:
    """Decode a tensor's words, `[n]`.

    Example:
        >>> words = np.zeros(1000, np.uint32)
        >>> words[::10] = range(100)
        >>> content = Content(words)
        >>> all((restore(content.make(plan)) == words).all() for plan in content.plans())
        True
    """
    if isinstance(form, Palette):
        return form.book[unpack(form.codes)]
    if isinstance(form, Bitmask):
        mask = unpack(form.mask)
        return restore(form.values)[np.cumsum(mask, dtype=np.int64) * mask]
    if isinstance(form, DeltaIndex):
        places = np.cumsum(unpack(form.steps), dtype=np.int64) + np.arange(form.steps.count)
        whole = np.full(places[-1] + 1, form.blank[0])
        whole[places] = restore(form.values)
        return whole
    return form


def _coded(item: int, count: int, words: int) -> Plan:
    bits = bits_for(words)
    return Plan(packed_bytes(bits, count) + item * words, bits)


def _stored(words: Words, book: Words | None) -> Words | Palette:
    if book is None:
        return words
    codes = np.searchsorted(book, words).astype(np.uint8)
    return Palette(pack(codes, bits_for(len(book))), book)


def _distinct(words: Words) -> Words | None:
    """Return the distinct words, ascending; None if there are too many for 8-bit codes."""
    if len(np.unique(_sample(words))) > 256:
        return None
    found = np.unique(words)
    return found if len(found) <= 256 else None


def _sample(words: Words) -> Words:
    # Random, not strided: weights have regular patterns, such as two zeros in each group of four.
    if len(words) <= 2 * SAMPLE:
        return words
    return words[np.random.default_rng(0).integers(len(words), size=SAMPLE)]
