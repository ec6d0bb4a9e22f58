"""ONNX graph parts of a stored tensor: pieces, and the calls that decode it."""

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
    """Anything that a file contains: a tensor, a node."""

    def ByteSize(self) -> int:  # noqa: N802 (protobuf's name)
        """Return its bytes."""
        ...


@dataclass
class Parts:
    """A collection of pieces and calls.

    Args:
        names: Names that are unused in the model.
    """

    names: Iterator[str]
    pieces: list[TensorProto] = field(default_factory=list)
    calls: list[NodeProto] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """Return the bytes of all parts in the file."""
        parts: list[Part] = [*self.pieces, *self.calls]
        return sum(framed(part) for part in parts)

    def codes(self, packed: Packed, name: str = "") -> str:
        """Store codes, the first field under a name; return the name of the uint8 `[count]`."""
        if packed.bits == 8:
            return self.piece(tensor(packed.fields[0], UINT8), name)
        names = (name, *("" for _ in packed.fields[1:]))
        pieces = [
            self.piece(tensor(field[:, None], UINT8), given)
            for field, given in zip(packed.fields, names, strict=True)
        ]
        return self.call(f"bits{packed.bits}", pieces, n=[packed.count])

    def restore(self, form: Form, kind: int, shape: Sequence[int], *, out: str = "") -> str:
        """Store a form of a tensor; return the name of the decoded tensor.

        Args:
            form: The form.
            kind: ONNX's number of the tensor's type.
            shape: The tensor's shape.
            out: The tensor's name; an unused one if empty.
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
        """Add a function call; return the name of its output."""
        from onnx import helper

        out = out or next(self.names)
        self.calls.append(helper.make_node(function, inputs, [out], domain=DOMAIN, **attributes))
        return out

    def cast(self, name: str, kind: int) -> str:
        """Add a cast to a type, by ONNX's number; return the name of its output."""
        from onnx import helper

        out = next(self.names)
        self.calls.append(helper.make_node("Cast", [name], [out], to=kind))
        return out

    def _values(self, values: Words | Coded, kind: int) -> str:
        count = values.codes.count if isinstance(values, Coded) else len(values)
        return self.restore(values, kind, [count])

    def piece(self, stored: TensorProto, name: str = "") -> str:
        """Store a tensor under a name, or an unused one if empty; return the name."""
        stored.name = name or next(self.names)
        self.pieces.append(stored)
        return stored.name


def replace(holder: GraphProto, names: set[str], parts: Iterable[Parts]) -> None:
    """Replace a graph's weights and constants by pieces and calls, in place.

    Calls come before all other nodes, on which they do not depend.
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
    """Build an unnamed ONNX tensor of a type from words of the same size."""
    from onnx import TensorProto

    raw = words.astype(words.dtype.newbyteorder("<"), copy=False).tobytes()
    return TensorProto(data_type=kind, dims=words.shape, raw_data=raw)


def framed(part: Part) -> int:
    """Count the bytes of a part in the file: its own, a tag, and its length."""
    size = part.ByteSize()
    return size + 1 + max(1, -(-size.bit_length() // 7))
