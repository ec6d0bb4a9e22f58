"""Bit packing of small integers, 1 to 8 bits each.

A code of 3, 5, 6 or 7 bits is split into fields of 4, 2 and 1 bits, which divide a byte evenly:
each field is packed separately, and unpacked by a few shifts on any machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

FIELDS = {
    1: (1,),
    2: (2,),
    3: (2, 1),
    4: (4,),
    5: (4, 1),
    6: (4, 2),
    7: (4, 2, 1),
    8: (8,),
}
"""The field widths of a code, by its number of bits; the lowest bits come first."""


@dataclass(frozen=True)
class Packed:
    """Bit-packed codes.

    Attributes:
        bits: Bits per code, 1 to 8.
        count: Number of codes.
        fields: One array of bytes per field of `FIELDS[bits]`; the first code of a byte is in its
            lowest bits.
    """

    bits: int
    count: int
    fields: tuple[Bytes, ...]


def field_bytes(width: int, count: int) -> int:
    """Count the bytes of `count` fields of a width.

    Example:
        >>> field_bytes(2, 5)
        2
    """
    return -(-count * width // 8)


def packed_bytes(bits: int, count: int) -> int:
    """Count the bytes of `count` packed codes.

    Example:
        >>> packed_bytes(3, 8)
        3
    """
    return sum(field_bytes(width, count) for width in FIELDS[bits])


def bits_for(values: int) -> int:
    """Return the bits of a code that distinguishes a number of values.

    Example:
        >>> bits_for(3), bits_for(4), bits_for(5)
        (2, 2, 3)
    """
    return max(1, (values - 1).bit_length())


def pack(codes: Bytes, bits: int) -> Packed:
    """Pack codes, `[n]`, each below `2 ** bits`.

    Example:
        >>> pack(np.array([1, 2, 3, 0, 2], np.uint8), 2).fields
        (array([57,  2], dtype=uint8),)
    """
    fields, offset = [], 0
    for width in FIELDS[bits]:
        fields.append(_pack_field((codes >> offset) & _ones(width), width))
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
        codes |= _unpack_field(field, width)[: packed.count] << offset
        offset += width
    return codes


def shifts(width: int) -> Bytes:
    """Return the bit offsets of the fields of one byte, `[8 / width]`.

    Example:
        >>> shifts(2)
        array([0, 2, 4, 6], dtype=uint8)
    """
    return np.arange(0, 8, width, dtype=np.uint8)


def _ones(width: int) -> np.uint8:
    return np.uint8(2**width - 1)


def _pack_field(values: NDArray[np.integer[Any]], width: int) -> Bytes:
    whole = np.zeros((field_bytes(width, len(values)), 8 // width), np.uint8)
    whole.reshape(-1)[: len(values)] = values
    return np.bitwise_or.reduce(whole << shifts(width), axis=1)


def _unpack_field(field: Bytes, width: int) -> Bytes:
    return ((field[:, None] >> shifts(width)) & _ones(width)).reshape(-1)
