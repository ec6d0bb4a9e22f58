"""JSON header of a compact safetensors file, which describes how its pieces combine."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt

KEY = "limbeck.compact"
"""The header's key."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class CodesEntry(_Part):
    """Bit-packed codes: bits, count, and the pieces with their fields."""

    bits: Annotated[int, Field(ge=1, le=8)]
    count: NonNegativeInt
    fields: list[str]


class RawEntry(_Part):
    """Raw words, in one piece."""

    form: Literal["raw"] = "raw"
    piece: str


class CodedEntry(_Part):
    """Words as indices into a codebook, which is a piece."""

    form: Literal["coded"] = "coded"
    codes: CodesEntry
    book: str


ValuesEntry: TypeAlias = Annotated[RawEntry | CodedEntry, Field(discriminator="form")]


class MaskedEntry(_Part):
    """Words with a bitmask; the first value is the fill value."""

    form: Literal["masked"] = "masked"
    mask: CodesEntry
    values: ValuesEntry


class SteppedEntry(_Part):
    """Words with delta-encoded positions; the fill value is a piece."""

    form: Literal["stepped"] = "stepped"
    steps: CodesEntry
    values: ValuesEntry
    blank: str


FormEntry: TypeAlias = Annotated[
    RawEntry | CodedEntry | MaskedEntry | SteppedEntry, Field(discriminator="form")
]


class TensorEntry(_Part):
    """A tensor stored in pieces; its type is that of its word pieces."""

    shape: list[NonNegativeInt]
    stored: FormEntry


class Header(_Part):
    """Header of all tensors that are not stored under their own name.

    Attributes:
        tensors: The tensors stored in pieces.
        same: Tensors equal to another one bit for bit, with that one's name.
    """

    tensors: dict[str, TensorEntry]
    same: dict[str, str]
