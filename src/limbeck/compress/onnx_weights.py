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
        quantized: Counts per operator type of those that compute in, or read weights from, fewer
            bits.
        skipped: Operators that stay in floating point, with the reason.
        calibration_samples: Samples used for activation ranges; 0 if none were needed.
        settings: The settings used.
        note: Why the file did not shrink much, when it did not; empty otherwise.
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


def sort(
    before: ModelProto, is_quantized: Callable[[NodeProto], bool], reasons: Mapping[str, str]
) -> tuple[dict[str, int], tuple[Skipped, ...]]:
    """Sort a graph's computing operators into quantised and skipped ones.

    Args:
        before: The input graph of the quantiser, with node names.
        is_quantized: Predicate of the nodes that were quantised.
        reasons: Reason per operator type for staying in floating point; the key `""` is for every
            other type.

    Raises:
        QuantizeError: Nothing was quantised; the message names what was found.
    """
    done: Counter[str] = Counter()
    left: Counter[str] = Counter()
    for node in before.graph.node:
        (done if is_quantized(node) else left)[node.op_type] += 1
    if not done.keys() & WEIGHTED:
        found = ", ".join(f"{count} {kind}" for kind, count in sorted(left.items())) or "nothing"
        raise QuantizeError(
            f"nothing could be quantised: the graph holds {found}; quantising is for operators "
            "with weights (Conv, Gemm, MatMul). Leave the stage out, or use another method."
        )
    by_reason: dict[str, dict[str, int]] = {}
    for kind, count in sorted(left.items()):
        by_reason.setdefault(reasons.get(kind, reasons[""]), {})[kind] = count
    skipped = (Skipped(operators=kinds, reason=why) for why, kinds in sorted(by_reason.items()))
    return dict(sorted(done.items())), tuple(skipped)


def write(before: ModelProto, after: ModelProto, target: Path) -> str:
    """Shrink a quantised graph and write it atomically.

    Args:
        before: The float graph.
        after: The quantised graph; modified in place.
        target: Path of the new file.

    Returns:
        The reason if the file shrank by a factor of less than two; empty otherwise.
    """
    slim.strip(after)
    slim.shorten(after)
    write_bytes(target, after.SerializeToString())
    size, was = after.ByteSize(), before.ByteSize()
    if was >= 2 * size:
        return ""
    verb = "did not shrink" if size >= was else f"shrank only {was / size:.1f} times"
    left = slim.float_bytes(after)
    if left > size / 2:
        return f"the file {verb}: {left} of its {size} bytes are weights that stay float."
    return (
        f"the file {verb}: the graph dominates, weights were {slim.weight_bytes(before)} "
        f"of {was} bytes before and are {slim.weight_bytes(after)} of {size} after."
    )


BFLOAT16_LARGEST = 2.0**127 * (2 - 2**-7)
"""The largest bfloat16, slightly below the largest float32."""

REASONS = {
    "": "it reads no float32 weight, or one so small that storing it otherwise would not pay",
}


def quantize_halves(
    source: Path,
    target: Path,
    *,
    method: str,
    kind: int,
    largest: float,
    round_words: Callable[[Values], NDArray[np.uint16]],
) -> QuantizeRecord:
    """Store weights in a two-byte type.

    Args:
        source: A float ONNX file.
        target: Path of the new file.
        method: The type's name.
        kind: ONNX's number of the type.
        largest: The largest value of the type.
        round_words: Function that rounds float32 to the type and returns its bits.

    Raises:
        InputError: A finite weight would become infinite.
    """
    infinite = round_words(np.full(1, np.inf, np.float32))[0]

    def store(weight: Weight, parts: Parts) -> str | None:
        words = round_words(weight.values)
        if (np.isfinite(weight.values) & (words & 0x7FFF == infinite)).any():
            _check_mask(weight, method, largest)
            return None
        return parts.cast(parts.piece(tensor(words, kind), weight.name), FLOAT)

    return quantize_weights(
        source,
        target,
        store,
        method=method,
        settings={},
        reasons=REASONS,
        note="Weights take 16 bits in the file; they are made float32 when it is loaded, so that "
        "answers take as long as before.",
    )


def _check_mask(weight: Weight, method: str, largest: float) -> None:
    """Raise if values exceed the type's range, unless they are those of an attention mask."""
    if weight.reader.op_type not in WEIGHTED:
        return
    found = float(np.abs(weight.values[np.isfinite(weight.values)]).max())
    fix = "Use bfloat16, which has float32's range." if found <= BFLOAT16_LARGEST else ""
    allowed = f"at most {largest:.6g} in size for {method}"
    raise InputError(Problem(f"weights.{weight.name}", found, allowed, fix))


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
) -> QuantizeRecord:
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
    quantized, skipped = sort(before, lambda node: not done.isdisjoint(node.input), reasons)
    _check_gain(before, model, source)
    write(before, model, target)
    sizes = (
        f"Weights took {slim.weight_bytes(before)} of the file's {before.ByteSize()} bytes, and "
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


def _check_opset(model: ModelProto, source: Path) -> None:
    opset = functions.opset_of(model)
    if opset < functions.OPSET:
        raise QuantizeError(
            f"{source}: the file uses operator set {opset}; weights can be rebuilt from "
            f"{functions.OPSET} on. Export the model again."
        )


def _check_gain(before: ModelProto, after: ModelProto, source: Path) -> None:
    was, size = before.ByteSize(), after.ByteSize()
    if size >= was:
        raise QuantizeError(
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
        for stored in graph.initializer:
            size = framed(stored)
            if _is_float(stored) and size >= SMALLEST and stored.name in readers.keys() - fixed:
                values = numpy_helper.to_array(stored)
                yield Weight(stored.name, values, readers[stored.name]), size


def _is_float(tensor: TensorProto) -> bool:
    inside = tensor.data_location != tensor.EXTERNAL
    return tensor.data_type == FLOAT and inside and tensor.ByteSize() <= functions.LARGEST
