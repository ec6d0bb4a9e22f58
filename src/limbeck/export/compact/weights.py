"""Compact safetensors file: a state_dict with each tensor in its smallest lossless form.

The file is an ordinary safetensors file. A raw tensor is stored under its own name; the pieces of
the others under `#0`, `#1` and so on, with a JSON header that describes how they combine.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from limbeck.atomic import replacing
from limbeck.errors import InputError, Problem
from limbeck.export.compact.bits import Packed
from limbeck.export.compact.forms import Coded, Content, Form, Masked, Plan, Stepped, Words
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
from limbeck.export.compact.record import CompactRecord, CompactTensor

PIECE, ENTRY = 70, 160
"""Approximate header bytes per piece, and per entry."""


def save_compact(state: Mapping[str, Tensor], path: Path) -> CompactRecord:
    """Write tensors into one safetensors file, each in its smallest lossless form.

    `load_compact` restores every tensor bit for bit. A tensor shared by several names (tied
    embeddings) is written once. The file is written atomically.

    Args:
        state: Tensors by name, on any device, of any type.
        path: Path of the file.

    Returns:
        The record: the bytes of the tensors before, and of the file after.

    Raises:
        InputError: A tensor is complex128, which the format does not support.
        WriteError: The target cannot be written.

    Example:
        >>> import tempfile
        >>> from limbeck.export.compact.unpacked import load_compact
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
    """An encoder of tensors into pieces."""

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
                self._note(name, f"as {first[identity]}", words.nbytes, 0)
            else:
                self._store(name, tensor, words)

    @property
    def header(self) -> str:
        return Header(tensors=self._tensors, same=self._same).model_dump_json()

    def _store(self, name: str, tensor: Tensor, words: Words) -> None:
        plan = _smallest(words)
        if plan is None:
            # A view would save the whole larger tensor.
            self.pieces[name] = tensor.detach().cpu().contiguous().clone()
            return
        entry = self._form(Content(words).make(plan), tensor.dtype)
        self._tensors[name] = TensorEntry(shape=list(tensor.shape), stored=entry)
        self._note(name, str(plan), words.nbytes, plan.payload)

    def _note(self, name: str, form: str, before: int, after: int) -> None:
        entry = CompactTensor(name=name, form=form, bytes_before=before, bytes_after=after)
        self.done.append(entry)

    def _form(self, form: Form, kind: torch.dtype) -> FormEntry:
        if isinstance(form, Masked):
            return MaskedEntry(mask=self._codes(form.mask), values=self._values(form.values, kind))
        if isinstance(form, Stepped):
            return SteppedEntry(
                steps=self._codes(form.steps),
                values=self._values(form.values, kind),
                blank=self._piece(to_tensor(form.blank, kind)),
            )
        return self._values(form, kind)

    def _values(self, values: Words | Coded, kind: torch.dtype) -> RawEntry | CodedEntry:
        if isinstance(values, Coded):
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
    plan = min(Content(words).plans(), key=_bytes)
    return plan if _bytes(plan) < words.nbytes + PIECE else None


def _bytes(plan: Plan) -> int:
    return plan.payload + PIECE * plan.pieces + ENTRY


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
