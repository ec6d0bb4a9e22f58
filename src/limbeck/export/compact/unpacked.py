"""Exact decoding of tensors from a compact safetensors file, with consistency checks."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from limbeck.errors import LimbeckError
from limbeck.export.compact.bits import FIELDS, Packed, field_bytes, unpack
from limbeck.export.compact.forms import Coded, Form, Masked, Stepped, Words, restore
from limbeck.export.compact.header import (
    KEY,
    CodedEntry,
    CodesEntry,
    FormEntry,
    Header,
    MaskedEntry,
    RawEntry,
    SteppedEntry,
    TensorEntry,
)
from limbeck.export.compact.weights import to_tensor, to_words


def load_compact(path: Path) -> dict[str, Tensor]:
    """Load the tensors that `save_compact` wrote, on the CPU.

    Every size is checked against the pieces before a tensor is decoded: a file cannot expand to
    more than 256 elements per byte. Nothing in a file is executed. Names that shared a tensor share
    it again.

    Args:
        path: A file written by `save_compact`.

    Raises:
        LimbeckError: The file is missing, damaged, or of another format.

    Example: see `limbeck.export.compact.weights.save_compact`.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise LimbeckError(f"{path}: there is no such file of weights.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if KEY not in metadata:
                raise LimbeckError(
                    f"{path}: a safetensors file, but save_compact did not write it; "
                    "safetensors.torch.load_file reads such files."
                )
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
            _check(of in state and name not in state, f"{name} is said to be {of}")
            built[name] = state[of]
        return self._pieces | built

    def _tensor(self, name: str, entry: TensorEntry) -> Tensor:
        form, kind, count = self._form(entry.stored)
        wanted = math.prod(entry.shape)
        _check(count == wanted, f"{name} has {count} elements, its shape says {wanted}")
        return to_tensor(restore(form), kind).reshape(entry.shape)

    def _form(self, entry: FormEntry) -> tuple[Form, torch.dtype, int]:
        """Read a form from its pieces; return its type and number of elements, too."""
        if isinstance(entry, MaskedEntry):
            return self._masked(entry)
        if isinstance(entry, SteppedEntry):
            return self._stepped(entry)
        return self._values(entry)

    def _masked(self, entry: MaskedEntry) -> tuple[Form, torch.dtype, int]:
        mask = self._codes(entry.mask)
        values, kind, count = self._values(entry.values)
        marked = int(unpack(mask).sum(dtype=np.int64)) if mask.bits == 1 else -2
        _check(marked + 1 == count, f"{count} values for a mask with {marked} marks")
        return Masked(mask, values), kind, mask.count

    def _stepped(self, entry: SteppedEntry) -> tuple[Form, torch.dtype, int]:
        steps = self._codes(entry.steps)
        values, kind, count = self._values(entry.values)
        blank = self._piece(entry.blank)
        _check(steps.count == count > 0, f"{count} values for {steps.count} steps")
        _check(blank.dtype == kind and blank.shape == (1,), "a blank of another type or shape")
        elements = int(unpack(steps).sum(dtype=np.int64)) + count
        return Stepped(steps, values, to_words(blank)), kind, elements

    def _values(self, entry: RawEntry | CodedEntry) -> tuple[Words | Coded, torch.dtype, int]:
        if isinstance(entry, RawEntry):
            piece = self._piece(entry.piece)
            return to_words(piece), piece.dtype, piece.numel()
        codes, book = self._codes(entry.codes), self._piece(entry.book)
        top = int(unpack(codes).max(initial=0))
        _check(top < book.numel(), f"code {top} in a book of {book.numel()}")
        return Coded(codes, to_words(book)), book.dtype, codes.count

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
        _check(name in self._pieces, f"there is no piece {name}, or two tensors claim it")
        return self._pieces.pop(name)


def _check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise _DamageError(otherwise)
