"""Lossless compact safetensors files, whose JSON header describes how their pieces combine."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError
from torch import Tensor

from limbeck.core.files import replacing
from limbeck.errors import InputError, LimbeckError, Problem
from limbeck.export.compact.codes import (
    FIELDS,
    Bitmask,
    Content,
    DeltaIndex,
    Form,
    Packed,
    Palette,
    Plan,
    Words,
    field_bytes,
    restore,
    unpack,
)
from limbeck.export.compact.onnx import CompactRecord, CompactTensor

KEY = "limbeck.compact"  # the header's key


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
    """Header of all tensors that are not stored under their own name."""

    tensors: dict[str, TensorEntry]
    same: dict[str, str]  # tensors equal to another one bit for bit, with that one's name


PIECE, ENTRY = 70, 160
"""Approximate header bytes per piece, and per entry."""


def save_compact(state: Mapping[str, Tensor], path: Path) -> CompactRecord:
    """Write tensors, on any device, into one safetensors file, each in its smallest lossless form.

    `load_compact` restores every tensor bit for bit. A tensor shared by several names (tied
    embeddings) is written once. The file is written atomically.

    Raises:
        InputError: A tensor is complex128, which the format does not support.
        WriteError: The target cannot be written.

    Example:
        >>> import tempfile
        >>> sparse = torch.zeros(1000)
        >>> sparse[::50] = 1.5
        >>> path = Path(tempfile.mkdtemp()) / "weights.safetensors"
        >>> save_compact({"sparse": sparse}, path).ratio > 5
        True
        >>> torch.equal(load_compact(path)["sparse"], sparse)
        True
    """
    from safetensors.torch import save_file

    writer = _Writer(state)
    with replacing(path) as temporary:
        save_file(writer.pieces, temporary, metadata={"format": "pt", KEY: writer.header})
        size = temporary.stat().st_size
    return CompactRecord(
        bytes_before=sum(tensor.nbytes for tensor in state.values()),
        bytes_after=size,
        tensors=tuple(sorted(writer.done, key=lambda one: one.bytes_after - one.bytes_before)),
    )


class _Writer:
    """An encoder of tensors into pieces, and the header that describes them."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.pieces: dict[str, Tensor] = {}
        self.done: list[CompactTensor] = []
        self._names = (name for name in map("#{}".format, itertools.count()) if name not in state)
        self._tensors: dict[str, TensorEntry] = {}
        self._same: dict[str, str] = {}
        first: dict[object, str] = {}
        for name, tensor in state.items():
            if tensor.element_size() > 8:
                raise InputError(Problem(name, str(tensor.dtype), "a type that safetensors has"))
            words = to_words(tensor)
            identity = (tensor.dtype, tensor.shape, hashlib.sha256(words.data).digest())
            if words.nbytes > ENTRY and first.setdefault(identity, name) != name:
                self._same[name] = first[identity]
                self._record(name, f"as {first[identity]}", words.nbytes, 0)
                continue
            plan = _smallest(words)
            if plan is None:
                # A view would save the whole larger tensor.
                self.pieces[name] = tensor.detach().cpu().contiguous().clone()
                continue
            entry = self._form(Content(words).make(plan), tensor.dtype)
            self._tensors[name] = TensorEntry(shape=list(tensor.shape), stored=entry)
            self._record(name, str(plan), words.nbytes, plan.payload)

    @property
    def header(self) -> str:
        return Header(tensors=self._tensors, same=self._same).model_dump_json()

    def _record(self, name: str, form: str, before: int, after: int) -> None:
        entry = CompactTensor(name=name, form=form, bytes_before=before, bytes_after=after)
        self.done.append(entry)

    def _form(self, form: Form, kind: torch.dtype) -> FormEntry:
        if isinstance(form, Bitmask):
            return MaskedEntry(mask=self._codes(form.mask), values=self._values(form.values, kind))
        if isinstance(form, DeltaIndex):
            return SteppedEntry(
                steps=self._codes(form.steps),
                values=self._values(form.values, kind),
                blank=self._piece(to_tensor(form.blank, kind)),
            )
        return self._values(form, kind)

    def _values(self, values: Words | Palette, kind: torch.dtype) -> RawEntry | CodedEntry:
        if isinstance(values, Palette):
            book = self._piece(to_tensor(values.book, kind))
            return CodedEntry(codes=self._codes(values.codes), book=book)
        return RawEntry(piece=self._piece(to_tensor(values, kind)))

    def _codes(self, packed: Packed) -> CodesEntry:
        fields = [self._piece(torch.from_numpy(field)) for field in packed.fields]
        return CodesEntry(bits=packed.bits, count=packed.count, fields=fields)

    def _piece(self, tensor: Tensor) -> str:
        name = next(self._names)
        self.pieces[name] = tensor
        return name


def _smallest(words: Words) -> Plan | None:
    """Choose the smallest form; None is the original one."""
    if words.nbytes <= ENTRY:
        return None

    def size(plan: Plan) -> int:
        return plan.payload + PIECE * plan.pieces + ENTRY

    plan = min(Content(words).plans(), key=size)
    return plan if size(plan) < words.nbytes + PIECE else None


