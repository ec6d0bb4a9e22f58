"""Record of quantising a file: bytes, operators, and skipped operators with reasons."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from limbeck.core.files import write_bytes
from limbeck.core.measurement import Result
from limbeck.errors import InputError, LimbeckError, Problem
from limbeck.export import slim
from limbeck.export.compact import functions
from limbeck.export.compact.onnx import Parts, framed, replace, tensor

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto


WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Gather", "Attention", "LSTM"})
"""Operators that hold a model's weights."""


class QuantizeError(LimbeckError):
    """There was nothing to quantise, or ONNX Runtime failed."""


class Skipped(Result):
    """Operators that stay in floating point for one reason, with counts per type."""

    operators: dict[str, int]
    reason: str


class QuantizeRecord(Result):
    """The result of quantising a file.

    Attributes:
        method: The name of the quantiser.
        bytes_before: Size of the float file.
        bytes_after: Size of the quantised file.
        quantized: Number of operators per type that compute in, or read weights from, fewer bits.
        skipped: Operators that stay in floating point, with the reason.
        calibration_samples: Samples used for activation ranges; 0 if none were needed.
        settings: The settings used.
        note: Why the file did not shrink much, if so.
    """

    method: str
    bytes_before: int
    bytes_after: int
    quantized: dict[str, int]
    skipped: tuple[Skipped, ...]
    calibration_samples: int
    settings: dict[str, str | int | float | bool]
    note: str = ""

    @property
    def ratio(self) -> float:
        """Return the compression ratio, bytes before / bytes after."""
        return self.bytes_before / self.bytes_after


def refuse_branches(model: ModelProto, method: str) -> None:
    """Raise an error for a graph with branches, such as those of early exits.

    ONNX Runtime's quantiser does not reach the layers inside a branch, and drops their weights.

    Raises:
        QuantizeError: The graph has a branch or a loop.
    """
    branching = sorted({node.op_type for node in model.graph.node if slim.subgraphs(node)})
    if branching:
        raise QuantizeError(
            f"{method} does not reach the layers inside {', '.join(branching)}, the branches of "
            "early exits. Use float16 or int4_weights; or quantise the model before the stage "
            "early_exit, by uniform."
        )


def classify(
    before: ModelProto, is_quantized: Callable[[NodeProto], bool], reasons: Mapping[str, str]
) -> tuple[dict[str, int], tuple[Skipped, ...]]:
    """Count a graph's quantised and skipped operators.

    `reasons` are those for staying in floating point, per operator type; the key `""` is for every
    other type.

    Raises:
        QuantizeError: No operator was quantised; the message lists the operators.
    """
    done: Counter[str] = Counter()
    skipped: Counter[str] = Counter()
    for graph in slim.graphs(before):
        for node in graph.node:
            (done if is_quantized(node) else skipped)[node.op_type] += 1
    if not done.keys() & WEIGHTED:
        found = ", ".join(f"{count} {kind}" for kind, count in sorted(skipped.items()))
        raise QuantizeError(
            f"nothing could be quantised: the graph has {found or 'no operators'}; supported are "
            "operators with weights (Conv, Gemm, MatMul). Remove the stage, or use another method."
        )
    by_reason: dict[str, dict[str, int]] = {}
    for kind, count in sorted(skipped.items()):
        by_reason.setdefault(reasons.get(kind, reasons[""]), {})[kind] = count
    return dict(sorted(done.items())), tuple(
        Skipped(operators=kinds, reason=reason) for reason, kinds in sorted(by_reason.items())
    )


def write(before: ModelProto, after: ModelProto, target: Path) -> str:
    """Shrink a quantised graph, in place, and write it atomically.

    Returns:
        The reason if the file shrank by a factor of less than two; empty otherwise.
    """
    slim.strip(after)
    slim.shorten(after)
    write_bytes(target, after.SerializeToString())
    size, old_size = after.ByteSize(), before.ByteSize()
    if old_size >= 2 * size:
        return ""
    verb = "did not shrink" if size >= old_size else f"shrank only {old_size / size:.1f} times"
    left = slim.float_bytes(after)
    if left > size / 2:
        return f"the file {verb}: {left} of its {size} bytes are weights that stay float."
    return (
        f"the file {verb}: the graph dominates, weights were {slim.weight_bytes(before)} "
        f"of {old_size} bytes before and are {slim.weight_bytes(after)} of {size} after."
    )


