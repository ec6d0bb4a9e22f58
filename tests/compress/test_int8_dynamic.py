"""Dynamic int8 on transformers: products and embeddings shrink, logits stay close."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from limbeck.compress.onnx_weights import QuantizeError
from limbeck.compress.quantizers.int8_dynamic import quantize
from limbeck.export.onnx import to_onnx
from limbeck.export.predictor import OnnxPredictor
from limbeck.tasks.image_classification import ImageClassification
from limbeck.tasks.text_classification import TextClassification


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=2000,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=256,
        max_position_embeddings=32,
        num_labels=3,
    )
    model = transformers.BertForSequenceClassification(config)
    for parameter in model.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    path = tmp_path_factory.mktemp("bert") / "bert.onnx"
    to_onnx(model, TextClassification(tuple("abc")), draw(2), path)
    return path


def draw(count: int, tokens: int = 12) -> dict[str, torch.Tensor]:
    lengths = torch.randint(3, tokens + 1, (count, 1))
    return {
        "input_ids": torch.randint(2000, (count, tokens)),
        "attention_mask": (torch.arange(tokens) < lengths).long(),
    }


@pytest.mark.parametrize("per_channel", [True, False])
def test_a_transformer_shrinks_and_keeps_its_logits(bert, tmp_path, per_channel):
    record = quantize(bert, tmp_path / "q.onnx", per_channel=per_channel)
    assert record.ratio > 3.5
    assert record.bytes_after == (tmp_path / "q.onnx").stat().st_size
    onnx.checker.check_model(onnx.load(tmp_path / "q.onnx"))
    for count, tokens in ((1, 1 + 4), (40, 12), (3, 32)):
        batch = draw(count, tokens)
        expected = OnnxPredictor(bert).predict(batch)["logits"]
        found = OnnxPredictor(tmp_path / "q.onnx").predict(batch)["logits"]
        assert np.abs(found - expected).max() < 0.1 * np.abs(expected).max()


def test_the_record_counts_products_and_tables(bert, tmp_path):
    record = quantize(bert, tmp_path / "q.onnx")
    # A layer: query, key, value, output, two feed-forward. Then pooler, head; three tables.
    assert record.quantized == {"Gather": 3, "Gemm": 2, "MatMul": 12}
    left = {kind: skip for skip in record.skipped for kind in skip.operators}
    assert left["MatMul"].operators["MatMul"] == 4  # two layers of query-key and attention-value
    assert "activations" in left["MatMul"].reason
    assert "LayerNormalization" in left
    assert record.calibration_samples == 0


def test_shapes_that_a_source_brings_along_do_no_harm(bert, tmp_path):
    from onnx import shape_inference

    onnx.save(shape_inference.infer_shapes(onnx.load(bert)), tmp_path / "m.onnx")
    record = quantize(tmp_path / "m.onnx", tmp_path / "q.onnx")
    assert record.quantized["MatMul"] == 12


def test_convolutions_alone_are_an_error_that_names_them(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    task = ImageClassification(tuple("abcd"))
    to_onnx(model, task, {"image": torch.randn(2, 3, 8, 8)}, tmp_path / "m.onnx")
    with pytest.raises(QuantizeError, match="1 Conv"):
        quantize(tmp_path / "m.onnx", tmp_path / "q.onnx")
    assert not (tmp_path / "q.onnx").exists()
