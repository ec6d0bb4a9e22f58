"""Lossless compaction of the weights of an ONNX model.

A pruned float32 weight still takes four bytes per zero in an ordinary file, and a ternary one eight
bits instead of two. Each tensor is stored in the smallest form of `compact.codes`, and calls of a
few functions (`compact.functions`) decode it from constants. ONNX Runtime folds these calls once,
when it loads the file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from limbeck.core.files import write_bytes
from limbeck.core.measurement import Result
from limbeck.export import slim
from limbeck.export.compact import functions
from limbeck.export.compact.choose import Option, choose, options
from limbeck.export.compact.codes import Bitmask, Content, DeltaIndex, Form, Packed, Palette, Words
from limbeck.export.compact.functions import DOMAIN
from limbeck.export.reading import read_model

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto


SMALLEST = 64  # bytes below which a tensor is skipped: a call takes about as many
ITEM_BYTES = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2}
"""Bytes of an element, by ONNX's number of its type: from bool to bfloat16, without strings and
complex numbers. Types of less than a byte are packed already.
"""


def compact(model: ModelProto) -> CompactRecord:
    """Store each weight of a model in its smallest lossless form, in place.

    Every tensor is decoded exactly when the file is loaded: NaNs keep their payload, -0.0 its sign.
    A form is used only if it makes the file smaller, including its functions, so that the file
    never grows. External data, weights that are graph inputs, and models of an operator set below
    18 are not changed.

    Example:
        >>> from onnx import helper, numpy_helper
        >>> weight = np.zeros((64, 64), np.float32)
        >>> weight[::8, ::8] = np.arange(64).reshape(8, 8)
        >>> x, y = (helper.make_tensor_value_info(name, 1, ["n", 64]) for name in "xy")
        >>> node = helper.make_node("MatMul", ["x", "w"], ["y"])
        >>> graph = helper.make_graph([node], "g", [x], [y], [numpy_helper.from_array(weight, "w")])
        >>> model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
        >>> record = compact(model)
        >>> record.tensors[0].form, record.ratio > 10
        ('8-bit steps', True)
    """
    before, opset = model.ByteSize(), functions.opset_of(model)
    if opset < functions.OPSET:
        return _unchanged(before, f"operator set {opset} is too old to decode weights")
    weights, prices = list(_weights(model)), functions.prices(model)
    chosen = choose([one.options for one in weights], [one.size for one in weights], prices)
    names, stored = functions.free_names(model), []
    for weight, option in zip(weights, chosen, strict=True):
        if option is not None:
            parts, tensor = Parts(names), weight.tensor
            form = weight.content.make(option.plan)
            parts.restore(form, tensor.data_type, tensor.dims, out=weight.name)
            if parts.bytes < weight.size:
                stored.append((weight, parts, str(option.plan)))
    used = {call.op_type for _, parts, _ in stored for call in parts.calls}
    gain = sum(weight.size - parts.bytes for weight, parts, _ in stored)
    if gain <= functions.added_bytes(model, used):
        return _unchanged(before, "no weight is sparse enough, or has few enough values")
    # Subgraphs first: replacing copies the nodes of a graph, with the subgraphs that they hold.
    for graph in reversed({id(weight.graph): weight.graph for weight, *_ in stored}.values()):
        found = {weight.name: parts for weight, parts, _ in stored if weight.graph is graph}
        replace(graph, set(found), found.values())
    functions.add(model, used)
    entries = [
        CompactTensor(
            name=weight.name, form=form, bytes_before=weight.size, bytes_after=parts.bytes
        )
        for weight, parts, form in stored
    ]
    entries.sort(key=lambda entry: entry.bytes_after - entry.bytes_before)
    return CompactRecord(bytes_before=before, bytes_after=model.ByteSize(), tensors=tuple(entries))


@dataclass(frozen=True)
class _Weight:
    """A tensor of a graph that may be stored in another form, with its bytes in the file."""

    graph: GraphProto
    tensor: TensorProto
    name: str
    size: int
    content: Content
    options: tuple[Option, ...]


def _unchanged(size: int, reason: str) -> CompactRecord:
    return CompactRecord(bytes_before=size, bytes_after=size, tensors=(), note=reason)


def _weights(model: ModelProto) -> Iterator[_Weight]:
    """Iterate over the tensors that another form makes smaller: weights and constants."""
    for graph in slim.graphs(model):
        inputs = {value.name for value in graph.input}
        found: list[tuple[Part, TensorProto, str]] = [
            (tensor, tensor, tensor.name)
            for tensor in graph.initializer
            if tensor.name not in inputs
        ]
        found += [
            (node, node.attribute[0].t, node.output[0])
            for node in graph.node
            if node.op_type == "Constant" and node.attribute[0].HasField("t")
        ]
        for part, tensor, name in found:
            raw, item = tensor.raw_data, ITEM_BYTES.get(tensor.data_type, 0)
            if item == 0 or len(raw) < SMALLEST:
                continue
            # Positions and codes are int32 during decoding.
            if len(raw) // item * max(item, 4) > functions.LARGEST:
                continue
            content, size = Content(np.frombuffer(raw, f"<u{item}")), framed(part)
            smaller = options(content.plans(), size)
            if smaller:
                yield _Weight(graph, tensor, name, size, content, smaller)


UINT8 = 2  # ONNX's number of the type


class Part(Protocol):
    """Anything that a file contains: a tensor, a node."""

    def ByteSize(self) -> int:  # noqa: N802 (protobuf's name)
        """Return its bytes."""


@dataclass
class Parts:
    """A collection of pieces and calls, with the iterator of names that are unused in the model."""

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
        """Store a form of a tensor of a type, by ONNX's number; return the decoded tensor's name.

        The name is `out`, or an unused one if that is empty.
        """
        if isinstance(form, Palette):
            inputs = [self.codes(form.codes), self.piece(tensor(form.book, kind))]
            return self.call("look", inputs, out=out, shape=list(shape))
        if isinstance(form, Bitmask):
            inputs = [self.codes(form.mask), self._values(form.values, kind)]
            return self.call("mask", inputs, out=out, shape=list(shape))
        if isinstance(form, DeltaIndex):
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

    def _values(self, values: Words | Palette, kind: int) -> str:
        count = values.codes.count if isinstance(values, Palette) else len(values)
        return self.restore(values, kind, [count])

    def piece(self, stored: TensorProto, name: str = "") -> str:
        """Store a tensor under a name, or an unused one if empty; return the name."""
        stored.name = name or next(self.names)
        self.pieces.append(stored)
        return stored.name


def replace(graph: GraphProto, names: set[str], parts: Iterable[Parts]) -> None:
    """Replace a graph's weights and constants by pieces and calls, in place.

    Calls come before all other nodes, on which they do not depend.
    """
    for place in reversed(range(len(graph.initializer))):  # without a copy of the others
        if graph.initializer[place].name in names:
            del graph.initializer[place]
    nodes = [node for node in graph.node if not names.intersection(node.output)]
    del graph.node[:]
    for one in parts:
        graph.initializer.extend(one.pieces)
        graph.node.extend(one.calls)
    graph.node.extend(nodes)


def tensor(words: Words | NDArray[Any], kind: int) -> TensorProto:
    """Build an unnamed ONNX tensor of a type from words of the same size."""
    from onnx import TensorProto

    raw = words.astype(words.dtype.newbyteorder("<"), copy=False).tobytes()
    return TensorProto(data_type=kind, dims=words.shape, raw_data=raw)


def framed(part: Part) -> int:
    """Count the bytes of a part in the file: its own, a tag, and its length."""
    size = part.ByteSize()
    return size + 1 + max(1, -(-size.bit_length() // 7))


def pack(path: Path) -> CompactRecord:
    """Store an ONNX file's weights in fewer bytes where possible, without any loss.

    Raises:
        InputError: The file is not ONNX, or not self-contained.
        WriteError: The file cannot be written.
    """
    model = read_model(path)
    record = compact(model)
    if record.tensors:
        write_bytes(path, model.SerializeToString())
    return record


class CompactTensor(Result):
    """A tensor stored in another form.

    Attributes:
        name: Its name.
        form: Description of the form.
        bytes_before: Its bytes in the original file.
        bytes_after: Its bytes now, without functions shared by several tensors.
    """

    name: str
    form: str
    bytes_before: int
    bytes_after: int


class CompactRecord(Result):
    """The result of storing a model's weights compactly.

    Attributes:
        bytes_before: Size of the file with original tensors.
        bytes_after: Its size now; never larger.
        tensors: The tensors stored in another form, largest gain first.
        note: The reason if nothing was changed; empty otherwise.
    """

    bytes_before: int
    bytes_after: int
    tensors: tuple[CompactTensor, ...]
    note: str = ""

    @property
    def ratio(self) -> float:
        """Return the compression ratio, bytes before / bytes after."""
        return self.bytes_before / self.bytes_after
