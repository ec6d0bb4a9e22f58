"""`limbeck check` reports every problem at once, and writes nothing."""

import json

import pytest
import torch
from typer.testing import CliRunner

from limbeck.cli import _app
from limbeck.errors import InputError
from limbeck.export.onnx import to_onnx
from limbeck.pipeline.check import check
from limbeck.pipeline.load_recipe import resolve

TINY = """
name: tiny
task: image_classification
data: {source: sklearn, name: digits, max_samples: {train: 200, validation: 60, test: 80}}
teacher: {source: limbeck, name: digits_cnn, width: 4}
student: {source: limbeck, name: digits_cnn, width: 2}
seeds: [3]
threads: 1
stages:
  - train_teacher: {epochs: 2}
  - distill: {epochs: 2}
  - quantize: {method: int8_static, calibration: 64}
  - export: {format: onnx}
"""

NETS = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, classes, fault=None):
        super().__init__()
        self.fault = fault
        self.body = nn.Linear(64, 8)
        self.norm = nn.BatchNorm1d(8, track_running_stats=fault != "batch")
        self.head = nn.Linear(8, classes)

    def forward(self, image):
        hidden = self.norm(self.body(image.flatten(1)))
        if self.fault == "training" and self.training:
            raise RuntimeError("only ever evaluated")
        if self.fault == "centred":
            hidden = hidden - hidden.mean(0)
        if self.fault == "nan" and self.training:
            return self.head(hidden) * float("nan")
        if self.fault == "half":
            hidden = hidden.to(torch.int64).float() @ torch.ones(8, 8, dtype=torch.float64)
        if self.fault == "brain":
            hidden = (hidden.bfloat16() * torch.ones(8, dtype=torch.bfloat16)).float()
        if self.fault in ("float16", "bfloat16"):
            return self.head(hidden).to(getattr(torch, self.fault))
        if self.fault == "large" and self.training and len(image) > 32:
            raise RuntimeError("too many rows at once")
        if self.fault == "branches" and not bool((image == image).all()):
            raise ValueError("NaN")
        if self.fault == "bodyless":
            return hidden
        return self.head(hidden)


def net(classes, fault=None):
    return Net(classes, fault)


def flat(student, teacher):
    return (student - teacher).square().mean(-1).detach()


def wide(student, teacher):
    return (student - teacher).square()


def ones(student, labels):
    if 9 in labels:
        raise ValueError("no loss for a nine")
    return student.square().mean(-1)
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "nets.py").write_text(NETS)
    return tmp_path


def limbeck_(*argv: object):
    return CliRunner().invoke(_app(), [str(one) for one in argv])


def own(fault: str) -> str:
    return f"student={{source: python, name: 'nets.py:net', fault: {fault}}}"


def objective(term: str) -> str:
    return f"stages.distill.objective=[task, {term}]"


