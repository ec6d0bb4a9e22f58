"""Reading of untrusted ONNX files, in bounded time and memory.

ONNX Runtime trusts a file: it follows external data to any path, allocates whatever a shape
declares, and runs loops without limit. A file is therefore checked before a session is created, and
one of unknown origin is first run in a process with limits.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.core.files import read_bytes
from limbeck.core.process import run_limited
from limbeck.errors import InputError, Problem
from limbeck.export import slim

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto

LARGEST = 2**31 - 1  # maximum bytes of one ONNX file: protobuf counts them in 32 bits
# Domains of ONNX Runtime's operators; any other must be a function of the file.
DOMAINS = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft"}
MOST_NODES = 1_000_000  # maximum number of nodes of a graph with its functions inlined
DEEPEST = 50  # maximum nesting of subgraphs and of functions

SECONDS, MEMORY = 60.0, 4 * 2**30
"""Minimum limits for a file of unknown origin, to load and to predict one sample."""

_FIELDS = (
    "float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data",
)  # fmt: skip
_CHILD = Path(__file__).with_name("_reading_child.py")


def read_model(path: Path) -> ModelProto:
    """Read an ONNX file, and check that it is self-contained and bounded.

    Raises:
        InputError: The file is not regular, not ONNX, larger than 2 GiB, refers to external data,
            declares tensors that it does not contain, or has custom operators, recursive functions,
            or too many nodes: all problems at once.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    content = read_bytes(path, limit=LARGEST)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        problem = Problem(str(path), f"damaged or no ONNX file ({error})", "a whole ONNX file")
        raise InputError(problem) from error
    if not model.HasField("graph") or not model.graph.output:
        raise InputError(Problem(str(path), "a file without a graph", "a whole ONNX file"))
    problems = [Problem(str(path), *found) for found in _problems(model)]
    if problems:
        raise InputError(*problems[:20])
    return model


def check_file(path: Path) -> None:
    """Check an ONNX file as `read_model` does; unchanged files are not read again.

    Raises:
        InputError: As `read_model`.
    """
    try:
        found = os.stat(path)
    except OSError:
        read_model(path)  # raises with the reason
        return
    _checked(path, found.st_ino, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=256)
def _checked(path: Path, inode: int, size: int, changed: int) -> None:
    read_model(path)


def probe(path: Path) -> None:
    """Load a file of unknown origin and predict one sample, in a process with limits.

    The process may take a minute of CPU time and 4 GiB, and more for a large file.

    Raises:
        InputError: As `read_model`; or ONNX Runtime fails, or takes more time or memory.
    """
    check_file(path)
    size = path.stat().st_size
    seconds, memory = SECONDS + size / 2**23, MEMORY + 16 * size
    limits = f"{seconds:.0f} s of computing and {memory / 2**30:.0f} GiB"
    allowed = f"an ONNX file that predicts a sample within {limits}"
    command = [sys.executable, "-I", str(_CHILD), str(path.resolve()), str(memory)]
    try:
        ended = run_limited(command, seconds=seconds)
    except subprocess.TimeoutExpired as error:
        raise InputError(Problem(str(path), "no prediction in time", allowed)) from error
    if ended.returncode:
        lines = ended.stderr.strip().splitlines() or [f"ended with {ended.returncode}"]
        raise InputError(Problem(str(path), lines[-1], allowed))