FLOAT, FLOAT16 = 1, 10
"""ONNX's numbers of float32 and float16."""

FLOAT16_LARGEST = 65504.0
BFLOAT16_LARGEST = 2.0**127 * (2 - 2**-7)
"""The largest bfloat16, slightly below the largest float32."""

REASONS = {"": "it reads no float32 weight, or one too small for 16 bits to save bytes"}


def quantize_halves(
    source: Path,
    target: Path,
    *,
    method: str,
    kind: int,
    largest: float,
    round_words: Callable[[Values], NDArray[np.uint16]],
) -> QuantizeRecord:
    """Store weights in a two-byte type: `method` is its name, and `kind` ONNX's number of it.

    `largest` is its largest value; `round_words` rounds float32 to the type and returns its bits.

    Raises:
        InputError: A finite weight would become infinite.
    """
    infinite = round_words(np.full(1, np.inf, np.float32))[0]

    def store(weight: Weight, parts: Parts) -> str | None:
        words = round_words(weight.values)
        if (np.isfinite(weight.values) & (words & 0x7FFF == infinite)).any():
            if weight.reader.op_type not in WEIGHTED:  # an attention mask
                return None
            found = float(np.abs(weight.values[np.isfinite(weight.values)]).max())
            fix = "Use bfloat16, which has float32's range." if found <= BFLOAT16_LARGEST else ""
            allowed = f"at most {largest:.6g} in size for {method}"
            raise InputError(Problem(f"weights.{weight.name}", found, allowed, fix))
        return parts.cast(parts.piece(tensor(words, kind), weight.name), FLOAT)

    return quantize_weights(
        source,
        target,
        store,
        method=method,
        settings={},
        reasons=REASONS,
        note="Weights take 16 bits in the file and are converted to float32 when it is loaded: the "
        "latency is unchanged.",
    )


Use: TypeAlias = tuple[object, int, bool]
"""A reading of a weight: operator type, input index, and whether transposed."""

RECURRENT = ("LSTM", "GRU", "RNN")


def separate_weights(model: ModelProto) -> None:
    """Copy shared weights of a float graph, in place, so that all readers use a weight alike.

    A `Gemm` that transposes its weight reads a transposed copy instead, shared by all that do so.
    Every recurrent operator gets its own copy.
    """
    names = functions.free_names(model)
    readers: dict[str, list[tuple[NodeProto, int]]] = {}
    for graph in slim.graphs(model):
        for node in graph.node:
            for index, name in enumerate(node.input):
                readers.setdefault(name, []).append((node, index))
    for graph in slim.graphs(model):
        fixed = {value.name for value in (*graph.input, *graph.output)}
        for weight in list(graph.initializer):
            if weight.name not in fixed:
                _separate(graph, weight, readers.get(weight.name, []), names)


def not_matrices(model: ModelProto) -> list[str]:
    """Return the names of products whose weight is not a matrix; unnamed nodes get a name.

    ONNX Runtime's integer kernels do not support weights of one or three axes.
    """
    graphs = list(slim.graphs(model))
    named = {node.name for graph in graphs for node in graph.node}
    free = (name for name in map("product_{}".format, range(2**31)) if name not in named)
    axes = {weight.name: len(weight.dims) for graph in graphs for weight in graph.initializer}
    found = []
    for graph in graphs:
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
    """Copy one weight for each further use."""
    from onnx import numpy_helper

    uses: dict[Use, list[tuple[NodeProto, int]]] = {}
    for node, index in readers:
        uses.setdefault(_use(node, index), []).append((node, index))
    values = numpy_helper.to_array(weight)
    for number, (use, nodes) in enumerate(sorted(uses.items(), key=lambda item: item[0][2])):
        transposed = use[2]
        if number == 0 and not transposed:
            continue
        copied = numpy_helper.from_array(np.ascontiguousarray(values.T) if transposed else values)
        if number == 0:
            copied.name = weight.name
            weight.CopyFrom(copied)
        else:
            copied.name = next(names)
            graph.initializer.append(copied)
        for node, index in nodes:
            node.input[index] = copied.name
            if transposed:
                kept = [one for one in node.attribute if one.name != "transB"]
                del node.attribute[:]
                node.attribute.extend(kept)


