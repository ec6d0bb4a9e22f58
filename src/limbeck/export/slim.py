"""Graph surgery on ONNX models: removal of traces, documentation and derived shapes.

The exporter records the Python source location of every node, which in a model of six thousand
parameters is a third of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from google.protobuf.message import Message  # type: ignore[import-untyped]
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto


def graphs(model: ModelProto) -> Iterator[GraphProto]:
    """Iterate over the main graph and every subgraph (an `If`'s branches, a `Loop`'s body)."""
    pending = [model.graph]
    while pending:
        graph = pending.pop()
        yield graph
        for node in graph.node:
            pending += subgraphs(node)


def subgraphs(node: NodeProto) -> list[GraphProto]:
    """Return the graphs among a node's attributes."""
    found: list[GraphProto] = []
    for attribute in node.attribute:
        found += [attribute.g] if attribute.HasField("g") else []
        found += attribute.graphs
    return found


def localize(graph: GraphProto) -> None:
    """Move each weight that only one branch reads into that branch, in place.

    ONNX Runtime prepares the weights of a graph when it loads the file, but not those that a branch
    reads from outside: its layers are then several times slower.
    """
    inner = [one for node in graph.node for one in subgraphs(node)]
    own = {name for node in graph.node for name in node.input}
    own |= {value.name for value in (*graph.input, *graph.output)}
    names = [names_read(one) for one in inner]
    for weight in list(graph.initializer):
        readers = [one for one, found in zip(inner, names, strict=True) if weight.name in found]
        if weight.name not in own and len(readers) == 1:
            readers[0].initializer.add().CopyFrom(weight)
            graph.initializer.remove(weight)
    for one in inner:
        localize(one)


def names_read(graph: GraphProto) -> set[str]:
    """Return the names that a graph and those inside it read."""
    found = {name for node in graph.node for name in node.input}
    found |= {value.name for value in graph.output}
    return found.union(*(names_read(one) for node in graph.node for one in subgraphs(node)))


def strip(model: ModelProto) -> None:
    """Remove documentation, traces, derived shapes and unused operator sets, in place."""
    parts: list[Message] = [model, *model.functions]
    for graph in graphs(model):
        del graph.value_info[:]
        parts += [graph, *graph.node, *graph.initializer, *graph.input, *graph.output]
    for part in parts:
        for name in {"doc_string", "metadata_props"}.intersection(part.DESCRIPTOR.fields_by_name):
            part.ClearField(name)
    used = {node.domain for graph in graphs(model) for node in graph.node}
    used |= {node.domain for function in model.functions for node in function.node}
    kept = [opset for opset in model.opset_import if opset.domain in used | {""}]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def rename(model: ModelProto, new: Callable[[str], str]) -> None:
    """Rename every value of a model in place: inputs, outputs, weights and intermediate values.

    `new` returns the new name for an old one; it must be injective.
    """
    for graph in graphs(model):
        for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
            value.name = new(value.name)
        for node in graph.node:
            node.input[:] = [new(name) if name else "" for name in node.input]
            node.output[:] = [new(name) if name else "" for name in node.output]


def shorten(model: ModelProto) -> None:
    """Shorten the names of intermediate values and remove those of nodes, in place.

    Weights keep their names. A quantised graph repeats names such as
    `relu_1_DequantizeLinear_Output` hundreds of times.
    """
    kept = {value.name for graph in graphs(model) for value in (*graph.input, *graph.output)}
    kept |= {weight.name for graph in graphs(model) for weight in graph.initializer}
    nodes = [node for graph in graphs(model) for node in graph.node]
    long = [name for node in nodes for name in node.output if name and name not in kept]
    unused = (name for name in map(str, range(len(long) + len(kept))) if name not in kept)
    short = dict(zip(long, unused, strict=False))
    rename(model, lambda name: short.get(name, name))
    for node in nodes:
        node.ClearField("name")


def weight_bytes(model: ModelProto) -> int:
    """Count the bytes of a model's weights: initializers and the tensors inside constants."""
    return sum(tensor.ByteSize() for tensor in _tensors(model))


def float_bytes(model: ModelProto) -> int:
    """Count the bytes of a model's floating-point weights."""
    from onnx import TensorProto

    floats = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
    return sum(tensor.ByteSize() for tensor in _tensors(model) if tensor.data_type in floats)


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    for graph in graphs(model):
        yield from graph.initializer
        for node in graph.node:
            yield from (one.t for one in node.attribute if one.HasField("t"))
