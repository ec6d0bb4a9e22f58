"""Static int8: file size, logits, notes on skipped operators, and refusals."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from torch import nn

from limbeck.compress.onnx_weights import QuantizeError, QuantizeRecord
from limbeck.compress.quantizers import QUANTIZERS
from limbeck.compress.quantizers.int8_static import Int8Static, quantize
from limbeck.core.files import WriteError
from limbeck.errors import InputError
from limbeck.evaluate import hardware
from limbeck.evaluate.metrics import fidelity, right
from limbeck.export.onnx import to_onnx
from limbeck.export.predictor import OnnxPredictor, predict
from limbeck.tasks.image_classification import ImageClassification


def test_methods_are_found_by_name():
    assert {"int8_dynamic", "int8_static"} <= set(QUANTIZERS.names())
    assert QUANTIZERS.load("int8_static") is Int8Static
    with pytest.raises(InputError, match='did you mean "int8_static"'):
        QUANTIZERS.load("int8_statik")


def adds_exactly() -> bool:
    """Return whether the processor sums 8-bit products in 32 bits, so that they cannot overflow."""
    exact = ("vnni", "amx_int8", "asimddp", "i8mm")
    return any(name in flag for flag in hardware.describe().flags for name in exact)


@pytest.mark.slow
@pytest.mark.parametrize("reduce_range", [True, False])
@pytest.mark.parametrize("ranges", ["minmax", "entropy", "percentile"])
def test_accuracy_on_real_digits_holds(digits, tmp_path, ranges, reduce_range):
    # Without such instructions weights of eight bits overflow: that is why seven are the default.
    slack = 1 if reduce_range or adds_exactly() else 3
    quantize(
        digits.path,
        tmp_path / "q.onnx",
        calibration=digits.calibration,
        ranges=ranges,
        reduce_range=reduce_range,
    )
    before = predict(OnnxPredictor(digits.path), digits.test)
    after = predict(OnnxPredictor(tmp_path / "q.onnx"), digits.test)
    assert right(before).mean() > 0.95
    assert right(before).mean() - right(after).mean() < 0.005 * slack
    assert fidelity(after, before).agreement > 1 - 0.015 * slack
    assert fidelity(after, before).kl < 0.01 * slack


def test_the_file_shrinks(digits, tmp_path):
    record = quantize(digits.path, tmp_path / "q.onnx", calibration=digits.calibration)
    assert record.bytes_before == digits.path.stat().st_size
    assert record.bytes_after == (tmp_path / "q.onnx").stat().st_size
    if digits.parameters == 6274:
        assert record.bytes_before < 30_000
        assert record.bytes_after < 12_000
    else:
        assert digits.parameters > 280_000
        assert record.ratio > 3.8
    assert record.note == ""


def test_the_record_lists_quantised_and_skipped_operators(digits, tmp_path):
    record = quantize(digits.path, tmp_path / "q.onnx", calibration=digits.calibration)
    assert record.calibration_samples == 400
    assert record.quantized == {"Conv": 3, "Gemm": 1, "MaxPool": 2, "Relu": 3}
    left = {kind: count for skip in record.skipped for kind, count in skip.operators.items()}
    assert left == {"ReduceMean": 1, "Reshape": 1}
    assert all(skip.reason for skip in record.skipped)
    assert QuantizeRecord.model_validate_json(record.model_dump_json()) == record


def test_weights_are_int8_and_outputs_float(digits, tmp_path):
    quantize(digits.path, tmp_path / "q.onnx", calibration=digits.calibration)
    model = onnx.load(tmp_path / "q.onnx")
    onnx.checker.check_model(model, full_check=True)
    large = [tensor for tensor in model.graph.initializer if np.prod(tensor.dims) > 60]
    assert {t.data_type for t in large if len(t.dims) > 1} == {TensorProto.INT8}
    (maker,) = (node for node in model.graph.node if "logits" in node.output)
    assert maker.op_type == "Gemm"
    batch = digits.test[0]
    logits = OnnxPredictor(tmp_path / "q.onnx").predict(batch)["logits"]
    assert len(np.unique(logits)) > 256  # more than eight bits can represent
    assert OnnxPredictor(tmp_path / "q.onnx").predict({"image": batch["image"][:1]})[
        "logits"
    ].shape == (1, 10)


def test_seven_bits_stay_within_their_range(digits, tmp_path):
    quantize(digits.path, tmp_path / "q.onnx", calibration=digits.calibration, reduce_range=True)
    for tensor in onnx.load(tmp_path / "q.onnx").graph.initializer:
        if tensor.data_type == TensorProto.INT8 and len(tensor.dims) > 1:
            values = onnx.numpy_helper.to_array(tensor).astype(int)
            # 255 * 64 * 2 fits 16 bits with a sign, which is what processors without VNNI add in.
            assert 50 < np.abs(values).max() <= 64


def test_the_same_samples_give_the_same_bytes(digits, tmp_path):
    for name in ("a", "b"):
        quantize(digits.path, tmp_path / name, calibration=iter(digits.calibration))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_an_unknown_range_and_no_samples_are_refused(digits, tmp_path):
    with pytest.raises(InputError, match='did you mean "minmax"'):
        quantize(digits.path, tmp_path / "q.onnx", calibration=digits.calibration, ranges="minimax")
    with pytest.raises(InputError, match="at least one batch"):
        quantize(digits.path, tmp_path / "q.onnx", calibration=[])
    with pytest.raises(InputError, match="a batch with image"):
        quantize(digits.path, tmp_path / "q.onnx", calibration=[{"photo": np.zeros(3)}])
    assert not list(tmp_path.iterdir())


def test_an_unwritable_target(digits, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WriteError):
        quantize(digits.path, tmp_path / "file" / "q.onnx", calibration=digits.calibration)


def export(model: nn.Module, path, channels: int = 3):
    task = ImageClassification(tuple("abcd"))
    to_onnx(model.eval(), task, {"image": torch.randn(2, channels, 8, 8)}, path)
    return [{"image": torch.randn(20, channels, 8, 8)} for _ in range(2)]


def test_nothing_to_quantise_is_an_error_that_names_what_is_there(tmp_path):
    samples = export(
        nn.Sequential(nn.AvgPool2d(4), nn.Softmax(1), nn.Flatten()), tmp_path / "m.onnx"
    )
    with pytest.raises(QuantizeError, match=r"the graph has .*1 Softmax"):
        quantize(tmp_path / "m.onnx", tmp_path / "q.onnx", calibration=samples)
    assert not (tmp_path / "q.onnx").exists()


def test_a_file_that_hardly_shrinks_has_a_note(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4))
    samples = export(model, tmp_path / "m.onnx")
    record = quantize(tmp_path / "m.onnx", tmp_path / "q.onnx", calibration=samples)
    assert record.ratio < 2
    assert "the graph dominates" in record.note
    assert str(record.bytes_after) in record.note


class Shortcut(nn.Module):
    """A residual net of depthwise and strided convolutions, as in mobile networks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.pointwise = nn.Conv2d(16, 16, 1)
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.pointwise(nn.functional.relu6(self.depthwise(x))))
        return self.head(x.mean((2, 3)))


def test_shortcuts_and_depthwise_convolutions(tmp_path):
    torch.manual_seed(0)
    samples = export(Shortcut(), tmp_path / "m.onnx")
    record = quantize(tmp_path / "m.onnx", tmp_path / "q.onnx", calibration=samples)
    assert record.quantized["Conv"] == 3
    assert record.quantized["Add"] == 1
    expected = OnnxPredictor(tmp_path / "m.onnx").predict(samples[0])["logits"]
    found = OnnxPredictor(tmp_path / "q.onnx").predict(samples[0])["logits"]
    assert np.abs(found - expected).max() < 0.1 * np.abs(expected).max()
