"""How the pieces of a compact safetensors file go together: what its header holds, as JSON."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt

KEY = "limbeck.compact"
"""The header's entry."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class CodesEntry(_Part):
    """Codes packed into bytes: bits of one, how many there are, and pieces with their fields."""

    bits: Annotated[int, Field(ge=1, le=8)]
    count: NonNegativeInt
    fields: list[str]


class RawEntry(_Part):
    """Words as they are, in one piece."""

    form: Literal["raw"] = "raw"
    piece: str


class CodedEntry(_Part):
    """Words as numbers of words in a book, a piece."""

    form: Literal["coded"] = "coded"
    codes: CodesEntry
    book: str


ValuesEntry: TypeAlias = Annotated[RawEntry | CodedEntry, Field(discriminator="form")]


class MaskedEntry(_Part):
    """Words among blanks, told by a bit an element; the first value is the blank."""

    form: Literal["masked"] = "masked"
    mask: CodesEntry
    values: ValuesEntry


class SteppedEntry(_Part):
    """Words among blanks, told by the step from each to the next; the blank is a piece."""

    form: Literal["stepped"] = "stepped"
    steps: CodesEntry
    values: ValuesEntry
    blank: str


FormEntry: TypeAlias = Annotated[
    RawEntry | CodedEntry | MaskedEntry | SteppedEntry, Field(discriminator="form")
]


class TensorEntry(_Part):
    """A tensor that is stored in pieces; its type is that of its words' pieces."""

    shape: list[NonNegativeInt]
    stored: FormEntry


class Header(_Part):
    """Everything that is not simply a tensor under its own name.

    Attributes:
        tensors: Those that are stored in pieces.
        same: Those that are, bit for bit, what another is; its name.
    """

    tensors: dict[str, TensorEntry]
    same: dict[str, str]
