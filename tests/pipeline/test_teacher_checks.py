"""A teacher that is not what it is taken for stops a run before a student is trained."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import nn

from limbeck.errors import InputError
from limbeck.evaluate.chance import ChanceTest, chance_test
from limbeck.export.predictor import Predictions
from limbeck.models.outputs import check_output_type
from limbeck.pipeline.artefacts import validate_model
from limbeck.pipeline.candidate import Artefact, Candidate, Record
from limbeck.pipeline.dry_run import dry_run
from limbeck.pipeline.progress import NullReporter
from limbeck.pipeline.runner import Work
from limbeck.pipeline.teacher_checks import chance_notes, check_teacher, weak_teacher
from limbeck.pipeline.validate import validate
from limbeck.tasks.image_classification import ImageClassification
from limbeck.tasks.scores import ACCURACY

DIGITS = {
    "name": "t",
    "task": "image_classification",
    "data": {
        "source": "sklearn",
        "name": "digits",
        "max_samples": {"train": 60, "validation": 40, "test": 20},
    },
    "student": {"source": "limbeck", "name": "digits_cnn", "width": 2},
    "threads": 1,
}
LOADED = [{"load": {}}, {"distill": {"epochs": 1}}]

NETS = '''
import torch
from torch import nn


def net(classes, channels, last="Identity"):
    """A small net with some last layer."""
    head = getattr(nn, last)
    layers = [nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, classes)]
    return nn.Sequential(*layers, head(dim=1) if "Softmax" in last else head())


class Centred(nn.Module):
    """Features are centred over the batch."""

    def __init__(self, classes, channels):
        super().__init__()
        self.head = nn.Linear(64 * channels, classes)

    def forward(self, image):
        features = image.flatten(1)
        return self.head(features - features.mean(0))


class AcrossSamples(nn.Module):
    """Attention that takes the first axis for the sequence: batch_first is missing."""

    def __init__(self, classes, channels):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2)
        self.head = nn.Linear(8, classes)

    def forward(self, image):
        rows = image.flatten(1, 2)
        return self.head(self.attention(rows, rows, rows)[0].mean(1))


def unsteady(classes, channels):
    """Batch statistics in evaluation mode, too."""
    norm = nn.BatchNorm2d(4, track_running_stats=False)
    layers = [nn.Conv2d(channels, 4, 3), norm, nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(4 * 36, classes))
'''


@pytest.fixture
def work(tmp_path: Path, accelerator: Accelerator) -> Callable[..., Work]:
    """Prepare a run of the digits with some teacher and stages."""
    (tmp_path / "nets.py").write_text(NETS)

    def make(teacher: Any, stages: Sequence[Any] = LOADED, **more: Any) -> Work:
        recipe = validate({**DIGITS, "teacher": teacher, "stages": stages, **more})
        return Work(recipe, tmp_path / "run", accelerator, NullReporter(), False)

    return make


def own_net(tmp_path: Path, name: str, **more: Any) -> dict[str, Any]:
    # Untrained nets: that they are at chance is tested elsewhere.
    expect = {"expect": {"above_chance": False}}
    return {"source": "python", "name": f"{tmp_path}/nets.py:{name}", **expect, **more}


def refused(work: Work) -> str:
    with pytest.raises(InputError) as error:
        dry_run(work._context(0))
    return str(error.value)


@pytest.mark.parametrize(
    ("last", "kind"),
    [("Softmax", "probabilities"), ("Sigmoid", "sigmoid"), ("Hardsigmoid", "sigmoid")],
)
def test_outputs_that_are_probabilities_are_refused(work, tmp_path, last, kind) -> None:
    text = refused(work(own_net(tmp_path, "net", last=last)))
    assert "teacher.output_type: got 'logits', but each of 16 rows lies in [0, 1]" in text
    assert f"state output_type: {kind}" in text
    dry_run(work(own_net(tmp_path, "net", last=last, output_type=kind))._context(0))
    student = work(own_net(tmp_path, "net"), student=own_net(tmp_path, "net", last=last))
    assert "student.output_type" in refused(student)


@pytest.mark.parametrize("last", ["Identity", "LogSoftmax", "Tanh"])
def test_outputs_that_are_logits_are_accepted(work, tmp_path, last) -> None:
    dry_run(work(own_net(tmp_path, "net", last=last))._context(0))
    text = refused(work(own_net(tmp_path, "net", last=last, output_type="probabilities")))
    assert "Remove output_type" in text


def test_logits_within_0_to_1_are_accepted_as_logits() -> None:
    net = nn.Linear(2, 2)
    nn.init.zeros_(net.weight)
    net.bias.data = torch.tensor([0.25, 0.5])
    check_output_type(net, lambda: net(torch.ones(3, 2)), output_type="logits", where="teacher")


def test_a_softmax_within_a_structured_output_is_refused() -> None:
    class Structured(nn.Module):
        def forward(self, x):
            return {"logits": x.softmax(1), "features": x}

    net = Structured()
    with pytest.raises(InputError, match="state output_type: probabilities"):
        check_output_type(
            net, lambda: net(torch.randn(4, 3))["logits"], output_type="logits", where="teacher"
        )


@pytest.mark.parametrize("name", ["Centred", "AcrossSamples", "unsteady"])
def test_models_that_mix_samples_are_refused(work, tmp_path, name) -> None:
    text = refused(work(own_net(tmp_path, name)))
    assert "teacher" in text
    assert "one at a time" in text


def test_a_body_without_a_head_is_refused_unless_it_is_trained(work, tmp_path) -> None:
    transformers = pytest.importorskip("transformers")
    config = {"image_size": 8, "patch_size": 4, "hidden_size": 8, "num_hidden_layers": 1}
    config |= {"num_attention_heads": 2, "intermediate_size": 8, "num_channels": 1}
    folder = tmp_path / "vit"
    transformers.ViTModel(transformers.ViTConfig(**config)).save_pretrained(folder)
    teacher = {"source": "transformers", "path": str(folder), "normalization": "data"}
    text = refused(work(teacher, [{"distill": {"epochs": 1}}]))
    assert "without a trained head" in text
    assert "classifier.bias, classifier.weight" in text
    dry_run(
        work(teacher, [{"train_teacher": {"epochs": 1}}, {"distill": {"epochs": 1}}])._context(0)
    )


def test_a_fresh_head_must_be_trained(work, tmp_path) -> None:
    from limbeck.models.build import build
    from limbeck.models.spec import ModelSpec

    net = {"source": "limbeck", "name": "digits_cnn", "width": 2}
    save_file(
        build(ModelSpec(**net), classes=7, channels=1).state_dict(), tmp_path / "w.safetensors"
    )
    loading = {"checkpoint": str(tmp_path / "w.safetensors"), "loading": {"head": "fresh"}}
    teacher = {**net, **loading, "normalization": "data"}
    assert "without a trained head" in refused(work(teacher))
    dry_run(
        work(teacher, [{"train_teacher": {"epochs": 1}}, {"distill": {"epochs": 1}}])._context(0)
    )


def test_the_head_names_of_a_timm_model() -> None:
    timm = pytest.importorskip("timm")
    from limbeck.models.sources.timm import _head_names

    config = timm.get_pretrained_cfg("deit_tiny_distilled_patch16_224").to_dict()
    assert _head_names(config) == ("head.weight", "head_dist.weight")


def test_all_problems_are_reported_together(work, tmp_path) -> None:
    torch.manual_seed(0)
    save_file(nn.Linear(1, 1).state_dict(), tmp_path / "w.safetensors")
    teacher = {
        "source": "limbeck",
        "name": "digits_cnn",
        "checkpoint": str(tmp_path / "w.safetensors"),
    }
    text = refused(work(teacher, DISTILL, student=own_net(tmp_path, "net", last="Softmax")))
    assert "teacher.normalization" in text
    assert "student.output_type" in text


DISTILL = [{"distill": {"epochs": 1}}]


def artefact(role: str, accuracy: float, chance: ChanceTest | None = None) -> Artefact:
    return Artefact(
        role=role, label=role, file="model.onnx", weights=("model.safetensors",), parity=None,
        validation_score=accuracy, chance=chance,
    )  # fmt: skip


def checked(predicted: Any, labels: Any, *, stage: str = "load", **expect: Any) -> None:
    """Check a teacher with these predictions on validation."""
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    predictions = Predictions(np.eye(4, dtype=np.float32)[predicted], labels)
    made = artefact("teacher", float((labels == predicted).mean()), chance_test(predictions))
    record = Record(stage=stage, key="", seed=0, settings={}, what="", artefacts=(made,), files={})
    content = {"source": "limbeck", "name": "digits_cnn", "expect": expect or None}
    recipe = validate({**DIGITS, "teacher": content, "stages": LOADED})
    split = range(len(labels))
    context = SimpleNamespace(
        recipe=recipe, on_main_process=lambda work: work(), progress=NullReporter(),
        data=SimpleNamespace(validation=split, test=split),
        task=ImageClassification(("a", "b", "c", "d")),
    )  # fmt: skip
    check_teacher(Candidate().append(Path(), record), context)


RIGHT = np.arange(200) % 4


@pytest.mark.parametrize("stage", ["load", "train_teacher"])
def test_a_teacher_at_chance_stops_the_run(stage: str) -> None:
    random = np.random.default_rng(0).integers(0, 4, 200)
    with pytest.raises(InputError, match=r"not significantly better than chance: 2\d\.\d+% on 200"):
        checked(random, RIGHT, stage=stage)
    with pytest.raises(InputError, match=r"above_chance: false"):
        checked(np.zeros(200, dtype=int), RIGHT, stage=stage)
    checked(random, RIGHT, stage=stage, above_chance=False)
    checked(RIGHT, RIGHT, stage=stage)


def test_a_teacher_whose_classes_are_in_another_order_stops_the_run() -> None:
    with pytest.raises(InputError, match=r"another order.*\[1, 2, 3, 0\].*class_names"):
        checked((RIGHT + 1) % 4, RIGHT)


def test_an_expected_accuracy_is_tested_by_its_binomial_interval() -> None:
    nearly = RIGHT.copy()
    nearly[:12] = (nearly[:12] + 1) % 4  # 94 %
    checked(nearly, RIGHT, accuracy=0.97)
    with pytest.raises(InputError, match=r"expect\.accuracy: got '94\.00% on 200 validation"):
        checked(nearly, RIGHT, accuracy=0.99)
    checked(RIGHT, RIGHT, accuracy=0.9)  # better than expected
    with pytest.raises(InputError, match=r"at least 89\.00% and at most 91\.00%"):
        checked(RIGHT, RIGHT, accuracy=0.9, tolerance=0.01)


def test_a_teacher_no_better_than_the_label_only_student_causes_a_warning() -> None:
    teacher, student = (Path(), artefact("teacher", 0.8)), (Path(), artefact("baseline", 0.82))
    assert "80.00 % and 82.00 %" in weak_teacher(teacher, student, ACCURACY.metric)
    assert not weak_teacher((Path(), artefact("teacher", 0.9)), student, ACCURACY.metric)
    assert not weak_teacher(teacher, None, ACCURACY.metric)


def test_students_at_chance_are_noted() -> None:
    constant = Predictions(np.tile(np.eye(4, dtype=np.float32)[0], (200, 1)), RIGHT)
    made = artefact("student", 0.25, chance_test(constant))
    record = Record(
        stage="distill", key="", seed=0, settings={}, what="", artefacts=(made,), files={}
    )
    (note,) = chance_notes(record)
    assert "student: not significantly better than chance" in note


def test_a_member_of_an_ensemble_at_chance_is_found(work, tmp_path) -> None:
    """One trained member hides two that are not: each is tested by itself."""
    from limbeck.export.weights import save_weights

    net = {"source": "limbeck", "name": "digits_cnn", "width": 2}
    run = work([net, net], [{"train_teacher": {"epochs": 1}}, {"distill": {"epochs": 1}}])
    context = run._context(0)
    names = tuple(f"member-{number}/model.safetensors" for number in range(2))
    for name in names:
        model = context.build(context.recipe.teachers[0], seed=0)
        for parameter in model.parameters():
            parameter.data.zero_()
        save_weights(model, tmp_path / name)
    predictions = Predictions(
        np.eye(10, dtype=np.float32)[np.arange(200) % 10], np.arange(200) % 10
    )
    made = artefact("teacher", 1.0, chance_test(predictions)).model_copy(update={"weights": names})
    record = Record(
        stage="train_teacher", key="", seed=0, settings={}, what="", artefacts=(made,), files={}
    )
    with pytest.raises(InputError) as error:
        check_teacher(Candidate().append(tmp_path, record), context)
    assert [one.where for one in error.value.problems] == ["teacher.0", "teacher.1"]


def test_the_cache_key_includes_how_the_teacher_is_fitted_to_the_data() -> None:
    from limbeck.models.spec import ModelSpec
    from limbeck.pipeline.teachers import _fingerprint

    net = {"source": "limbeck", "name": "digits_cnn"}
    stated = ({}, {"output_type": "probabilities"}, {"normalization": {"mean": [0], "std": [1]}})
    teacher = SimpleNamespace(fingerprint="weights")
    keys = {_fingerprint(teacher, [ModelSpec(**net, **one)]) for one in stated}
    assert len(keys) == 3


WEIGHTS = Path(os.environ["LIMBECK_DATA"]) / "weights/cifar10_resnets"
RESNET = {
    "source": "limbeck", "name": "resnet20", "shortcut": "pad",
    "checkpoint": str(WEIGHTS / "resnet20-12fca82f.safetensors"),
}  # fmt: skip
CLASSES = ["plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
CIFAR = {
    "data": {
        "source": "parquet",
        "files": {"train": "cifar10/test.parquet"},
        "max_samples": {"train": 50, "validation": 400, "test": 10},
        "classes": CLASSES,
    },
    "student": {"source": "limbeck", "name": "resnet20"},
}
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


@pytest.mark.slow
@pytest.mark.skipif(not WEIGHTS.is_dir(), reason="LIMBECK_DATA has no CIFAR-10 weights")
def test_a_real_teacher_with_its_own_and_with_other_normalisation(work) -> None:
    expect = {"accuracy": 0.9173}
    assert "teacher.normalization" in refused(work({**RESNET, "expect": expect}, DISTILL, **CIFAR))
    own = work({**RESNET, "normalization": IMAGENET, "expect": expect}, DISTILL, **CIFAR)
    context = own._context(0)
    spec = context.recipe.teachers[0]
    measured = validate_model(context, context.build(spec, seed=0))["accuracy"]
    assert measured > 0.88
    plain = own._context(0)
    other = context.build(spec.model_copy(update={"normalization": "data"}), seed=0)
    assert validate_model(plain, other)["accuracy"] != measured


def linear_teacher(tmp_path: Path, data: dict[str, Any], order: list[int]) -> dict[str, Any]:
    """Fit a linear model to the training rows, and save it with its outputs in some order."""
    from sklearn.linear_model import LogisticRegression

    from limbeck.data.load import load
    from limbeck.data.spec import DataSpec

    train = load(DataSpec(**data), workdir=tmp_path).train
    batch = train.__getitems__(list(range(len(train))))
    fitted = LogisticRegression(max_iter=200).fit(batch["image"].flatten(1), batch["labels"])
    place = tmp_path / "fitted.npz"
    np.savez(place, weight=fitted.coef_[order], bias=fitted.intercept_[order])
    (tmp_path / "linear.py").write_text(
        "import numpy, torch\nfrom torch import nn\n\n\n"
        "def build(classes, channels):\n"
        f"    saved = numpy.load({str(place)!r})\n"
        "    head = nn.Linear(64, classes)\n"
        "    with torch.no_grad():\n"
        "        head.weight.copy_(torch.from_numpy(saved['weight']))\n"
        "        head.bias.copy_(torch.from_numpy(saved['bias']))\n"
        "    return nn.Sequential(nn.Flatten(), head)\n"
    )
    return {"source": "python", "name": f"{tmp_path}/linear.py:build"}


def test_a_loaded_teacher_is_tested_before_training(work, tmp_path) -> None:
    data = {**DIGITS["data"], "max_samples": {"train": 400, "validation": 140, "test": 40}}
    right = linear_teacher(tmp_path, data, list(range(10)))
    dry_run(work(right, data=data)._context(0))
    shifted = linear_teacher(tmp_path, data, [*range(1, 10), 0])
    text = refused(work(shifted, data=data))
    assert "another order" in text
    assert "teacher.class_names" in text
    untrained = {"source": "limbeck", "name": "digits_cnn", "width": 2}
    assert "not significantly better than chance" in refused(work(untrained, data=data))
