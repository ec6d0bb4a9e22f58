"""Lossless compaction of the weights of an ONNX model.

A pruned float32 weight still takes four bytes per zero in an ordinary file, and a ternary one eight
bits instead of two. Each tensor is stored in the smallest form of `compact.forms`, and calls of a
few functions (`compact.functions`) decode it from constants. ONNX Runtime folds these calls once,
when it loads the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from limbeck.export import slim
from limbeck.export.compact import functions
from limbeck.export.compact.choose import Option, choose, options
from limbeck.export.compact.forms import Content
from limbeck.export.compact.rebuild import Part, Parts, framed, replace
from limbeck.export.compact.record import CompactRecord, CompactTensor

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, TensorProto

SMALLEST = 64
"""Bytes below which a tensor is skipped: a call takes about as many."""

ITEM_BYTES = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2}
"""Bytes of an element, by ONNX's number of its type: from bool to bfloat16, without strings and
complex numbers. Types of less than a byte are packed already.
"""


def compact(model: ModelProto) -> CompactRecord:
    """Store each weight of a model in its smallest lossless form, in place.

    Every tensor is decoded exactly when the file is loaded: NaNs keep their payload, -0.0 its sign.
    A form is used only if it makes the file smaller, including its functions, so that the file
    never grows. External data and weights that are graph inputs are not changed.

    Args:
        model: An ONNX model of operator set 18 or newer, written by `to_onnx`; older ones are not
            changed.

    Returns:
        The record per tensor.

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
        return _nothing(before, f"operator set {opset} is too old to rebuild weights with")
    weights = list(_weights(model))
    prices = functions.prices(model)
    chosen = choose([one.options for one in weights], [one.size for one in weights], prices)
    made = _make(weights, chosen, functions.free_names(model))
    used = {call.op_type for one in made for call in one.parts.calls}
    if sum(one.gain for one in made) <= functions.added_bytes(model, used):
        return _nothing(before, "no weight is sparse, or takes few values, enough to pay")
    for holder in {id(one.weight.holder): one.weight.holder for one in made}.values():
        ours = [one for one in made if one.weight.holder is holder]
        replace(holder, {one.weight.name for one in ours}, (one.parts for one in ours))
    functions.add(model, used)
    return CompactRecord(
        bytes_before=before,
        bytes_after=model.ByteSize(),
        tensors=tuple(one.entry for one in sorted(made, key=lambda one: -one.gain)),
    )


@dataclass(frozen=True)
class _Weight:
    """A tensor of a graph that may be stored in another form, with its bytes in the file."""

    holder: GraphProto
    tensor: TensorProto
    name: str
    size: int
    content: Content
    options: tuple[Option, ...]


@dataclass(frozen=True)
class _Made:
    """A tensor in its new form."""

    weight: _Weight
    form: str
    parts: Parts

    @property
    def gain(self) -> int:
        return self.weight.size - self.parts.bytes

    @property
    def entry(self) -> CompactTensor:
        return CompactTensor(
            name=self.weight.name,
            form=self.form,
            bytes_before=self.weight.size,
            bytes_after=self.parts.bytes,
        )


def _nothing(size: int, why: str) -> CompactRecord:
    return CompactRecord(bytes_before=size, bytes_after=size, tensors=(), note=why)


def _weights(model: ModelProto) -> Iterator[_Weight]:
    """Iterate over the tensors that may be stored otherwise: weights and constants."""
    for holder in slim.graphs(model):
        inputs = {value.name for value in holder.input}
        for tensor in holder.initializer:
            if tensor.name not in inputs:
                yield from _weight(holder, tensor, tensor, tensor.name)
        for node in holder.node:
            if node.op_type == "Constant" and node.attribute[0].HasField("t"):
                yield from _weight(holder, node, node.attribute[0].t, node.output[0])


def _weight(holder: GraphProto, frame: Part, tensor: TensorProto, name: str) -> Iterator[_Weight]:
    raw, item = tensor.raw_data, ITEM_BYTES.get(tensor.data_type, 0)
    # Positions and codes are int32 during decoding.
    if item == 0 or len(raw) < SMALLEST or len(raw) // item * max(item, 4) > functions.LARGEST:
        return
    content = Content(np.frombuffer(raw, f"<u{item}"))
    size = framed(frame)
    ways = options(content.plans(), size)
    if ways:
        yield _Weight(holder, tensor, name, size, content, ways)


def _make(
    weights: Sequence[_Weight], chosen: Sequence[Option | None], names: Iterator[str]
) -> list[_Made]:
    """Encode tensors in the chosen forms; those that become no smaller are left out."""
    made = []
    for weight, option in zip(weights, chosen, strict=True):
        if option is None:
            continue
        parts, tensor = Parts(names), weight.tensor
        form = weight.content.make(option.plan)
        parts.restore(form, tensor.data_type, tensor.dims, out=weight.name)
        made.append(_Made(weight, str(option.plan), parts))
    return [one for one in made if one.gain > 0]