def _use(node: NodeProto, index: int) -> Use:
    if node.op_type in RECURRENT:
        return tuple(node.output), index, False
    if node.op_type != "Gemm":
        return node.op_type, index, False
    # ONNX Runtime splits it into a product and a sum.
    if index == 2:
        return "Add", 1, False
    return "MatMul", index, index == 1 and is_transposed(node)


def is_transposed(gemm: NodeProto) -> bool:
    """Return whether a `Gemm` transposes its weight."""
    return any(attribute.name == "transB" and attribute.i for attribute in gemm.attribute)


Values: TypeAlias = NDArray[np.float32]
SMALLEST = 64
"""Bytes below which a weight is skipped: rebuilding it takes about as many."""


@dataclass(frozen=True)
class Weight:
    """A float32 weight of a graph, and the first node that reads it."""

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
) -> QuantizeRecord:
    """Store each float32 weight of a file in a smaller form, where that reduces the file size.

    `store` returns the stored form of a weight. The method's name, its settings, the reasons for
    keeping float32 weights (see `classify`) and the note are for the record.

    Raises:
        InputError: A weight cannot be stored in this form.
        QuantizeError: No weight becomes smaller.
    """
    import onnx

    model = onnx.load(source)
    slim.strip(model)
    opset = functions.opset_of(model)
    if opset < functions.OPSET:
        raise QuantizeError(
            f"{source}: the file uses operator set {opset}; weights can be rebuilt from "
            f"{functions.OPSET} on. Export the model again."
        )
    before = copy.deepcopy(model)
    done = _replace_weights(model, store)
    quantized, skipped = classify(before, lambda node: not done.isdisjoint(node.input), reasons)
    old_size, size = before.ByteSize(), model.ByteSize()
    if size >= old_size:
        raise QuantizeError(
            f"{source}: the file would not shrink: weights are {slim.weight_bytes(before)} of its "
            f"{old_size} bytes, fewer than the operators that rebuild them. Remove the stage."
        )
    write(before, model, target)
    sizes = (
        f"Weights took {slim.weight_bytes(before)} of the file's {old_size} bytes, and "
        f"take {slim.weight_bytes(model)} of {model.ByteSize()}."
    )
    return QuantizeRecord(
        method=method,
        bytes_before=source.stat().st_size,
        bytes_after=target.stat().st_size,
        quantized=quantized,
        skipped=skipped,
        calibration_samples=0,
        settings=settings,
        note=f"{note} {sizes}",
    )


def _replace_weights(model: ModelProto, store: Store) -> set[str]:
    """Replace weights by their stored form, in place, where it is smaller; return their names."""
    names = functions.free_names(model)
    rebuilt: dict[str, str] = {}
    stored: dict[str, Parts] = {}
    for weight, size in _weights(model):
        parts = Parts(names)
        output = store(weight, parts)
        if output is not None and parts.bytes < size:
            rebuilt[weight.name], stored[output] = output, parts
    # The stored form keeps the weight's name; readers are rewired to the rebuilt tensor.
    slim.rename(model, lambda name: rebuilt.get(name, name))
    for graph in slim.graphs(model):
        here = {tensor.name for tensor in graph.initializer} & stored.keys()
        replace(graph, here, [stored[name] for name in sorted(here)])
    calls = {call.op_type for parts in stored.values() for call in parts.calls if call.domain}
    functions.add(model, calls)
    return set(rebuilt)


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
        for stored in graph.initializer:
            inside = stored.data_location != stored.EXTERNAL
            small = stored.ByteSize() <= functions.LARGEST
            size, read = framed(stored), stored.name in readers.keys() - fixed
            if stored.data_type == FLOAT and inside and small and size >= SMALLEST and read:
                values = numpy_helper.to_array(stored)
                yield Weight(stored.name, values, readers[stored.name]), size