def _problems(model: ModelProto) -> Iterator[tuple[str, str]]:
    """Yield each problem, as what was given and what is allowed."""
    nodes: list[NodeProto] = []
    tensors = _weights(model.graph)
    pending: list[tuple[Iterable[NodeProto], int]] = [(model.graph.node, 0)]
    pending += [(function.node, 0) for function in model.functions]
    while pending:
        scope, depth = pending.pop()
        if depth > DEEPEST:
            yield f"graphs nested more than {DEEPEST} levels", f"at most {DEEPEST} levels"
            return
        for node in scope:
            nodes.append(node)
            for attribute in node.attribute:
                tensors += [attribute.t] if attribute.HasField("t") else []
                tensors += attribute.tensors
                sparse = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
                for one in (*sparse, *attribute.sparse_tensors):
                    tensors += [one.values, one.indices]
            for graph in slim.subgraphs(node):
                tensors += _weights(graph)
                pending.append((graph.node, depth + 1))
    for tensor in tensors:
        yield from _tensor_problems(tensor)
    known = {function.domain for function in model.functions}
    foreign = sorted({node.domain for node in nodes} - DOMAINS - known)
    if foreign:
        yield f"operators of {', '.join(foreign)}", "operators of ONNX and of ONNX Runtime"
    try:
        count = _expanded_nodes(model)
    except RecursionError:
        yield "functions that call themselves", "functions without recursion"
    else:
        if count > MOST_NODES:
            yield f"{count:,} nodes with all functions written out", f"at most {MOST_NODES:,}"


def _weights(graph: GraphProto) -> list[TensorProto]:
    sparse = [part for one in graph.sparse_initializer for part in (one.values, one.indices)]
    return [*graph.initializer, *sparse]


def _tensor_problems(tensor: TensorProto) -> Iterator[tuple[str, str]]:
    import onnx

    name = tensor.name or "a constant"
    if tensor.external_data or tensor.data_location == onnx.TensorProto.EXTERNAL:
        places = [entry.value for entry in tensor.external_data if entry.key == "location"]
        given = f"{name} kept in another file, {', '.join(places) or 'without a name'}"
        yield given, "weights within the file (save it without external data)"
        return
    dims = list(tensor.dims)
    if any(size < 0 for size in dims):
        yield f"{name} of shape {dims}", "sizes from 0"
        return
    if not tensor.raw_data or tensor.data_type not in _bits():
        # Values in typed fields: one entry each, or two for complex numbers.
        held = max(len(getattr(tensor, field)) for field in _FIELDS)
        if math.prod(dims) > max(8 * held, len(tensor.raw_data)):
            yield f"{name} of shape {dims} with {held} values", "the number of values of its shape"
        return
    needed = -(-math.prod(dims) * _bits()[tensor.data_type] // 8)
    if needed != len(tensor.raw_data):
        yield f"{name} of shape {dims} in {len(tensor.raw_data):,} bytes", f"{needed:,} bytes"


@lru_cache(maxsize=1)
def _bits() -> dict[int, int]:
    """Return the bits of an element by type, for types of known size."""
    import onnx

    kinds = {
        "FLOAT": 32, "UINT8": 8, "INT8": 8, "UINT16": 16, "INT16": 16, "INT32": 32, "INT64": 64,
        "BOOL": 8, "FLOAT16": 16, "DOUBLE": 64, "UINT32": 32, "UINT64": 64, "BFLOAT16": 16,
        "UINT4": 4, "INT4": 4,
    }  # fmt: skip
    return {onnx.TensorProto.DataType.Value(name): bits for name, bits in kinds.items()}


def _expanded_nodes(model: ModelProto) -> int:
    """Count the nodes of a graph with its functions inlined; raise if one is recursive."""
    functions = {(one.domain, one.name): one for one in model.functions}
    counts: dict[tuple[str, str], int] = {}
    under_way: set[tuple[str, str]] = set()

    def count(scope: Iterable[NodeProto]) -> int:
        total = 0
        for node in scope:
            total += calls((node.domain, node.op_type))
            total += sum(count(graph.node) for graph in slim.subgraphs(node))
        return total

    def calls(key: tuple[str, str]) -> int:
        if key not in functions:
            return 1
        if key not in counts:
            if key in under_way or len(under_way) > DEEPEST:
                raise RecursionError
            under_way.add(key)
            counts[key] = count(functions[key].node)
            under_way.remove(key)
        return counts[key]

    return count(model.graph.node)