FAULTS = {
    "setting of a model": (["student.widht=3"], ["student", '"width"']),
    "two models and a stage": (
        ["student.widht=3", "teacher.name=digits_cn", "stages.train_teacher.epoks=1"],
        ['"width"', '"digits_cnn"', '"epochs"'],
    ),
    "weights and data": (
        ["teacher.checkpoint=none.safetensors", "data={source: csv, files: {train: none.csv}}"],
        ["teacher.checkpoint", "data.files.train"],
    ),
    "training mode": ([own("training")], ["student", "only ever evaluated"]),
    "features centred over the batch": ([own("centred")], ["student"]),
    "statistics of the batch": ([own("batch")], ["student"]),
    "NaN in training": ([own("nan")], ["student", "in training mode"]),
    "types that do not match": ([own("half")], ["student", "RuntimeError"]),
    "a batch of the size that is trained on": ([own("large")], ["too many rows at once"]),
    "a body without a head": ([own("bodyless")], ["student", "10 classes"]),
    "a loss without gradient": ([objective("'python:nets.py:flat'")], ["flat", "gradient"]),
    "a loss of a wrong shape": ([objective("'python:nets.py:wide'")], ["wide"]),
    "a label that is not in every batch": ([objective("'python:nets.py:ones'")], ["nine"]),
    "an unknown loss": ([objective("'python:nets.py:flatt'")], ['"flat"']),
    "an unknown class": (
        ["stages=[train_teacher: {epochs: 1}, distill: {epochs: 1}, "
         "evaluate: {evaluations: {fairness: {positive: eleven}}}]"],
        ["fairness.positive", "eleven"],
    ),
    "budgets that are not ascending": (
        ["stages=[train_teacher: {epochs: 1}, distill: {epochs: 1}, "
         "evaluate: {evaluations: {model_extraction: {budgets: [9, 3]}}}]"],
        ["model_extraction.budgets", "ascending"],
    ),
    "too few classes": (["data.classes=[a, b]"], ["data.columns.label", "0 to 1"]),
    "absurd numbers": (
        ["stages.train_teacher.epochs=1e18", "student.width=1e12", "data.image.size=1e6"],
        ["stages.train_teacher.epochs", "width", "data.image.size"],
    ),
    "a run folder with other files": (["out"], ["--out", "thesis.tex"]),
    "more calibration samples than rows": (["stages.quantize.calibration=999"], ["1 to 200"]),
    "features of unknown layers": (
        [objective("{fitnet_hint: {student: blok, teacher: features.9}}")],
        ["stages.distill.objective", "blok", "features.9"],
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_reported(name, here):
    settings, words = FAULTS[name]
    if settings == ["out"]:
        (here / "runs" / "tiny").mkdir(parents=True)
        (here / "runs" / "tiny" / "thesis.tex").write_text("years of work")
        settings = []
    before = sorted(here.rglob("*.*"))
    more = [part for setting in settings for part in ("--set", setting)]
    ended = limbeck_("check", "tiny.yaml", *more)
    assert ended.exit_code == 2, ended.output
    assert "Traceback" not in ended.output
    for word in words:
        assert word in ended.output, (word, ended.output)
    assert [path for path in sorted(here.rglob("*.*")) if "__pycache__" not in path.parts] == before


def test_a_valid_recipe_is_described_and_nothing_is_written(here):
    ended = limbeck_("check", "tiny.yaml")
    assert ended.exit_code == 0, ended.output
    assert "no problem" in ended.stdout
    assert "200 train, 60 validation, 80 test" in ended.stdout
    assert "to do: train_teacher, distill" in ended.stdout
    assert sorted(path.name for path in here.iterdir()) == ["nets.py", "tiny.yaml"]


def test_notes_on_the_data_are_shown(here):
    rows = [f"{row},{str(row % 2 == 0).lower()},{'ab'[row % 2]}" for row in range(60)]
    rows += ["60,true,rare", "61,false,rare"]
    (here / "rows.csv").write_text("\n".join(["x,member,label", *rows]))
    data = "source: csv, classes: [a, b, rare], table: {numeric: [x, member]}"
    data = f"{{{data}, files: {{train: {here / 'rows.csv'}}}}}"
    changes = ["task=tabular_classification", f"data={data}"]
    changes += [f"{role}={{source: limbeck, name: tabular_mlp}}" for role in ("teacher", "student")]
    changes += ["stages=[train_teacher: {epochs: 1}, distill: {epochs: 1}]"]
    given = [part for change in changes for part in ("--set", change)]
    ended = limbeck_("check", "tiny.yaml", *given)
    assert ended.exit_code == 0, ended.output
    assert "Note        validation: no row of rare (1 in train, 1 in test)" in ended.stdout
    assert "with true and false, read as 1 and 0: member ('true')" in ended.stdout
    notes = json.loads(limbeck_("check", "tiny.yaml", *given, "--json").stdout)["notes"]
    assert all(f"Note        {note}" in ended.stdout for note in notes)


@pytest.mark.parametrize(
    "stages", [[], ["stages=[train_teacher: {epochs: 1}, distill: {epochs: 1}]"]]
)
def test_a_model_is_exported_once(here, monkeypatch, stages):
    exported = []

    def count(model, task, example, path):
        exported.append(type(model).__name__)
        to_onnx(model, task, example, path)

    monkeypatch.setattr("limbeck.pipeline.artefacts.to_onnx", count)
    check(resolve("tiny.yaml", [own("null"), *stages]), out=here / "out")
    assert exported == ["Net"]


def test_a_model_that_cannot_be_exported_is_named_once(here):
    with pytest.raises(InputError) as caught:
        check(resolve("tiny.yaml", [own("branches")]), out=here / "out")
    (problem,) = caught.value.problems
    assert (problem.where, problem.given) == ("student", "Net")
    assert "ONNX" in problem.allowed
    assert "model.onnx" not in problem.fix


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_logits_of_half_precision_are_refused(here, precision):
    with pytest.raises(InputError, match=f"student: got 'logits of {precision}'"):
        check(resolve("tiny.yaml", [own(precision)]), out=here / "out")


def test_a_precision_without_kernels_is_reported_without_a_temporary_path(here):
    with pytest.raises(InputError) as caught:
        check(resolve("tiny.yaml", [own("brain")]), out=here / "out")
    (problem,) = caught.value.problems
    assert problem.where == "student"
    assert problem.fix.startswith("ONNX Runtime cannot load it")


def test_as_json(here):
    found = json.loads(limbeck_("check", "tiny.yaml", "--json").stdout)
    assert found["ok"]
    assert found["rows"] == {"train": 200, "validation": 60, "test": 80}
    assert set(found["parameters"]) == {"teacher", "student"}
    assert found["reused"] == {"3": []}
    ended = limbeck_("check", "tiny.yaml", "--json", "--set", "student.widht=3")
    assert ended.exit_code == 2
    (problem,) = json.loads(ended.stdout)["problems"]
    assert problem["given"] == "3"
    assert "width" in problem["allowed"]


def test_a_trial_step_restores_modules():
    from torch import nn

    from limbeck.pipeline.train import _undisturbed

    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout()).eval()
    state = {name: value.clone() for name, value in module.state_dict().items()}
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    with _undisturbed([module]):
        module.train()(torch.rand(5, 3)).sum().backward()
        module[1].running_mean = torch.full((4,), 9.0)
    assert torch.equal(torch.rand(3), expected)
    assert not any(part.training for part in module.modules())
    assert all(parameter.grad is None for parameter in module.parameters())
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


def test_a_run_folder_that_is_a_file_is_refused(here):
    with pytest.raises(InputError, match="--out"):
        check(resolve("tiny.yaml"), out=here / "tiny.yaml")
