"""4-bit weights with a scale per block: about an eighth of the size, the same operators.

ONNX Runtime's MatMulNBits runs nowhere else and has no convolution; ONNX's blocked DequantizeLinear
needs opset 21, and ONNX Runtime would evaluate it in every run. Packed codes with standard
operators run anywhere, and are constant-folded once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from limbeck.compress.method import FileMethod, Tolerance
from limbeck.compress.onnx_weights import (
    FLOAT,
    FLOAT16,
    FLOAT16_LARGEST,
    QuantizeRecord,
    Values,
    Weight,
    is_transposed,
    quantize_weights,
)
from limbeck.errors import InputError, Problem
from limbeck.export.compact.codes import Bytes, pack
from limbeck.export.compact.onnx import Parts, tensor

BLOCKS = (32, 64, 128)

REASONS = {
    "": "not an operator of this method: it has few weights, or would lose accuracy",
    **dict.fromkeys(
        ("MatMul", "Gemm", "Conv", "ConvTranspose", "LSTM", "GRU"),
        "it has no float32 weight, or one too small for 4 bits to save bytes",
    ),
    "Gather": "it reads no float table, or one too small for 4 bits to save bytes",
}


class Int4Weights(FileMethod):
    """4-bit weight storage, with a scale per block; the same speed."""

    block: Literal[32, 64, 128] = Field(
        32, description="Maximum number of values that share a scale."
    )
    symmetric: bool = Field(
        True, description="Symmetric grids; otherwise each block has a zero point."
    )

    tolerance: Tolerance = 0.5

    def write(
        self, source: Path, target: Path, *, calibration: Iterable[Mapping[str, Any]]
    ) -> QuantizeRecord:
        """Write the file with 4-bit weights; no calibration is needed."""
        return quantize(source, target, block=self.block, symmetric=self.symmetric)


def quantize(
    source: Path, target: Path, *, block: int = 32, symmetric: bool = True
) -> QuantizeRecord:
    r"""Store the weights of products, convolutions, recurrent layers and tables in 4 bits.

    $$w \approx s\,(q - z),\quad q \in \{0, \dots, 15\}$$

    Each block along the input axis has a float16 scale $s$; a symmetric one has $z = 8$, an affine
    one its own $z$. No value is clipped, so that the error is at most $s / 2$. Weights are expanded
    to float32 when the file is loaded, and latency is unchanged.

    Args:
        source: A float ONNX file written by `to_onnx`.
        target: Path of the new file, written atomically.
        block: Maximum number of values per scale: 32, 64 or 128. Where the input axis is not a
            multiple, blocks are shorter, all of one length.
        symmetric: Whether the grid is symmetric about zero; otherwise each block has a 4-bit zero
            point, which helps where a block's values lie mostly on one side.

    Raises:
        InputError: The block size is not allowed, or a weight is not finite.
        QuantizeError: No weight becomes smaller.

    Source: Dettmers and Zettlemoyer, ICML 2023 (arXiv:2212.09720), for blocks of 4 bits.
    """
    if block not in BLOCKS:
        raise InputError(Problem("quantize.block", block, ", ".join(map(str, BLOCKS))))
    return quantize_weights(
        source,
        target,
        partial(_store, block=block, symmetric=symmetric),
        method="int4_weights",
        settings={"block": block, "symmetric": symmetric},
        reasons=REASONS,
        note="Weights take 4 bits in the file and are converted to float32 when it is loaded: the "
        "latency is unchanged.",
    )


@dataclass(frozen=True)
class Blocks:
    """A weight as quantised blocks.

    Attributes:
        codes: `[outer, blocks, size, inner]`, 0 to 15, in blocks along the input axis.
        steps: `[outer, blocks, 1, inner]`, float16, or float32 if the range of float16 is too
            small.
        zeros: The code of zero, in the shape of `steps`.
    """

    codes: Bytes
    steps: NDArray[np.floating[Any]]
    zeros: Bytes

    @property
    def values(self) -> Values:
        """Return the dequantised values."""
        codes = self.codes.astype(np.int8) - self.zeros.astype(np.int8)
        return codes.astype(np.float32) * self.steps.astype(np.float32)


def to_blocks(values: Values, *, size: int, symmetric: bool) -> Blocks:
    """Quantise a weight `[outer, inputs, inner]` in blocks along the middle axis.

    The last block is padded with zeros.
    """
    outer, inputs, inner = values.shape
    count = -(-inputs // size)
    whole = np.zeros((outer, count * size, inner))
    whole[:, :inputs] = values
    blocks = whole.reshape(outer, count, size, inner)
    high = np.maximum(blocks.max(2, keepdims=True), 0)
    low = np.minimum(blocks.min(2, keepdims=True), 0)
    span = np.maximum(high, -low) / 7 if symmetric else (high - low) / 15
    # Scales are rounded up to float16, or float32 if one is too large: no value exceeds the codes.
    nearest = span.astype(np.float16 if span.max() < FLOAT16_LARGEST else np.float32)
    above = np.nextafter(nearest, np.inf, dtype=nearest.dtype)
    steps: NDArray[np.floating[Any]] = np.where(nearest < span, above, nearest)
    divisor = np.where(steps > 0, steps, 1).astype(np.float64)
    zeros = np.full(steps.shape, 8.0) if symmetric else np.rint(-low / divisor)
    codes = np.clip(np.rint(blocks / divisor) + zeros, 0, 15)
    return Blocks(codes.astype(np.uint8), steps, zeros.astype(np.uint8))


def block_size(inputs: int, block: int) -> int:
    """Choose the number of values per scale, at most `block`.

    A divisor of the number of inputs above half of `block` if there is one, so that no padding is
    needed; otherwise the most even division.
    """
    largest = min(block, inputs)
    even = next(size for size in range(largest, 0, -1) if inputs % size == 0)
    count = -(-inputs // block)
    return even if 2 * even > largest else -(-inputs // count)


def _store(weight: Weight, parts: Parts, *, block: int, symmetric: bool) -> str | None:
    shape = _as_blocks(weight)
    if shape is None or weight.values.size == 0:
        return None
    if not np.isfinite(weight.values).all():
        raise InputError(Problem(f"weights.{weight.name}", "NaN or infinity", "finite values"))
    size = block_size(shape[1], block)
    stored = to_blocks(weight.values.reshape(shape), size=size, symmetric=symmetric)
    kind = FLOAT16 if stored.steps.dtype == np.float16 else FLOAT
    inputs = [
        parts.codes(pack(stored.codes.reshape(-1), 4), weight.name),
        parts.piece(tensor(stored.steps, kind)),
    ]
    padded = stored.codes.shape[1] * size != shape[1]
    original = list(weight.values.shape)
    flat = [shape[0], stored.codes.shape[1] * size, shape[2]] if padded else original
    blocks = list(stored.codes.shape)
    if symmetric:
        whole = parts.call("scale", inputs, blocks=blocks, shape=flat)
    else:
        inputs.append(parts.codes(pack(stored.zeros.reshape(-1), 4)))
        zeros = list(stored.zeros.shape)
        whole = parts.call("affine", inputs, blocks=blocks, shape=flat, zeros=zeros)
    return parts.call("cut", [whole], count=[shape[1]], shape=original) if padded else whole


def _as_blocks(weight: Weight) -> tuple[int, int, int] | None:
    """Return a weight's shape as `[outer, inputs, inner]`; None if its reader is unsupported."""
    node, shape = weight.reader, weight.values.shape
    place = list(node.input).index(weight.name)
    if node.op_type in ("LSTM", "GRU") and place in (1, 2):
        return math.prod(shape[:-1]), shape[-1], 1
    if node.op_type == "Gather" and place == 0 and len(shape) == 2:
        return shape[0], shape[1], 1
    if place != 1:
        return None
    if node.op_type == "Conv" or (node.op_type == "Gemm" and is_transposed(node)):
        return shape[0], math.prod(shape[1:]), 1
    if node.op_type in ("ConvTranspose", "Gemm"):
        return 1, shape[0], math.prod(shape[1:])
    if node.op_type == "MatMul" and len(shape) >= 2:
        return math.prod(shape[:-2]), shape[-2], shape[-1]
    return None
