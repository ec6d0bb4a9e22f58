"""The logits are found in the output structures of all libraries: in training and evaluation."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from limbeck.errors import InputError
from limbeck.export.onnx import to_onnx
from limbeck.models.adapt import Adaptation, adapt
from limbeck.models.build import architecture, build
from limbeck.models.spec import ModelSpec
from limbeck.tasks import TASKS
from limbeck.tasks.checks import check_modes
from limbeck.tasks.image_classification import ImageClassification

CLASSES = ("a", "b", "c")
TASK = ImageClassification(classes=CLASSES)
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
TINY |= {"intermediate_size": 16, "image_size": 16, "patch_size": 8}


def _batch(size: int = 4) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {"image": torch.randn(3, 3, size, size), "labels": torch.tensor([0, 1, 2])}


@dataclass
class Scores:
    scores: Tensor
    features: Tensor


Pair = namedtuple("Pair", ["logits", "aux_logits"])


class Net(nn.Module):
    """A linear classifier whose output a function wraps."""

    def __init__(self, wrap: Any) -> None:
        super().__init__()
        self.body, self.head, self.second = nn.Linear(48, 5), nn.Linear(5, 3), nn.Linear(5, 3)
        self.wrap = wrap

    def forward(self, image: Tensor) -> Any:
        features = self.body(image.flatten(1))
        return self.wrap(self.head(features), features, self.second(features), self.training)


STRUCTURES = {
    "tuple with features": lambda one, features, two, training: (features, one),
    "list of one": lambda one, features, two, training: [one],
    "loss first": lambda one, features, two, training: (one.sum(), one),
    "mapping": lambda one, features, two, training: {"out": one, "aux": two, "features": features},
    "dataclass": lambda one, features, two, training: Scores(one, features),
    "named tuple": lambda one, features, two, training: Pair(one, two),
    "convolutional": lambda one, features, two, training: one[:, :, None, None],
}


@pytest.mark.parametrize("structure", STRUCTURES)
def test_every_structure_has_the_same_logits(structure: str) -> None:
    net, batch = Net(STRUCTURES[structure]), _batch()
    expected = net.head(net.body(batch["image"].flatten(1)))
    assert torch.equal(TASK.outputs(net, batch)["logits"], expected)
    check_modes(net, TASK, batch)


def test_auxiliary_heads_train_with_a_weight_of_three_tenths() -> None:
    net, batch = Net(STRUCTURES["named tuple"]), _batch()
    response = TASK.respond(net, batch)
    cross_entropy = nn.CrossEntropyLoss(reduction="none")
    logits, aux = net(batch["image"])
    expected = cross_entropy(logits, batch["labels"]) + 0.3 * cross_entropy(aux, batch["labels"])
    torch.testing.assert_close(TASK.loss(response)["logits"], expected)


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (lambda one, features, two, training: (one, two), r"tuple of 0 \[3, 3\], 1 \[3, 3\]"),
        (lambda one, features, two, training: {"features": features}, r"features \[3, 5\]"),
        (lambda one, features, two, training: one.argmax(-1), r"int64 \[3\]"),
        (lambda one, features, two, training: one[:, :, None].expand(3, 3, 7), r"\[3, 3, 7\]"),
        (lambda one, features, two, training: None, "NoneType of no tensors"),
    ],
)
def test_ambiguous_outputs_are_refused(wrap: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        TASK.outputs(Net(wrap), _batch())


TWO_HEADS = """
from torch import nn

class TwoHeads(nn.Module):
    def __init__(self, classes, mean):
        super().__init__()
        self.first, self.second = nn.Linear(48, classes), nn.Linear(48, classes)
        self.mean = mean

    def forward(self, image):
        one, two = self.first(image.flatten(1)), self.second(image.flatten(1))
        if self.training:
            return one, two
        return (one + two) / 2 if self.mean else one

def build(classes, mean=True):
    return TwoHeads(classes, mean)
