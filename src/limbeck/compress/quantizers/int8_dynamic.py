"""Dynamic int8 for transformers: weights beforehand, activations while running; no samples."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from limbeck.compress.files import record as records
from limbeck.compress.files.shared import not_matrices, separate_weights
from limbeck.compress.method import FileMethod, Tolerance
from limbeck.export import slim
from limbeck.export.quiet import quiet

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

PRODUCTS = ("MatMul", "Gemm", "Attention", "LSTM")
"""The operators whose weights are multiplied; embeddings (`Gather`) are quantised beside them."""

REASONS = {
    "": "not an operator of this method: it has few weights, or would lose accuracy",
    "Conv": "convolutions gain nothing from ranges taken while running; int8_static quantises them",
    "GRU": "ONNX Runtime has no int8 form of it",
    "MatMul": "both its inputs are activations, or its weight is no matrix",
    "Gather": "what it reads is no float table",
}


class Int8Dynamic(FileMethod):
    """Weights to eight bits, and activations while they run: for transformers and LSTMs."""

    tolerance: Tolerance = 0.25

    def write(
        self, source: Path, target: Path, *, calibration: Iterable[Mapping[str, Any]]
    ) -> records.QuantizeRecord:
        """Write the file in int8; no sample is needed."""
        return quantize(source, target)


def quantize(
    source: Path,
    target: Path,
    *,
    calibration: Iterable[Mapping[str, NDArray[Any]]] = (),
    per_channel: bool = True,
    reduce_range: bool = True,
) -> records.QuantizeRecord:
    """Quantise weights of matrix products, embeddings and LSTMs; activations follow at run time.

    Args:
        source: A float ONNX file, as `to_onnx` writes it.
        target: Where the quantised file goes, whole or not at all.
        calibration: Not used; it is taken so that every method is called alike.
        per_channel: One scale for each output channel of a weight instead of one for the whole.
        reduce_range: Keep weights to 7 bits. Processors without VNNI add pairs of products in 16
            bits, which can overflow with 8; with 7 the file answers the same on every machine.

    Raises:
        QuantizeError: The graph has nothing to quantise.
        WriteError: The target cannot be written to.
    """
    import onnx

    del calibration
    prepared = onnx.load(source)
    slim.strip(prepared)
    separate_weights(prepared)
    after = _run(prepared, source, per_channel, reduce_range)
    weights = {weight.name for weight in after.graph.initializer}
    quantized, skipped = records.sort(prepared, partial(_is_quantized, weights), REASONS)
    note = records.write(prepared, after, target)
    return records.QuantizeRecord(
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
                # Both runs make names from those that are there, and may make the same.
                between = onnx.load(half)
                slim.shorten(between)
                onnx.save(between, half)
                # A table is only read, so that its eighth bit can do no harm.
                quantize_dynamic(half, end, op_types_to_quantize=["Gather"])
        except Exception as error:  # onnx and ONNX Runtime raise whatever comes
            raise records.QuantizeError(
                f"ONNX Runtime cannot quantise {source}: {error}"
            ) from error
        return onnx.load(end)


def _is_quantized(weights: set[str], node: NodeProto) -> bool:
    """Tell whether a node's weights are int8 now; ONNX Runtime marks that in their names."""
    marks = ("_quantized", "_Transposed_quantized")
    return any(f"{name}{mark}" in weights for name in node.input for mark in marks)
