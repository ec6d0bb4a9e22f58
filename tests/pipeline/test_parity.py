"""An export that differs from its model on real rows fails, in every stage that exports."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from limbeck.data.load import load
from limbeck.data.spec import DataSpec
from limbeck.errors import InputError
from limbeck.export.onnx import to_onnx
from limbeck.export.predictor import OnnxPredictor, TorchPredictor
from limbeck.pipeline.parity import check_export
from limbeck.tasks.tabular_classification import TabularClassification
from limbeck.tasks.tabular_regression import TabularRegression

WIDE = TabularClassification(tuple("abc"))


class Rows:
    """Real rows of a table, with the interface of a split."""

    def __init__(self) -> None:
        from sklearn.datasets import load_wine

        values, labels = load_wine(return_X_y=True)
        scaled = (values - values.mean(0)) / values.std(0)
        self.features = torch.from_numpy(scaled.astype(np.float32))
        self.labels = torch.from_numpy(labels)

    def spread(self, count: int) -> list[int]:
        return torch.linspace(0, len(self.labels) - 1, min(count, 178)).long().tolist()

    def __getitems__(self, rows: list[int]) -> dict[str, Tensor]:
        return {"features": self.features[rows], "labels": self.labels[rows]}

    def batches(self, size: int):
        yield from (self.__getitems__(range(at, min(at + size, 178))) for at in range(0, 178, size))


@pytest.fixture(scope="module")
def rows() -> Rows:
    return Rows()


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(13, 32), nn.GELU(), nn.Linear(32, 3)).eval()


def check(model: nn.Module, exported: nn.Module, rows: Rows, folder: Path, **settings: object):
    path = folder / "model.onnx"
    to_onnx(exported, WIDE, rows.__getitems__([0, 1]), path)
    predictors = TorchPredictor(model, WIDE), OnnxPredictor(path)
    where = "stages/02-prune"
    return check_export(*predictors, WIDE, split=rows, where=where, model=model, **settings)


def test_an_export_of_the_model_itself_passes(net, rows, tmp_path):
    found = check(net, net, rows, tmp_path)
    assert found.within
    assert found.samples == 178
    assert found.max_abs_difference < found.tolerance < 0.01


def test_a_weight_that_differs_by_a_percent_fails_and_names_stage_output_and_figures(
    net, rows, tmp_path
):
    other = copy.deepcopy(net)
    other[0].weight.data[5] *= 1.05
    with pytest.raises(InputError) as caught:
        check(net, other, rows, tmp_path)
    message = str(caught.value)
    parts = ["stages/02-prune: ", '"logits" differs by ', "tolerance 0.00", "178 validation rows"]
    assert all(part in message for part in parts), message


def test_an_approximated_activation_fails(net, rows, tmp_path):
    other = copy.deepcopy(net)
    other[1] = nn.SiLU()
    with pytest.raises(InputError, match="differs by"):
        check(net, other, rows, tmp_path)


def test_rounding_may_move_a_few_rows_and_not_most(net, rows, tmp_path):
    other = copy.deepcopy(net)
    other[2].weight.data *= 1.005
    assert check(net, other, rows, tmp_path, rounded=True).agreement > 0.95
    other[2].weight.data[:2] = other[2].weight.data[[1, 0]]
    with pytest.raises(InputError, match="another class"):
        check(net, other, rows, tmp_path, rounded=True)


def test_spread_takes_the_longest_and_the_shortest_text(tmp_path):
    lines = ["text,label"]
    for row in range(300):
        words = {100: 40, 201: 1}.get(row, 3 + row % 7)
        lines.append(f"{' '.join(['w' + str(row % 9)] * words)},{row % 2}")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    spec = DataSpec.model_validate(
        {
            "source": "csv",
            "files": {"train": str(tmp_path / "t.csv")},
            "text": {"tokenizer": {"train": {"vocab_size": 40}}},
            "max_overlap": 1,
        }
    )
    split = load(spec, workdir=tmp_path).train
    rows = split.spread(8)
    assert len(rows) == len(set(rows)) <= 8
    lengths = split.__getitems__(range(len(split)))["attention_mask"].sum(1)
    chosen = lengths[rows]
    assert chosen.max() == lengths.max()
    assert chosen.min() == lengths.min()
    assert split.spread(10**6) == list(range(len(split)))


@pytest.mark.parametrize("kind", ["centred", "stateless"])
def test_a_run_stops_where_a_students_prediction_depends_on_its_batch(tmp_path, kind, monkeypatch):
    from limbeck.pipeline.load_recipe import resolve
    from limbeck.pipeline.runner import run

    nets = {
        "centred": "nn.Flatten(), Centred(), nn.Linear(64, classes)",
        "stateless": "nn.Flatten(), nn.BatchNorm1d(64, track_running_stats=False), "
        "nn.Linear(64, classes)",
    }
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "class Centred(nn.Module):\n"
        "    def forward(self, x):\n"
        "        return x - x.mean(0, keepdim=True)\n"
        f"def build(classes):\n    return nn.Sequential({nets[kind]})\n"
    )
    (tmp_path / "r.yaml").write_text(
        "name: batch\ntask: image_classification\n"
        "data: {source: sklearn, name: digits, max_samples: {train: 90, validation: 60, test: "
        "40}}\nstudent: {source: python, name: 'net.py:build'}\n"
        "stages:\n  - distill: {epochs: 1, objective: [{cross_entropy: {weight: 1}}]}\n"
        "  - export: {format: onnx}\nthreads: 1\n"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"one at a time"):
        run(resolve("r.yaml", []), out=tmp_path / "out")


@pytest.mark.slow  # imports transformers, and tries a factorisation
def test_a_hugging_face_folder_of_a_changed_structure_is_refused_in_the_dry_run(tmp_path):
    from limbeck.pipeline.load_recipe import resolve
    from limbeck.pipeline.runner import run

    lines = [f"{'good fine' if row % 2 else 'bad poor'} film {row},{row % 2}" for row in range(90)]
    (tmp_path / "t.csv").write_text("\n".join(["text,label", *lines]))
    (tmp_path / "r.yaml").write_text(
        "name: changed\ntask: text_classification\n"
        f"data: {{source: csv, files: {{train: '{tmp_path}/t.csv'}}, classes: [bad, good],"
        " text: {tokenizer: {train: {vocab_size: 60}}, max_length: 8}}\n"
        "student: {source: transformers, name: bert, hidden_size: 32, num_hidden_layers: 2,"
        " num_attention_heads: 2, intermediate_size: 64}\n"
        "stages:\n  - distill: {epochs: 1, objective: [{cross_entropy: {weight: 1}}]}\n"
        "  - factorize: {method: svd, energy: 0.5}\n"
        "  - export: {format: [onnx, huggingface]}\nthreads: 1\n"
    )
    with pytest.raises(InputError, match=r"stages\.export\.format: .*structure was changed"):
        run(resolve(str(tmp_path / "r.yaml"), []), out=tmp_path / "out")


def test_each_target_of_a_regression_has_a_tolerance_of_its_own(rows, tmp_path):
    scale = torch.tensor([1.0, 1e5])
    task = TabularRegression(("small", "large"), torch.zeros(2), scale)
    torch.manual_seed(0)
    net = nn.Linear(13, 2).eval()
    other = copy.deepcopy(net)
    other.weight.data[0] *= 1.05  # of the target that is small
    to_onnx(net, task, rows.__getitems__([0, 1]), tmp_path / "same.onnx")
    to_onnx(other, task, rows.__getitems__([0, 1]), tmp_path / "other.onnx")
    same, changed = (OnnxPredictor(tmp_path / f"{name}.onnx") for name in ("same", "other"))
    model = TorchPredictor(net, task)
    found = check_export(model, same, task, split=rows, where="stages.distill")
    assert found.within
    with pytest.raises(InputError, match=r'"values" \(target 0\) differs by 0\.'):
        check_export(model, changed, task, split=rows, where="stages.distill")
