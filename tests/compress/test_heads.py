from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from four_nets import Subject, subject
from pydantic import ValidationError
from torch import Tensor, nn

from limbeck.compress.attention_heads import attentions
from limbeck.compress.method import CompressError, apply
from limbeck.compress.pruners import PRUNERS
from limbeck.compress.pruners.heads import Heads
from limbeck.compress.structure import squares
from limbeck.errors import InputError
from limbeck.export.onnx import to_onnx
from limbeck.export.predictor import OnnxPredictor

SIZE = 4


def precise(name: str) -> Subject:
    made = subject(name)
    batch = {
        key: value.double() if value.is_floating_point() else value
        for key, value in made.batch.items()
    }
    return replace(made, model=made.model.double(), batch=batch)


def values_and_output(attention: nn.Module, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weight and bias of the values, and the output weight, of an attention."""
    if name == "bert":
        value = attention.self.value
        return value.weight, value.bias, attention.output.dense.weight
    return attention.qkv.weight[32:], attention.qkv.bias[32:], attention.proj.weight


@pytest.mark.parametrize("name", ["bert", "vit"])
@pytest.mark.parametrize("importance", ["magnitude", "taylor", "random"])
def test_a_model_without_heads_is_that_with_silent_heads(name, importance):
    made, silent = precise(name), precise(name)
    with torch.no_grad():
        for weight in (*made.model.parameters(),):
            weight.add_(0.1 * torch.randn_like(weight))
    silent.model.load_state_dict(made.model.state_dict())
    full = made.logits()
    before = {path: one.module for path, one in attentions(silent.model).items()}
    changed = Heads(heads=2, importance=importance).transform(made.model, made.work)
    logits = made.logits()
    with torch.no_grad():
        for path, attention in before.items():
            _, _, mix = values_and_output(attention, name)
            _, _, kept = values_and_output(attentions(made.model)[path].module, name)
            columns = {tuple(column.tolist()) for column in kept.T}
            for column in mix.T:
                if tuple(column.tolist()) not in columns:
                    column.zero_()
            assert (mix.view(16, 4, SIZE).abs().sum((0, 2)) == 0).sum() == 2
    assert torch.allclose(silent.logits(), logits, rtol=0, atol=1e-12)
    assert not torch.allclose(full, logits, atol=1e-4)
    fresh = precise(name).model
    apply(fresh, [json.loads(json.dumps(changed.change))])
    fresh.load_state_dict(made.model.state_dict())
    assert torch.equal(made.logits(fresh), logits)


@pytest.mark.parametrize("name", ["bert", "vit"])
def test_the_smallest_heads_go(name):
    made = subject(name)
    with torch.no_grad():
        for attention in attentions(made.model).values():
            weight, bias, mix = values_and_output(attention.module, name)
            weight[SIZE : 2 * SIZE] *= 1e-3
            bias[SIZE : 2 * SIZE] = 0
            mix[:, SIZE : 2 * SIZE] *= 1e-3
    logits = made.logits()
    changed = Heads(ratio=0.25).transform(made.model, made.work)
    assert "2 of 8 heads removed from 2 of 2 layers" in changed.what
    assert torch.allclose(made.logits(), logits, atol=1e-5)
    assert [one.heads for one in attentions(made.model).values()] == [3, 3]


def test_a_head_score_is_the_sum_over_its_weights():
    made = subject("vit")
    attention = attentions(made.model)["blocks.0.attn"]
    qkv, proj = attention.module.qkv.weight, attention.module.proj.weight
    want = qkv.square().reshape(3, 4, SIZE, 16).sum((0, 2, 3))
    want += proj.square().reshape(16, 4, SIZE).sum((0, 2))
    assert torch.allclose(attention.total(squares(made.model)), want.double(), rtol=1e-5)


@pytest.mark.parametrize("name", ["bert", "vit"])
def test_cut_train_and_cut_again(name):
    made = subject(name)
    changes = [Heads(heads=1).transform(made.model, made.work).change]
    optimizer = torch.optim.SGD(made.model.parameters(), 0.1)
    made.model.train()
    for _ in range(2):
        optimizer.zero_grad()
        made.work.loss(made.model, made.batch).backward()
        optimizer.step()
    changes.append(Heads(heads=2, importance="taylor").transform(made.model, made.work).change)
    assert [one.heads for one in attentions(made.model).values()] == [1, 1]
    fresh = subject(name).model
    apply(fresh, changes)
    fresh.load_state_dict(made.model.state_dict())
    assert torch.equal(made.logits(fresh), made.logits())
    with pytest.raises(CompressError, match="no head would be removed"):
        Heads(ratio=0.5).transform(made.model, made.work)


def test_heads_after_channels():
    pytest.importorskip("torch_pruning", reason="torch-pruning is an extra")
    made = subject("bert")
    channels = PRUNERS.load("channels")(ratio=0.5)
    changes = [
        method.transform(made.model, made.work).change
        for method in (channels, Heads(heads=1), channels)
    ]
    fresh = subject("bert").model
    apply(fresh, changes)
    fresh.load_state_dict(made.model.state_dict())
    assert torch.equal(made.logits(fresh), made.logits())


def test_layers_are_chosen():
    made = subject("bert")
    Heads(heads=1, layers=["*layer.1.attention"]).transform(made.model, made.work)
    assert [one.heads for one in attentions(made.model).values()] == [4, 3]
    Heads(heads=1, skip=["*layer.1.attention"]).transform(made.model, made.work)
    assert [one.heads for one in attentions(made.model).values()] == [3, 3]


@pytest.mark.parametrize("name", ["bert", "vit"])
def test_the_exported_file_has_the_logits_of_the_model(name, tmp_path):
    made = subject(name)
    Heads(heads=2).transform(made.model, made.work)
    to_onnx(made.model, made.task, made.batch, tmp_path / "model.onnx")
    found = OnnxPredictor(tmp_path / "model.onnx", threads=1).predict(made.batch)["logits"]
    assert torch.allclose(torch.from_numpy(found), made.logits(), atol=1e-5)


def test_bad_settings_and_models_without_heads():
    for wrong in ({}, {"heads": 1, "ratio": 0.5}, {"heads": 0}, {"ratio": 1.0}):
        with pytest.raises(ValidationError):
            Heads(**wrong)
    made = subject("bert")
    with pytest.raises(InputError, match=r"heads: got 4; allowed: at most 3 for bert.encoder"):
        Heads(heads=4).check(made.model, made.work)
    with pytest.raises(InputError, match=r"layers: got 'no.such'"):
        Heads(heads=1, layers=["no.such"]).check(made.model, made.work)
    with pytest.raises(InputError, match=r"ratio: got 0.1; allowed: at least 0.125"):
        Heads(ratio=0.1).check(made.model, made.work)
    made = subject("cnn")
    with pytest.raises(CompressError, match="supported: BERT and timm"):
        Heads(heads=1).check(made.model, made.work)
    torchs = nn.TransformerEncoderLayer(8, 2)
    with pytest.raises(CompressError, match=r"self_attn \(heads of nn.MultiheadAttention cannot"):
        Heads(heads=1).check(torchs, made.work)
