"""Graph surgery on ONNX models: removal of traces, documentation and derived shapes.

The exporter records the Python source location of every node, which in a model of six thousand
parameters is a third of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, TensorProto


def graphs(model: ModelProto) -> Iterator[GraphProto]:
    """Iterate over the main graph and every subgraph (an `If`'s branches, a `Loop`'s body)."""
    pending = [model.graph]
    while pending:
        graph = pending.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    pending.append(attribute.g)
                pending.extend(attribute.graphs)


def strip(model: ModelProto) -> None:
    """Remove documentation, traces, derived shapes and unused operator sets, in place."""
    for holder in (model, *model.functions):
        _bare(holder)
    for graph in graphs(model):
        del graph.value_info[:]
        for part in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
            _bare(part)
    used = {node.domain for graph in graphs(model) for node in graph.node}
    used |= {node.domain for function in model.functions for node in function.node}
    kept = [opset for opset in model.opset_import if opset.domain in used | {""}]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def _bare(part: object) -> None:
    fields = part.DESCRIPTOR.fields_by_name  # type: ignore[attr-defined]
    for name in ("doc_string", "metadata_props"):
        if name in fields:
            part.ClearField(name)  # type: ignore[attr-defined]


def rename(model: ModelProto, new: Callable[[str], str]) -> None:
    """Rename every value of a graph in place: inputs, outputs, weights and intermediate values.

    Args:
        model: The model to change.
        new: Function from the old name to the new one; it must be injective.
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
    made = [
        name
        for graph in graphs(model)
        for node in graph.node
        for name in node.output
        if name and name not in kept
    ]
    fresh = (name for name in map(str, range(len(made) + len(kept))) if name not in kept)
    short = dict(zip(made, fresh, strict=False))
    rename(model, lambda name: short.get(name, name))
    for graph in graphs(model):
        for node in graph.node:
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
            yield from (made.t for made in node.attribute if made.HasField("t"))
