"""Torch models and ONNX files have the same predictor interface."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from limbeck.errors import InputError, LimbeckError
from limbeck.export.predictor import OnnxPredictor, TorchPredictor, predict
from limbeck.tasks.image_classification import ImageClassification


@pytest.mark.slow
def test_arrays_of_other_types_are_converted(exported):
    one = exported["bert"]
    predictor = OnnxPredictor(one.path, threads=1)
    batch = one.draw(4)
    expected = predictor.predict(batch)["logits"]
    plain = {name: value.numpy().astype(np.int32) for name, value in batch.items()}
    np.testing.assert_array_equal(predictor.predict(plain)["logits"], expected)


def test_feeds_contain_only_graph_inputs(exported):
    predictor = OnnxPredictor(exported["cnn"].path)
    feeds = predictor.feeds(exported["cnn"].draw(2) | {"index": torch.arange(2)})
    assert list(feeds) == list(predictor.inputs) == ["image"]
    assert feeds["image"].dtype == np.float32


def test_missing_input_is_rejected(exported):
    with pytest.raises(InputError, match="attention_mask"):
        OnnxPredictor(exported["bert"].path).predict({"input_ids": torch.ones(1, 2)})


def test_missing_or_damaged_onnx_file_is_rejected(tmp_path):
    with pytest.raises(LimbeckError, match="no such ONNX file"):
        OnnxPredictor(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"not an ONNX file at all")
    with pytest.raises(LimbeckError, match="damaged or no ONNX file"):
        OnnxPredictor(tmp_path / "bad.onnx")


def test_torch_predictor_restores_training_modes(cnn):
    cnn.train()
    cnn[4].eval()
    modes = [module.training for module in cnn.modules()]
    predictor = TorchPredictor(cnn, ImageClassification(tuple("abcde")))
    batch = {"image": torch.randn(6, 3, 12, 12)}
    first, second = (predictor.predict(batch)["logits"] for _ in range(2))
    np.testing.assert_array_equal(first, second)  # no dropout
    assert [module.training for module in cnn.modules()] == modes
    cnn.train()


def test_torch_predictor_restores_modes_after_a_failure(cnn):
    cnn.train()
    predictor = TorchPredictor(cnn, ImageClassification(tuple("abcde")))
    with pytest.raises(RuntimeError):
        predictor.predict({"image": torch.randn(6, 2, 12, 12)})
    assert all(module.training for module in cnn.modules())


@pytest.mark.parametrize("sizes", [[10], [3, 3, 3, 1], [1] * 10])
def test_predictions_do_not_depend_on_batching(exported, sizes):
    one = exported["cnn"]
    batch = one.draw(10)
    parts = {name: value.split(sizes) for name, value in batch.items()}
    batches = [{name: parts[name][i] for name in parts} for i in range(len(sizes))]
    found = predict(OnnxPredictor(one.path), batches)
    assert len(found) == 10
    assert found.logits.dtype == np.float32
    assert found.labels.dtype == np.int64
    np.testing.assert_array_equal(found.labels, batch["labels"].numpy())
    np.testing.assert_allclose(
        found.logits, OnnxPredictor(one.path).predict(batch)["logits"], atol=1e-5
    )


def test_no_batch_is_an_error(exported):
    with pytest.raises(InputError, match="at least one batch"):
        predict(OnnxPredictor(exported["cnn"].path), [])


def test_nan_predictions_raise_with_their_count():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    images = torch.zeros(5, 1, 2, 2)
    images[1] = images[3] = torch.nan
    predictor = TorchPredictor(model, ImageClassification(("a", "b")))
    with pytest.raises(LimbeckError, match="2 of 5 predictions are NaN"):
        predict(predictor, [{"image": images, "labels": torch.zeros(5).long()}])
