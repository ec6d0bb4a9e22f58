"""Static int8 quantisation: weights and activations, with calibrated ranges."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from numpy.typing import NDArray
from pydantic import Field
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
from limbeck.errors import InputError, Problem, did_you_mean
from limbeck.export import slim
from limbeck.export.predictor import OnnxPredictor
from limbeck.export.quiet import quiet

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

RANGES = {"minmax": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}
"""Calibration methods: the full range, minimum information loss, or a percentile."""

# Elementwise and normalising operators (Softmax, LayerNormalization, Sigmoid) are excluded: they
# have no weights, ONNX Runtime has no faster int8 form for most, and int8 costs them the most
# accuracy.
OPERATORS = (
    *("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Mul", "Concat"),
    *("Relu", "Clip", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool"),
    *("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Pad", "Slice", "Split", "Resize"),
)
REASONS = {
    "": "not an operator of this method: it has few weights, or would lose accuracy",
    "Gather": "its table stays float here; int8_dynamic quantises embeddings",
    "LSTM": "ONNX Runtime has no static int8 form of it; int8_dynamic has one",
    "GRU": "ONNX Runtime has no int8 form of it",
    **dict.fromkeys(OPERATORS, "its inputs are not quantised: rounding would only cost accuracy"),
}


class Int8Static(FileMethod):
    """Static int8 quantisation of weights and activations, calibrated on training samples."""

    takes_samples: ClassVar[bool] = True
    layers: ClassVar[tuple[type[nn.Module], ...]] = (nn.Linear, nn.Conv1d, nn.Conv2d)

    ranges: Literal["minmax", "entropy", "percentile"] = Field(
        "minmax", description="Method that determines the activation ranges from samples."
    )

    tolerance: Tolerance = 0.25

    def write(
        self, source: Path, target: Path, *, calibration: Iterable[Mapping[str, Any]]
    ) -> QuantizeRecord:
        """Write the file in int8."""
        return quantize(source, target, calibration=calibration, ranges=self.ranges)


def quantize(
    source: Path,
    target: Path,
    *,
    calibration: Iterable[Mapping[str, NDArray[Any]]],
    ranges: str = "minmax",
    per_channel: bool = True,
    reduce_range: bool = True,
) -> QuantizeRecord:
    """Quantise weights and activations of an ONNX file to int8, in ONNX Runtime's QDQ form.

    Weights are symmetric int8 with one scale per channel; activations are uint8 with one scale per
    tensor, calibrated on samples. The graph's outputs stay float32: rounding logits to 256 levels
    would degrade calibration and break ties at random. Suited to convolutional networks; in
    transformers the products of activations lose much accuracy, so use `int8_dynamic` there.

    Args:
        source: A float ONNX file written by `to_onnx`.
        target: Path of the quantised file, written atomically.
        calibration: Batches with the graph's inputs; a few hundred samples suffice.
        ranges: `minmax`, `entropy` or `percentile`; the last two exclude outliers and need more
            memory.
        per_channel: One scale per output channel instead of one per weight.
        reduce_range: Limit weights to 7 bits. Processors without VNNI add pairs of products in 16
            bits, which can overflow with 8; with 7, outputs are the same on every machine.

    Raises:
        InputError: `ranges` is unknown, or there is no calibration batch.
        QuantizeError: The graph has nothing to quantise, or branches.

    Source: Jacob et al., CVPR 2018 (arXiv:1712.05877).
    """
    import onnx

    if ranges not in RANGES:
        advice = did_you_mean(ranges, RANGES)
        raise InputError(Problem("quantize.ranges", ranges, ", ".join(RANGES), advice))
    before = onnx.load(source)
    refuse_branches(before, "int8_static")
    reader = _Reader(OnnxPredictor(source, threads=1), calibration)
    with tempfile.TemporaryDirectory() as folder:
        prepared, after = _run(
            source, Path(folder), reader, RANGES[ranges], per_channel, reduce_range
        )
    quantized, skipped = classify(prepared, _quantized_nodes(after), REASONS)
    _keep_outputs_float(after)
    note = write(before, after, target)
    return QuantizeRecord(
        method="int8_static",
        bytes_before=source.stat().st_size,
        bytes_after=target.stat().st_size,
        quantized=quantized,
        skipped=skipped,
        calibration_samples=reader.samples,
        settings={"ranges": ranges, "per_channel": per_channel, "reduce_range": reduce_range},
        note=note,
    )


class _Reader:
    """Calibration batches in the interface of ONNX Runtime, with a count."""

    def __init__(
        self, predictor: OnnxPredictor, batches: Iterable[Mapping[str, NDArray[Any]]]
    ) -> None:
        self.samples = 0
        self._predictor = predictor
        self._batches = iter(batches)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        batch = next(self._batches, None)
        if batch is None:
            return None
        feeds = self._predictor.feeds(batch)
        self.samples += len(next(iter(feeds.values())))
        return feeds


def _run(
    source: Path, folder: Path, reader: _Reader, ranges: str, per_channel: bool, reduce_range: bool
) -> tuple[ModelProto, ModelProto]:
    """Pre-process and quantise; return the graph before and after quantisation."""
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared, quantized = folder / "prepared.onnx", folder / "quantized.onnx"
    try:
        with quiet():
            # Symbolic shape inference helps only graphs with computed shapes, and fails on some of
            # them.
            quant_pre_process(source, prepared, skip_symbolic_shape=True)
            graph = onnx.load(prepared)
            separate_weights(graph)
            excluded = [*not_matrices(graph), *_output_scaling(graph)]
            onnx.save(graph, prepared)
            quantization.quantize_static(
                prepared,
                quantized,
                reader,
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=list(OPERATORS),
                nodes_to_exclude=excluded,
                per_channel=per_channel,
                reduce_range=reduce_range,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                calibrate_method=quantization.CalibrationMethod[ranges],
            )
    except InputError:
        raise
    except Exception as error:
        if reader.samples == 0:
            given = Problem("calibration", "no batch", "at least one batch of samples")
            raise InputError(given) from error
        raise QuantizeError(f"ONNX Runtime cannot quantise {source}: {error}") from error
    return onnx.load(prepared), onnx.load(quantized)


def _output_scaling(graph: ModelProto) -> list[str]:
    """Return the nodes that scale outputs by constants, such as to the units of several targets.

    One scale for targets of different sizes would round the small ones to a constant.
    """
    constants = {one.name for one in graph.graph.initializer}
    producers = {name: node for node in graph.graph.node for name in node.output}
    kinds = {node.name: node.op_type for node in graph.graph.node}
    found: list[str] = []
    pending = [output.name for output in graph.graph.output]
    while pending:
        node = producers.get(pending.pop())
        if node is None or node.op_type not in ("Add", "Sub", "Mul", "Div"):
            continue
        inputs = [name for name in node.input if name not in constants]
        if len(inputs) == len(node.input) - 1:
            found.append(node.name)
            pending += inputs
    scaling = [place for place, name in enumerate(found) if kinds[name] in ("Mul", "Div")]
    return found[: scaling[-1] + 1] if scaling else []  # without the bias of a layer before it


def _quantized_nodes(after: ModelProto) -> Callable[[NodeProto], bool]:
    """Return a predicate of the nodes that read int8, or were fused into a rounding (Relu)."""
    dequantize = (node for node in after.graph.node if node.op_type == "DequantizeLinear")
    integer = {name for node in dequantize for name in node.output}
    reads = {node.name: bool(node.input) and node.input[0] in integer for node in after.graph.node}
    return lambda node: node.op_type in OPERATORS and reads.get(node.name, True)


def _keep_outputs_float(model: ModelProto) -> None:
    """Remove the int8 rounding directly before each graph output, in place."""
    graph = model.graph
    maker = {name: node for node in graph.node for name in node.output}
    for output in graph.output:
        dequantize = maker[output.name]
        is_dequantize = dequantize.op_type == "DequantizeLinear"
        rounding = maker.get(dequantize.input[0]) if is_dequantize else None
        if rounding is None or rounding.op_type != "QuantizeLinear":
            continue
        graph.node.remove(dequantize)
        if all(rounding.output[0] not in node.input for node in graph.node):
            graph.node.remove(rounding)
        names = {rounding.input[0]: output.name}
        slim.rename(model, lambda name: names.get(name, name))  # noqa: B023
    used = {name for node in graph.node for name in node.input}
    for weight in [weight for weight in graph.initializer if weight.name not in used]:
        graph.initializer.remove(weight)
