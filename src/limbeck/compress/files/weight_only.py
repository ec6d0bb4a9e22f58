"""Weights in fewer bits in the file; the graph computes with them in float32 as before.

What the methods `float16`, `bfloat16` and `int4_weights` share: which weights there are, and how
what a weight is stored as takes its place.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from limbeck.compress.files import record as records
from limbeck.export import slim
from limbeck.export.compact import functions
from limbeck.export.compact.rebuild import Parts, framed, replace

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

Values: TypeAlias = NDArray[np.float32]

FLOAT = 1
"""ONNX's number of float32."""

SMALLEST = 64
"""Bytes below which a weight is left alone: to rebuild it takes about as many."""


@dataclass(frozen=True)
class Weight:
    """A float32 weight of a graph.

    Attributes:
        name: Its name.
        values: Its values, in its shape.
        reader: The first node that reads it.
    """

    name: str
    values: Values
    reader: NodeProto


Store: TypeAlias = Callable[[Weight, Parts], str | None]
"""Stores a weight: adds pieces and calls, and gives the name under which they put out float32; None
leaves the weight as it is."""


def quantize_weights(
    source: Path,
    target: Path,
    store: Store,
    *,
    method: str,
    settings: dict[str, str | int | float | bool],
    reasons: Mapping[str, str],
    note: str,
) -> records.QuantizeRecord:
    """Store each float32 weight of a file otherwise, where that makes the file smaller.

    Args:
        source: A float ONNX file, as `to_onnx` writes it.
        target: Where the new file goes, whole or not at all.
        store: How a weight is stored.
        method: The method's name, for the record.
        settings: Its settings, for the record.
        reasons: Why an operator of a kind keeps float32 weights; the key `""` is for others.
        note: What a reader of the record should know.

    Raises:
        InputError: A weight cannot be stored so.
        QuantizeError: The graph has no weight that gains.
        WriteError: The target cannot be written to.
    """
    import onnx

    model = onnx.load(source)
    slim.strip(model)
    _check_opset(model, source)
    before = copy.deepcopy(model)
    done = _replace_weights(model, store)
    quantized, skipped = records.sort(before, lambda node: not done.isdisjoint(node.input), reasons)
    _check_gain(before, model, source)
    records.write(before, model, target)
    sizes = (
        f"Weights took {slim.weight_bytes(before)} of the file's {before.ByteSize()} bytes, and "
        f"take {slim.weight_bytes(model)} of {model.ByteSize()}."
    )
    return records.QuantizeRecord(
        method=method,
        bytes_before=source.stat().st_size,
        bytes_after=target.stat().st_size,
        quantized=quantized,
        skipped=skipped,
        calibration_samples=0,
        settings=settings,
        note=f"{note} {sizes}",
    )


def _check_opset(model: ModelProto, source: Path) -> None:
    opset = functions.opset_of(model)
    if opset < functions.OPSET:
        raise records.QuantizeError(
            f"{source}: the file uses operator set {opset}; weights can be rebuilt from "
            f"{functions.OPSET} on. Export the model again."
        )


def _check_gain(before: ModelProto, after: ModelProto, source: Path) -> None:
    was, size = before.ByteSize(), after.ByteSize()
    if size >= was:
        raise records.QuantizeError(
            f"{source}: the file would not shrink: weights are {slim.weight_bytes(before)} of its "
            f"{was} bytes, too few to pay for what rebuilds them. Leave the stage out."
        )


def _replace_weights(model: ModelProto, store: Store) -> set[str]:
    """Store weights otherwise, in place; give their names."""
    names = functions.free_names(model)
    stored = {weight.name: made for weight, made in _stored(model, store, names)}
    # The weight's name stays with what is stored; those that read it read what is rebuilt.
    rebuilt = {name: out for name, (out, _) in stored.items()}
    slim.rename(model, lambda name: rebuilt.get(name, name))
    parts = dict(stored.values())
    for graph in slim.graphs(model):
        here = {tensor.name for tensor in graph.initializer} & parts.keys()
        replace(graph, here, [parts[name] for name in sorted(here)])
    calls = {call.op_type for one in parts.values() for call in one.calls if call.domain}
    functions.add(model, calls)
    return set(stored)


def _stored(
    model: ModelProto, store: Store, names: Iterator[str]
) -> Iterator[tuple[Weight, tuple[str, Parts]]]:
    """Try each weight; give those that take less than before."""
    for weight, size in _weights(model):
        parts = Parts(names)
        out = store(weight, parts)
        if out is not None and parts.bytes < size:
            yield weight, (out, parts)


def _weights(model: ModelProto) -> Iterator[tuple[Weight, int]]:
    """Walk a model's float32 weights that are not tiny, each with its bytes in the file."""
    from onnx import numpy_helper

    readers: dict[str, NodeProto] = {}
    for graph in slim.graphs(model):
        for node in graph.node:
            for name in node.input:
                readers.setdefault(name, node)
    for graph in slim.graphs(model):
        # What the user gives or gets has to keep its name and type.
        fixed = {value.name for value in (*graph.input, *graph.output)}
        for tensor in graph.initializer:
            size = framed(tensor)
            if _is_float(tensor) and size >= SMALLEST and tensor.name in readers.keys() - fixed:
                values = numpy_helper.to_array(tensor)
                yield Weight(tensor.name, values, readers[tensor.name]), size


def _is_float(tensor: TensorProto) -> bool:
    inside = tensor.data_location != tensor.EXTERNAL
    return tensor.data_type == FLOAT and inside and tensor.ByteSize() <= functions.LARGEST
