"""A quantised file that differs too much from the float file fails its stage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from sklearn.datasets import load_wine
from torch import nn

from limbeck.compress.quantizers import QUANTIZERS
from limbeck.errors import InputError
from limbeck.export.onnx import to_onnx
from limbeck.export.predictor import OnnxPredictor
from limbeck.pipeline.parity import check_compressed, relative_error
from limbeck.tasks.tabular_classification import TabularClassification

TASK = TabularClassification(tuple("abc"))


@pytest.fixture(scope="module")
def wine(tmp_path_factory) -> tuple[Path, dict[str, torch.Tensor]]:
    values, labels = load_wine(return_X_y=True)
    scaled = torch.tensor((values - values.mean(0)) / values.std(0), dtype=torch.float32)
    batch = {"features": scaled, "labels": torch.from_numpy(labels)}
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(13, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())
    net.append(nn.Linear(32, 3))
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(scaled), batch["labels"]).backward()
        optimizer.step()
    path = tmp_path_factory.mktemp("wine") / "plain.onnx"
    to_onnx(net.eval(), TASK, batch, path)
    return path, batch


def logits(path: Path, batch: dict[str, torch.Tensor]) -> np.ndarray:
    return OnnxPredictor(path).predict(batch)["logits"]


@pytest.mark.parametrize("name", ["int8_static", "int8_dynamic", "float16", "int4_weights"])
def test_a_correct_file_passes_and_its_figures_are_recorded(wine, name, tmp_path):
    path, batch = wine
    method = QUANTIZERS.load(name)()
    method.write(path, tmp_path / "q.onnx", calibration=[{k: v.numpy() for k, v in batch.items()}])
    one, two = (logits(file, batch) for file in (path, tmp_path / "q.onnx"))
    text = check_compressed(one, two, where="2-q", method=name, tolerance=method.tolerance)
    assert "differs from the float file by" in text
    assert "178 samples" in text


def test_a_transposed_weight_exceeds_every_default_tolerance(wine, tmp_path):
    path, batch = wine
    model = onnx.load(path)
    [square] = [one for one in model.graph.initializer if list(one.dims) == [32, 32]]
    transposed = numpy_helper.from_array(numpy_helper.to_array(square).T.copy(), square.name)
    square.CopyFrom(transposed)
    onnx.save(model, tmp_path / "q.onnx")
    one, two = (logits(file, batch) for file in (path, tmp_path / "q.onnx"))
    for name in ("int8_static", "int4_weights"):
        tolerance = QUANTIZERS.load(name)().tolerance
        with pytest.raises(InputError) as caught:
            check_compressed(one, two, where="stages/2-q", method=name, tolerance=tolerance)
        message = str(caught.value)
        for part in ("stages/2-q: ", name, "% in logits", f"tolerance: {tolerance:g}", "int8_dyn"):
            assert part in message
    assert "differs" in check_compressed(one, two, where="q", method="x", tolerance=10)


def test_the_error_is_relative_and_infinite_where_a_logit_is_not_a_number():
    one = np.array([[1.0, -1.0, -np.inf], [3.0, -3.0, 0.0]], np.float32)
    assert relative_error(one, one) == 0
    assert relative_error(one, one + 7) < 1e-6
    assert relative_error(one, one * np.float32(1.1)) == pytest.approx(0.1)
    for wrong in (np.nan, np.inf):
        other = one.copy()
        other[1, 0] = wrong
        assert relative_error(one, other) == np.inf


NETS = """
from torch import nn
def convolutions(classes):
    return nn.Sequential(nn.Conv2d(1, classes, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
def linear(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, classes))
"""
RECIPE = """
name: few
task: image_classification
data: {{source: sklearn, name: digits, max_samples: {{train: 90, validation: 60, test: 40}}}}
student: {{source: python, name: 'net.py:{net}'}}
stages:
  - distill: {{epochs: 1, objective: [{{cross_entropy: {{weight: 1}}}}]}}
  - quantize: {{{quantize}}}
  - export: {{format: onnx}}
threads: 1
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("net", "quantize", "message"),
    [
        ("convolutions", "method: int8_dynamic", r"stages\.quantize.*nothing could be quant"),
        (
            "linear",
            "method: int8_dynamic, tolerance: 0.00001",
            r"quantize: got .*int8_dynamic that",
        ),
    ],
)
def test_a_run_fails_before_training_or_in_the_stage(net, quantize, message, tmp_path, monkeypatch):
    from limbeck.pipeline.load_recipe import resolve
    from limbeck.pipeline.runner import run

    (tmp_path / "net.py").write_text(NETS)
    (tmp_path / "r.yaml").write_text(RECIPE.format(net=net, quantize=quantize))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        run(resolve("r.yaml", []), out=tmp_path / "out")
    trained = any((tmp_path / "out").rglob("model.safetensors"))
    assert trained == (net == "linear")
