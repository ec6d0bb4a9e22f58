"""Separation of shared weights, for ONNX Runtime's quantisers.

ONNX Runtime's quantisers assume one reader per weight: `quantize_dynamic` transposes the weight of
a `Gemm` in place for each `Gemm` that reads it, and the first reader of a weight decides along
which axis the scales lie for all others.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from limbeck.export import slim
from limbeck.export.compact import functions

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

Use: TypeAlias = tuple[object, int, bool]
"""A reading of a weight: operator type, input index, and whether transposed."""

RECURRENT = ("LSTM", "GRU", "RNN")


def separate_weights(model: ModelProto) -> None:
    """Copy shared weights, in place, so that all readers of one weight read it alike.

    A `Gemm` that transposes its weight reads a transposed copy instead, shared by all that do so.
    Every recurrent operator gets its own copy.

    Args:
        model: A float graph.
    """
    names = functions.free_names(model)
    readers: dict[str, list[tuple[NodeProto, int]]] = {}
    for graph in slim.graphs(model):
        for node in graph.node:
            for place, name in enumerate(node.input):
                readers.setdefault(name, []).append((node, place))
    for graph in slim.graphs(model):
        fixed = {value.name for value in (*graph.input, *graph.output)}
        for weight in list(graph.initializer):
            if weight.name not in fixed:
                _separate(graph, weight, readers.get(weight.name, []), names)


def not_matrices(model: ModelProto) -> list[str]:
    """Return the names of products whose weight is not a matrix; unnamed nodes get a name.

    ONNX Runtime's integer kernels do not support weights of one or three axes.
    """
    named = {node.name for graph in slim.graphs(model) for node in graph.node}
    free = (name for name in map("product_{}".format, range(2**31)) if name not in named)
    axes = {
        weight.name: len(weight.dims)
        for graph in slim.graphs(model)
        for weight in graph.initializer
    }
    found = []
    for graph in slim.graphs(model):
        for node in graph.node:
            if node.op_type == "MatMul" and {axes.get(name, 2) for name in node.input} != {2}:
                node.name = node.name or next(free)
                found.append(node.name)
    return found


def _separate(
    graph: GraphProto,
    weight: TensorProto,
    readers: list[tuple[NodeProto, int]],
    names: Iterator[str],
) -> None:
    """Copy one weight for each further way in which it is read."""
    from onnx import numpy_helper

    uses: dict[Use, list[tuple[NodeProto, int]]] = {}
    for node, place in readers:
        uses.setdefault(_use(node, place), []).append((node, place))
    values = numpy_helper.to_array(weight)
    for number, (use, nodes) in enumerate(sorted(uses.items(), key=lambda item: item[0][2])):
        transposed = use[2]
        if number == 0 and not transposed:
            continue
        made = numpy_helper.from_array(np.ascontiguousarray(values.T) if transposed else values)
        if number == 0:
            made.name = weight.name
            weight.CopyFrom(made)
        else:
            made.name = next(names)
            graph.initializer.append(made)
        for node, place in nodes:
            node.input[place] = made.name
            if transposed:
                _clear(node, "transB")


def _clear(node: NodeProto, attribute: str) -> None:
    kept = [one for one in node.attribute if one.name != attribute]
    del node.attribute[:]
    node.attribute.extend(kept)


def _use(node: NodeProto, place: int) -> Use:
    if node.op_type in RECURRENT:
        return tuple(node.output), place, False
    if node.op_type != "Gemm":
        return node.op_type, place, False
    transposed = any(one.name == "transB" and one.i for one in node.attribute)
    # ONNX Runtime splits it into a product and a sum.
    return ("MatMul", place, transposed and place == 1) if place < 2 else ("Add", 1, False)