"""


def _two_heads(folder: Path, **settings: Any) -> tuple[nn.Module, str]:
    (folder / "two.py").write_text(TWO_HEADS)
    spec = ModelSpec(source="python", name=f"{folder / 'two.py'}:build", **settings)
    return build(spec, classes=3), architecture(spec, classes=3)


def test_two_heads_in_training_and_their_mean_in_evaluation(tmp_path: Path) -> None:
    batch = _batch()
    with pytest.raises(InputError, match="output: mean"):
        check_modes(_two_heads(tmp_path)[0], TASK, batch)
    with pytest.raises(InputError, match="output: mean"):
        check_modes(_two_heads(tmp_path, output=0)[0], TASK, batch)
    check_modes(_two_heads(tmp_path, output=0, mean=False)[0], TASK, batch)
    model, text = _two_heads(tmp_path, output="mean")
    check_modes(model, TASK, batch)
    TASK.loss(TASK.respond(model.train(), batch))["logits"].mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    scope: dict[str, Any] = {}
    exec(text, scope)
    again = scope["build"]().train()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(batch["image"]), model(batch["image"]))


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(48, 3)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, image: Tensor) -> Tensor:
        self.calls += 1
        return self.head(image.flatten(1))


def test_buffers_that_change_in_evaluation_mode_are_refused() -> None:
    net = Counting()
    with pytest.raises(InputError, match="calls"):
        check_modes(net, TASK, _batch())
    assert net.training
    assert net.calls == 0


class Head(nn.Module):
    """A head whose last activation depends on its mode, as in detectors' classifiers."""

    def __init__(self, last: Any, *, when_training: bool = False) -> None:
        super().__init__()
        self.linear, self.last, self.when = nn.Linear(48, 3), last, when_training

    def forward(self, features: Tensor) -> Tensor:
        values = self.linear(features)
        return self.last(values) if self.training is self.when else values


@pytest.mark.parametrize("when_training", [True, False])
@pytest.mark.parametrize(
    ("last", "message"),
    [(nn.Softmax(-1), "probabilities"), (nn.LogSoftmax(-1), "log-"), (nn.Sigmoid(), "sigmoid")],
)
def test_an_activation_in_one_mode_alone_is_refused(
    last: nn.Module, message: str, when_training: bool
) -> None:
    torch.manual_seed(0)
    head = Head(last, when_training=when_training)
    net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(48), nn.Dropout(0.5), head)
    mode = "training" if when_training else "evaluation"
    with pytest.raises(InputError, match=rf"{message}.* in {mode} mode.*self\.training"):
        check_modes(net, TASK, _batch())
    assert all(module.training for module in net.modules())
    check_modes(nn.Sequential(nn.Flatten(), nn.Linear(48, 3), last), TASK, _batch())


def test_probabilities_in_one_mode_are_refused_after_their_conversion() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), Head(nn.Softmax(-1)))
    adapt(net, Adaptation(output_type="probabilities", count=3))
    with pytest.raises(InputError, match="log-probabilities in evaluation mode"):
        check_modes(net, TASK, _batch())


LIBRARIES = [
    ("torchvision", "googlenet", {"init_weights": False}, 64, 2),
    ("torchvision", "squeezenet1_0", {}, 32, 0),
    ("timm", "deit_tiny_distilled_patch16_224", {"img_size": 32, "depth": 1}, 32, 0),
    ("transformers", "vit", TINY, 16, 0),
    ("transformers", "deit", TINY, 16, 0),
]


@pytest.mark.parametrize(("source", "name", "arguments", "size", "heads"), LIBRARIES)
def test_models_of_the_libraries(
    source: str, name: str, arguments: dict[str, Any], size: int, heads: int
) -> None:
    pytest.importorskip(source)
    torch.manual_seed(0)
    model = build(ModelSpec(source=source, name=name, **arguments), classes=3, channels=3)
    batch = _batch(size)
    check_modes(model, TASK, batch)
    response = TASK.respond(model.train(), batch)
    assert response.primary.values.shape == (3, 3)
    assert len(response.primary.auxiliary) == heads
    TASK.loss(response)["logits"].mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_transformers_image_classifier_is_exported(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    model = build(ModelSpec(source="transformers", name="vit", **TINY), classes=3, channels=3)
    to_onnx(model, TASK, _batch(16), tmp_path / "model.onnx")


def test_a_model_of_texts_without_a_mask_or_with_other_names() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(9, 3)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.embed(tokens).mean(1)

    task = TASKS.load("text_classification")(classes=CLASSES)
    batch = {
        "input_ids": torch.ones(2, 4, dtype=torch.long),
        "attention_mask": torch.ones(2, 4),
        "labels": torch.tensor([0, 1]),
    }
    assert task.respond(Plain(), batch).primary.values.shape == (2, 3)