def to_words(tensor: Tensor) -> Words:
    """Return a tensor's elements as unsigned integers, `[n]`.

    Example:
        >>> to_words(torch.tensor([[0.0, -0.0]], dtype=torch.float16))
        array([    0, 32768], dtype=uint16)
    """
    content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return content.view(f"<u{tensor.element_size()}")


def to_tensor(words: Words, kind: torch.dtype) -> Tensor:
    """Return words as elements of a type, `[n]`.

    Example:
        >>> to_tensor(np.array([0, 32768], np.uint16), torch.float16)
        tensor([0., -0.], dtype=torch.float16)
    """
    return torch.from_numpy(words.view(np.uint8)).view(kind)


def load_compact(path: Path) -> dict[str, Tensor]:
    """Load the tensors that `save_compact` wrote, on the CPU.

    Every size is checked against the pieces before a tensor is decoded: a file cannot expand to
    more than 256 elements per byte. Nothing in a file is executed. Names that shared a tensor share
    it again.

    Raises:
        LimbeckError: The file is missing, damaged, or of another format.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise LimbeckError(f"{path}: there is no such file of weights.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if KEY not in metadata:
                fix = "safetensors.torch.load_file reads such files."
                raise LimbeckError(f"{path}: save_compact did not write it; {fix}")
            pieces = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return _Reader(pieces).read(Header.model_validate_json(metadata[KEY]))
    except (SafetensorError, ValidationError, _DamageError) as error:
        reason = " ".join(str(error).split())
        raise LimbeckError(f"{path}: damaged or no compact safetensors file ({reason}).") from error


class _DamageError(Exception):
    """The contents of a file are inconsistent."""


class _Reader:
    """A decoder of pieces, which are removed once used."""

    def __init__(self, pieces: dict[str, Tensor]) -> None:
        self._pieces = pieces

    def read(self, header: Header) -> dict[str, Tensor]:
        """Decode every tensor; names without pieces are plain tensors."""
        built = {name: self._tensor(name, entry) for name, entry in header.tensors.items()}
        state = self._pieces | built
        for name, of in header.same.items():
            _check(of in state and name not in state, f"{name} cannot be equal to {of}")
            built[name] = state[of]
        return self._pieces | built

    def _tensor(self, name: str, entry: TensorEntry) -> Tensor:
        form, kind, count = self._form(entry.stored)
        expected = math.prod(entry.shape)
        _check(count == expected, f"{name} has {count} elements, and {expected} by its shape")
        return to_tensor(restore(form), kind).reshape(entry.shape)

    def _form(self, entry: FormEntry) -> tuple[Form, torch.dtype, int]:
        """Read a form from its pieces; return its type and number of elements, too."""
        if isinstance(entry, MaskedEntry):
            mask = self._codes(entry.mask)
            values, kind, count = self._values(entry.values)
            marked = int(unpack(mask).sum(dtype=np.int64)) if mask.bits == 1 else -2
            _check(marked + 1 == count, f"{count} values for a mask with {marked} marks")
            return Bitmask(mask, values), kind, mask.count
        if isinstance(entry, SteppedEntry):
            steps = self._codes(entry.steps)
            values, kind, count = self._values(entry.values)
            blank = self._piece(entry.blank)
            _check(steps.count == count > 0, f"{count} values for {steps.count} steps")
            _check(blank.dtype == kind and blank.shape == (1,), "a blank of another type or shape")
            elements = int(unpack(steps).sum(dtype=np.int64)) + count
            return DeltaIndex(steps, values, to_words(blank)), kind, elements
        return self._values(entry)

    def _values(self, entry: RawEntry | CodedEntry) -> tuple[Words | Palette, torch.dtype, int]:
        if isinstance(entry, RawEntry):
            piece = self._piece(entry.piece)
            return to_words(piece), piece.dtype, piece.numel()
        codes, book = self._codes(entry.codes), self._piece(entry.book)
        top = int(unpack(codes).max(initial=0))
        _check(top < book.numel(), f"code {top} in a book of {book.numel()}")
        return Palette(codes, to_words(book)), book.dtype, codes.count

    def _codes(self, entry: CodesEntry) -> Packed:
        widths = FIELDS[entry.bits]
        _check(len(widths) == len(entry.fields), f"{len(entry.fields)} fields of {entry.bits} bits")
        fields = [self._piece(name) for name in entry.fields]
        for width, field in zip(widths, fields, strict=True):
            size = field_bytes(width, entry.count)
            fits = field.dtype == torch.uint8 and field.shape == (size,)
            _check(fits, f"{entry.count} codes in {field.numel()} bytes, not {size}")
        return Packed(entry.bits, entry.count, tuple(field.numpy() for field in fields))

    def _piece(self, name: str) -> Tensor:
        _check(name in self._pieces, f"piece {name} is missing, or used twice")
        return self._pieces.pop(name)


def _check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise _DamageError(otherwise)
