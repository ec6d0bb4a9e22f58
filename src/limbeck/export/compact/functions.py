"""ONNX functions that decode a tensor from its storage form, from standard operators.

A model contains those that it uses; each tensor then costs one or two calls. All inputs are
constant, so ONNX Runtime inlines the functions and folds them when a file is loaded, and runs the
original graph. For that, every shape must follow from the graph alone: ONNX Runtime (from 1.27)
does not fold nodes of unknown size, which rules out `NonZero` for masks.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from limbeck.export import slim
from limbeck.export.compact.codes import FIELDS, shifts

if TYPE_CHECKING:
    from onnx import FunctionProto, ModelProto

DOMAIN = "limbeck"
# Names of the functions of lossless storage: codebook lookup, mask, steps, and unpacking.
NAMES = ("look", "mask", "steps", *(f"bits{bits}" for bits in range(1, 8)))
OPSET = 18  # the lowest operator set with BitwiseAnd and BitwiseOr
LARGEST = 2**30  # maximum bytes of a value that ONNX Runtime folds when it loads a file
IR_VERSION = 8  # the lowest version of the file format with functions
LOOK = """
look <shape> (codes, book) => (out) {
    s = Constant <value_ints: ints = @shape> ()
    c = Reshape (codes, s)
    i = Cast <to = 6> (c)
    out = Gather (book, i)
}
"""
MASK = """
mask <shape> (bits, values) => (out) {
    i = Cast <to = 6> (bits)
    a = Constant <value_int = 0> ()
    c = CumSum (i, a)
    j = Mul (c, i)
    s = Constant <value_ints: ints = @shape> ()
    k = Reshape (j, s)
    out = Gather (values, k)
}
"""
STEPS = """
steps <n, shape, blank> (codes, values) => (out) {
    i = Cast <to = 6> (codes)
    o = Constant <value = int32[1] {1}> ()
    h = Add (i, o)
    a = Constant <value_int = 0> ()
    c = CumSum (h, a)
    p = Sub (c, o)
    m = Constant <value_ints: ints = @n> ()
    e = ConstantOfShape <value: tensor = @blank> (m)
    w = ScatterElements (e, p, values)
    s = Constant <value_ints: ints = @shape> ()
    out = Reshape (w, s)
}
"""
# For `int4_weights`: 4-bit codes minus the zero point, times the block's scale.
SCALE = """
scale <blocks, shape> (codes, scales) => (out) {
    z = Constant <value = int8[1] {8}> ()
"""
AFFINE = """
affine <zeros, blocks, shape> (codes, scales, zero) => (out) {
    r = Constant <value_ints: ints = @zeros> ()
    h = Reshape (zero, r)
    z = Cast <to = 3> (h)
"""
SCALED = """
    b = Constant <value_ints: ints = @blocks> ()
    c = Reshape (codes, b)
    i = Cast <to = 3> (c)
    d = Sub (i, z)
    f = Cast <to = 1> (d)
    g = Cast <to = 1> (scales)
    w = Mul (f, g)
    s = Constant <value_ints: ints = @shape> ()
    out = Reshape (w, s)
}
"""
CUT = """
cut <count, shape> (whole) => (out) {
    z = Constant <value_ints = [0]> ()
    e = Constant <value_ints: ints = @count> ()
    a = Constant <value_ints = [1]> ()
    c = Slice (whole, z, e, a)
    s = Constant <value_ints: ints = @shape> ()
    out = Reshape (c, s)
}
"""
BODIES = {
    "look": LOOK, "mask": MASK, "steps": STEPS, "cut": CUT,
    "scale": SCALE + SCALED, "affine": AFFINE + SCALED,
}  # fmt: skip


def function(name: str, opset: int) -> FunctionProto:
    """Build one of the functions for an operator set, at least `OPSET`."""
    from onnx import parser

    body = BODIES[name] if name in BODIES else _bits(int(name.removeprefix("bits")))
    return parser.parse_function(f'<domain: "{DOMAIN}", opset_import: ["": {opset}]> {body}')


def add(model: ModelProto, names: Iterable[str]) -> None:
    """Add missing functions to a model, in place."""
    from onnx import helper

    opset = opset_of(model)
    model.functions.extend(function(name, opset) for name in sorted(set(names) - _present(model)))
    model.ir_version = max(model.ir_version, IR_VERSION)
    if all(one.domain != DOMAIN for one in model.opset_import):
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))


def prices(model: ModelProto) -> dict[str, int]:
    """Count the bytes that each function would add to a model; 0 if present."""
    opset, there = opset_of(model), _present(model)
    return {name: 0 if name in there else function(name, opset).ByteSize() + 3 for name in NAMES}


def added_bytes(model: ModelProto, names: Iterable[str]) -> int:
    """Count the bytes that `add` would add to a file: functions, and their domain."""
    from onnx import ModelProto

    frame = ModelProto(
        ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions
    )
    before = frame.ByteSize()
    add(frame, names)
    return frame.ByteSize() - before


def free_names(model: ModelProto) -> Iterator[str]:
    """Yield short names that are unused in a model."""
    taken: set[str] = set()
    for graph in slim.graphs(model):
        taken |= {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
        for node in graph.node:
            taken |= {*node.input, *node.output}
    return (name for name in map("c{}".format, itertools.count()) if name not in taken)


def _present(model: ModelProto) -> set[str]:
    return {one.name for one in model.functions if one.domain == DOMAIN}


def opset_of(model: ModelProto) -> int:
    """Return the version of the standard operator set of a model."""
    standard = (one.version for one in model.opset_import if one.domain in ("", "ai.onnx"))
    return max(standard, default=0)


def _bits(bits: int) -> str:
    """Build the function that unpacks codes of a bit width; each field has the shape `[bytes, 1]`.

    Example:
        >>> print(_bits(2))
        bits2 <n> (p0) => (v0) {
        z = Constant <value_ints = [0]> ()
        f = Constant <value_ints = [-1]> ()
        e = Constant <value_ints: ints = @n> ()
        s0 = Constant <value = uint8[4] {0, 2, 4, 6}> ()
        r0 = BitShift <direction = "RIGHT"> (p0, s0)
        m0 = Constant <value = uint8[1] {3}> ()
        a0 = BitwiseAnd (r0, m0)
        b0 = Reshape (a0, f)
        v0 = Slice (b0, z, e)
        }
    """
    widths, result = FIELDS[bits], "v0"
    inputs = ", ".join(f"p{index}" for index in range(len(widths)))
    lines = [
        "z = Constant <value_ints = [0]> ()",
        "f = Constant <value_ints = [-1]> ()",
        "e = Constant <value_ints: ints = @n> ()",
    ]
    for index, width in enumerate(widths):
        offsets = ", ".join(map(str, shifts(width)))
        lines += [
            f"s{index} = Constant <value = uint8[{8 // width}] {{{offsets}}}> ()",
            f'r{index} = BitShift <direction = "RIGHT"> (p{index}, s{index})',
            f"m{index} = Constant <value = uint8[1] {{{2**width - 1}}}> ()",
            f"a{index} = BitwiseAnd (r{index}, m{index})",
            f"b{index} = Reshape (a{index}, f)",
            f"v{index} = Slice (b{index}, z, e)",
        ]
        if index:
            lines += [
                f"o{index} = Constant <value = uint8[1] {{{sum(widths[:index])}}}> ()",
                f'l{index} = BitShift <direction = "LEFT"> (v{index}, o{index})',
                f"j{index} = BitwiseOr ({result}, l{index})",
            ]
            result = f"j{index}"
    return "\n".join([f"bits{bits} <n> ({inputs}) => ({result}) {{", *lines, "}"])
