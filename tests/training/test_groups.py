"""Frozen layers, learning rates by pattern and layer-wise decay."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.errors import InputError
from limbeck.training import Training, frozen
from limbeck.training.groups import layers_of, learning_rates, matching, parameters_by_path
from limbeck.training.optimizer import build_optimizer
from limbeck.training.step import Stepper


class Transformer(nn.Module):
    """The parts of an encoder, in their order."""

    def __init__(self, depth=3):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 2))
        self.embed = nn.Linear(2, 2)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"attention": nn.Linear(2, 2), "norm": nn.LayerNorm(2)})
            for _ in range(depth)
        )
        self.norm, self.head = nn.LayerNorm(2), nn.Linear(2, 2)


def test_layer_decay_is_that_of_beit():
    model = Transformer(depth=3)
    settings = Training(epochs=1, learning_rate=1.0, layer_decay=0.75)
    rates = learning_rates(model, settings)
    expected = {"cls_token": 4, "embed": 4, "blocks.0": 3, "blocks.1": 2, "blocks.2": 1}
    for name, parameter in model.named_parameters():
        power = next((n for prefix, n in expected.items() if name.startswith(prefix)), 0)
        assert rates[parameter] == pytest.approx(0.75**power), name


def test_layer_decay_of_a_vision_transformer_is_that_of_timm():
    timm = pytest.importorskip("timm")
    from timm.optim import param_groups_layer_decay

    model = timm.create_model("vit_tiny_patch16_224", depth=3, img_size=32, num_classes=5)
    rates = learning_rates(model, Training(epochs=1, learning_rate=1.0, layer_decay=0.6))
    norm = {*model.norm.parameters()}
    for group in param_groups_layer_decay(model, layer_decay=0.6):
        for parameter in group["params"]:
            # timm counts the final norm as a part of the last block, BEiT as one of the head.
            expected = 1 if parameter in norm else group["lr_scale"]
            assert rates[parameter] == pytest.approx(expected)


def test_layers_follow_the_order_of_definition():
    resnet = pytest.importorskip("torchvision.models").resnet18()
    layers = layers_of(resnet)
    assert (layers["conv1.weight"], layers["bn1.bias"]) == (0, 0)
    assert layers["layer1.1.conv2.weight"] == 2
    assert layers["layer2.0.downsample.0.weight"] == layers["layer2.0.conv1.weight"] == 3
    assert layers["fc.weight"] == max(layers.values()) == 9
    plain = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 2))
    assert list(layers_of(plain).values()) == [0, 0, 1, 1, 2, 2]
    children = nn.ModuleDict({"stem": plain, "head": nn.Linear(2, 2)})
    assert {*layers_of(children).values()} == {0, 1}
    between = nn.ModuleDict(
        {
            "first": nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 1)]),
            "transition": nn.LayerNorm(1),
            "second": nn.ModuleList([nn.Linear(1, 1)]),
        }
    )
    assert [*layers_of(between).values()][::2] == [0, 1, 2, 3]


def test_a_rate_by_pattern_is_not_decayed_and_the_last_match_counts():
    model = Transformer()
    given = {"blocks": 0.5, "blocks.*.norm": 0.25, "**.bias": 0.125}
    settings = Training(epochs=1, learning_rate=1.0, layer_decay=0.5, learning_rates=given)
    rates = {name: learning_rates(model, settings)[p] for name, p in model.named_parameters()}
    assert rates["blocks.0.attention.weight"] == 0.5
    assert rates["blocks.2.norm.weight"] == 0.25
    assert rates["head.bias"] == rates["blocks.1.norm.bias"] == 0.125
    assert rates["embed.weight"] == 0.5**4


def test_groups_of_the_optimiser_have_rates_and_weight_decay():
    model = Transformer(depth=1)
    settings = Training(epochs=1, learning_rate=0.1, weight_decay=0.3, learning_rates={"head": 0.2})
    optimizer = build_optimizer(
        model.parameters(), [model], settings, learning_rates(model, settings)
    )
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = {
        (group["lr"], group["weight_decay"], group["scale"]): {names[p] for p in group["params"]}
        for group in optimizer.param_groups
    }
    assert found[0.2, 0.3, 2.0] == {"head.weight"}
    assert found[0.2, 0.0, 2.0] == {"head.bias"}
    assert "cls_token" in found[0.1, 0.3, 1.0]
    assert sum(map(len, found.values())) == len(names)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_one_step_by_hand(tiny, accelerator, optimizer):
    dataset = tiny.Images(noise=0)
    dataset.images, dataset.weights = dataset.images.double(), dataset.weights.double()
    subject = tiny.scheme(dropout=0, norm=False)
    subject.student.double()
    subject.teacher.model.double()
    settings = Training(
        epochs=1,
        optimizer=optimizer,
        momentum=0,
        learning_rate=0.5,
        warmup_ratio=0,
        lr_schedule="linear",
        learning_rates={"6.bias": 0.02},
        layer_decay=0.5,
        freeze=["0.bias"],
    )
    stepper = Stepper(subject, settings, accelerator)
    before = {name: one.detach().clone() for name, one in subject.student.named_parameters()}
    batch = dataset.__getitems__(list(range(22)))
    subject.student.train()
    subject.step(batch, 0.25).total.backward()
    gradients = {name: one.grad for name, one in subject.student.named_parameters()}
    expected = {"0.weight": 0.5 * 0.5, "6.weight": 0.5, "6.bias": 0.02}
    assert gradients["0.bias"] is None
    gradients = {name: gradients[name].clone() for name in expected}
    subject.student.zero_grad()
    stepper.train_step([batch], 0.25)
    for name, parameter in subject.student.named_parameters():
        rate = 0.75 * expected.get(name, 0.0)  # linear decay after a quarter
        gradient = gradients.get(name, torch.zeros(()))
        # The first step of Adam: both bias corrections cancel the moments' factors.
        step = gradient if optimizer == "sgd" else gradient / (gradient.abs() + 1e-8)
        torch.testing.assert_close(
            parameter.detach(), before[name] - rate * step, rtol=1e-12, atol=1e-14
        )


def test_frozen_batch_norms_keep_their_statistics(tiny, tmp_path, accelerator):
    subject = tiny.scheme()
    before = {name: one.clone() for name, one in subject.student.state_dict().items()}
    tiny.train(tmp_path, subject=subject, accelerator=accelerator, freeze=["[01]"], keep="last")
    after = subject.student.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"6.weight", "6.bias"}


def test_a_resumed_training_keeps_frozen_layers_and_rates(tiny, tmp_path, accelerator):
    settings = {
        "freeze": ["0"],
        "learning_rates": {"6": 0.05},
        "layer_decay": 0.5,
        "optimizer": "sgd",
    }

    def train(folder, **more):
        subject = tiny.scheme()
        tiny.train(folder, subject=subject, accelerator=accelerator, **settings, **more)
        return subject.student.state_dict()

    expected = train(tmp_path / "whole")
    with pytest.raises(tiny.Killed):
        train(tmp_path / "killed", progress_bar=tiny.KillAt(3))
    got = train(tmp_path / "killed")
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_frozen_layers_are_trainable_after_the_block():
    model = Transformer()
    model.head.bias.requires_grad_(False)
    with frozen(model, ["blocks.0", "head"]):
        trained = {name for name, one in model.named_parameters() if one.requires_grad}
        assert not [name for name in trained if name.startswith(("blocks.0", "head"))]
        assert "blocks.1.norm.weight" in trained
    assert [name for name, one in model.named_parameters() if not one.requires_grad] == [
        "head.bias"
    ]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"freeze": ["block.0", "hed"]}, r'freeze.0: got .block.0.*"blocks.0".*freeze.1.*"head"'),
        ({"learning_rates": {"hed": 0.1}}, r'learning_rates: got .hed.;.*did you mean "head"'),
        ({"freeze": ["**"]}, "no parameters"),
    ],
)
def test_patterns_that_match_nothing_are_refused(accelerator, settings, message):
    class Scheme:
        def __init__(self):
            self.student = Transformer()
            self.students = {"student": self.student}

        @property
        def phases(self):
            from limbeck.schemes.scheme import Phase

            return {"s": Phase(tuple(p for p in self.student.parameters() if p.requires_grad))}

        def modules_to_save(self):
            return self.students

    with pytest.raises(InputError, match=f"(?s){message}"):
        Stepper(Scheme(), Training(epochs=1, **settings), accelerator)


def test_a_module_without_parameters_is_refused():
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU())
    with pytest.raises(InputError, match="a module without parameters"):
        matching(model, "1", where="freeze")


def test_paths_are_those_of_the_model_inside_a_wrapper():
    model = Transformer()
    assert list(parameters_by_path(torch.compile(model))) == list(parameters_by_path(model))
    assert list(parameters_by_path(model)) == [name for name, _ in model.named_parameters()]


def test_a_shared_parameter_has_one_path():
    model = nn.ModuleDict({"embed": nn.Embedding(3, 2), "head": nn.Linear(2, 3, bias=False)})
    model["head"].weight = model["embed"].weight
    assert list(parameters_by_path(model)) == ["embed.weight"]
