"""A tensor's form as parts of an ONNX graph: pieces to store, and calls that rebuild it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from numpy.typing import NDArray

from limbeck.export.compact.bits import Packed
from limbeck.export.compact.forms import Coded, Form, Masked, Stepped, Words
from limbeck.export.compact.functions import DOMAIN

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto, TensorProto

UINT8 = 2
"""ONNX's number of the type."""


class Part(Protocol):
    """Anything that a file holds: a tensor, a node."""

    def ByteSize(self) -> int:  # noqa: N802 (protobuf's name)
        """Count its bytes."""
        ...


@dataclass
class Parts:
    """Pieces and calls, gathered.

    Args:
        names: Names that are free in the model.
    """

    names: Iterator[str]
    pieces: list[TensorProto] = field(default_factory=list)
    calls: list[NodeProto] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """What all of them take in the file."""
        parts: list[Part] = [*self.pieces, *self.calls]
        return sum(framed(part) for part in parts)

    def codes(self, packed: Packed, name: str = "") -> str:
        """Store codes, the first field under a name; give that of uint8 `[count]`, unpacked."""
        if packed.bits == 8:
            return self.piece(tensor(packed.fields[0], UINT8), name)
        names = (name, *("" for _ in packed.fields[1:]))
        pieces = [
            self.piece(tensor(field[:, None], UINT8), given)
            for field, given in zip(packed.fields, names, strict=True)
        ]
        return self.call(f"bits{packed.bits}", pieces, n=[packed.count])

    def restore(self, form: Form, kind: int, shape: Sequence[int], *, out: str = "") -> str:
        """Store a form of a tensor; give the name of the tensor.

        Args:
            form: The form.
            kind: ONNX's number of the tensor's type.
            shape: The tensor's shape.
            out: The tensor's name; a free one if empty.
        """
        if isinstance(form, Coded):
            inputs = [self.codes(form.codes), self.piece(tensor(form.book, kind))]
            return self.call("look", inputs, out=out, shape=list(shape))
        if isinstance(form, Masked):
            inputs = [self.codes(form.mask), self._values(form.values, kind)]
            return self.call("mask", inputs, out=out, shape=list(shape))
        if isinstance(form, Stepped):
            inputs = [self.codes(form.steps), self._values(form.values, kind)]
            blank, count = tensor(form.blank, kind), [math.prod(shape)]
            return self.call("steps", inputs, out=out, shape=list(shape), n=count, blank=blank)
        return self.piece(tensor(form, kind))

    def call(self, function: str, inputs: list[str], *, out: str = "", **attributes: Any) -> str:
        """Call a function; give the name of what it returns."""
        from onnx import helper

        out = out or next(self.names)
        self.calls.append(helper.make_node(function, inputs, [out], domain=DOMAIN, **attributes))
        return out

    def cast(self, name: str, kind: int) -> str:
        """Change a value's type to another, by ONNX's number of it; give the result's name."""
        from onnx import helper

        out = next(self.names)
        self.calls.append(helper.make_node("Cast", [name], [out], to=kind))
        return out

    def _values(self, values: Words | Coded, kind: int) -> str:
        count = values.codes.count if isinstance(values, Coded) else len(values)
        return self.restore(values, kind, [count])

    def piece(self, stored: TensorProto, name: str = "") -> str:
        """Store a tensor under a name, a free one if empty; give the name."""
        stored.name = name or next(self.names)
        self.pieces.append(stored)
        return stored.name


def replace(holder: GraphProto, names: set[str], parts: Iterable[Parts]) -> None:
    """Put pieces and calls in the place of a graph's weights and constants, in place.

    Calls come before all other nodes, since they need none of them.
    """
    for place in reversed(range(len(holder.initializer))):
        if holder.initializer[place].name in names:
            del holder.initializer[place]
    for place in reversed(range(len(holder.node))):
        if names.intersection(holder.node[place].output):
            del holder.node[place]
    kept = list(holder.node)
    del holder.node[:]
    for one in parts:
        holder.initializer.extend(one.pieces)
        holder.node.extend(one.calls)
    holder.node.extend(kept)


def tensor(words: Words | NDArray[Any], kind: int) -> TensorProto:
    """Make an ONNX tensor of a type from words of the same size, without a name."""
    from onnx import TensorProto

    raw = words.astype(words.dtype.newbyteorder("<"), copy=False).tobytes()
    return TensorProto(data_type=kind, dims=words.shape, raw_data=raw)


def framed(part: Part) -> int:
    """Count the bytes that a part takes in the file: its own, a tag, and its length."""
    size = part.ByteSize()
    return size + 1 + max(1, -(-size.bit_length() // 7))
