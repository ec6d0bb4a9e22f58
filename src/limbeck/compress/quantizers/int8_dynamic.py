"""Dynamic int8 quantisation, for transformers: activation ranges at run time, no calibration."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from limbeck.compress.method import FileMethod, Tolerance
from limbeck.compress.onnx_weights import (
    QuantizeError,
    QuantizeRecord,
    classify,
    not_matrices,
    refuse_branches,
    separate_weights,
    write,
)
from limbeck.export import slim
from limbeck.export.quiet import quiet

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

PRODUCTS = ("MatMul", "Gemm", "Attention", "LSTM")
"""Operators whose weights are multiplied; embeddings (`Gather`) are quantised separately."""

REASONS = {
    "": "not an operator of this method: it has few weights, or would lose accuracy",
    "Conv": "convolutions gain nothing from dynamic ranges; int8_static quantises them",
    "GRU": "ONNX Runtime has no int8 form of it",
    "MatMul": "both its inputs are activations, or its weight is not a matrix",
    "Gather": "it reads no float table",
}


class Int8Dynamic(FileMethod):
    """Dynamic int8 quantisation of weights and activations, for transformers and LSTMs."""

    layers: ClassVar[tuple[type[nn.Module], ...]] = (nn.Linear,)

    tolerance: Tolerance = 0.25

    def write(
        self, source: Path, target: Path, *, calibration: Iterable[Mapping[str, Any]]
    ) -> QuantizeRecord:
        """Write the file in int8; no calibration is needed."""
        return quantize(source, target)


def quantize(
    source: Path, target: Path, *, per_channel: bool = True, reduce_range: bool = True
) -> QuantizeRecord:
    """Quantise weights of matrix products, embeddings and LSTMs; activations at run time.

    Args:
        source: A float ONNX file written by `to_onnx`.
        target: Path of the quantised file, written atomically.
        per_channel: One scale per output channel instead of one per weight.
        reduce_range: Limit weights to 7 bits. Processors without VNNI add pairs of products in 16
            bits, which can overflow with 8; with 7, outputs are the same on every machine.

    Raises:
        QuantizeError: The graph has nothing to quantise, or branches.
    """
    import onnx

    prepared = onnx.load(source)
    refuse_branches(prepared, "int8_dynamic")
    slim.strip(prepared)
    separate_weights(prepared)
    after = _run(prepared, source, per_channel, reduce_range)
    weights = {weight.name for weight in after.graph.initializer}

    def is_quantized(node: NodeProto) -> bool:  # ONNX Runtime marks int8 weights in their names
        marks = ("_quantized", "_Transposed_quantized")
        return any(f"{name}{mark}" in weights for name in node.input for mark in marks)

    quantized, skipped = classify(prepared, is_quantized, REASONS)
    note = write(prepared, after, target)
    return QuantizeRecord(
        method="int8_dynamic",
        bytes_before=source.stat().st_size,
        bytes_after=target.stat().st_size,
        quantized=quantized,
        skipped=skipped,
        calibration_samples=0,
        settings={"per_channel": per_channel, "reduce_range": reduce_range},
        note=note,
    )


def _run(prepared: ModelProto, source: Path, per_channel: bool, reduce_range: bool) -> ModelProto:
    import onnx
    from onnxruntime.quantization import quantize_dynamic

    excluded = not_matrices(prepared)
    with tempfile.TemporaryDirectory() as folder:
        start, half, end = (Path(folder) / f"{step}.onnx" for step in range(3))
        onnx.save(prepared, start)
        try:
            with quiet():
                quantize_dynamic(
                    start,
                    half,
                    op_types_to_quantize=list(PRODUCTS),
                    nodes_to_exclude=excluded,
                    per_channel=per_channel,
                    reduce_range=reduce_range,
                )
                # Both runs derive names from the existing ones, and may produce the same.
                between = onnx.load(half)
                slim.shorten(between)
                onnx.save(between, half)
                # A table is only read, so 8 bits are safe here.
                quantize_dynamic(half, end, op_types_to_quantize=["Gather"])
        except Exception as error:  # onnx and ONNX Runtime raise many types
            raise QuantizeError(f"ONNX Runtime cannot quantise {source}: {error}") from error
        return onnx.load(end)
