"""Weight-only quantisation of an ONNX file; the graph still computes in float32.

Shared by `float16`, `bfloat16` and `int4_weights`: finding the weights and replacing each by its
stored form.
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
"""Bytes below which a weight is skipped: rebuilding it takes about as many."""


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
"""A function that stores a weight: adds pieces and calls, and returns the name of the rebuilt
float32 tensor; None skips the weight.
"""


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
    """Store each float32 weight of a file in a smaller form, where that reduces the file size.

    Args:
        source: A float ONNX file written by `to_onnx`.
        target: Path of the new file, written atomically.
        store: Function that returns the stored form of a weight.
        method: The method's name, for the record.
        settings: Its settings, for the record.
        reasons: Reason per operator type for keeping float32 weights; the key `""` is for other
            types.
        note: Remark for the record.

    Raises:
        InputError: A weight cannot be stored in this form.
        QuantizeError: No weight becomes smaller.
        WriteError: The target cannot be written.
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
    """Replace weights by their stored form, in place; return their names."""
    names = functions.free_names(model)
    stored = {weight.name: made for weight, made in _stored(model, store, names)}
    # The stored form keeps the weight's name; readers are rewired to the rebuilt tensor.
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
    """Yield the stored form of each weight that becomes smaller."""
    for weight, size in _weights(model):
        parts = Parts(names)
        out = store(weight, parts)
        if out is not None and parts.bytes < size:
            yield weight, (out, parts)


def _weights(model: ModelProto) -> Iterator[tuple[Weight, int]]:
    """Iterate over a model's float32 weights that are not tiny, each with its bytes in the file."""
    from onnx import numpy_helper

    readers: dict[str, NodeProto] = {}
    for graph in slim.graphs(model):
        for node in graph.node:
            for name in node.input:
                readers.setdefault(name, node)
    for graph in slim.graphs(model):
        # Graph inputs and outputs keep their name and type.
        fixed = {value.name for value in (*graph.input, *graph.output)}
        for tensor in graph.initializer:
            size = framed(tensor)
            if _is_float(tensor) and size >= SMALLEST and tensor.name in readers.keys() - fixed:
                values = numpy_helper.to_array(tensor)
                yield Weight(tensor.name, values, readers[tensor.name]), size


def _is_float(tensor: TensorProto) -> bool:
    inside = tensor.data_location != tensor.EXTERNAL
    return tensor.data_type == FLOAT and inside and tensor.ByteSize() <= functions.LARGEST
