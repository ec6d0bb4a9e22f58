"""Models of timm, torchvision and transformers: built, refused, and rebuilt without limbeck."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from limbeck.core.imports import available
from limbeck.errors import InputError
from limbeck.models.build import architecture, build
from limbeck.models.spec import ModelSpec, names

BERT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
TEXT = {
    "input_ids": torch.tensor([[2, 5, 6, 3], [2, 7, 3, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
}

needs_timm = pytest.mark.skipif(not available("timm"), reason="timm is not installed")
needs_torchvision = pytest.mark.skipif(
    not available("torchvision"), reason="torchvision is not installed"
)
needs_transformers = pytest.mark.skipif(
    not available("transformers"), reason="transformers is not installed"
)


def _refused(message: str, *, classes: int = 3, channels: int | None = None, **spec: Any) -> None:
    with pytest.raises(InputError) as caught:
        build(ModelSpec(**spec), classes=classes, channels=channels, vocab_size=50)
    assert message in str(caught.value)


def _again(model: nn.Module, text: str) -> nn.Module:
    """Run an architecture.py in this process: a new one would import the libraries for seconds."""
    assert "limbeck" not in text
    scope: dict[str, Any] = {}
    exec(text, scope)
    again: nn.Module = scope["build"]()
    again.load_state_dict(model.state_dict())
    return again.eval()


@needs_timm
def test_timm() -> None:
    spec = ModelSpec(source="timm", name="test_resnet", drop_rate=0.1)
    model = build(spec, classes=7, channels=1)
    image = torch.randn(1, 1, 64, 64)
    expected = model.eval()(image)
    assert expected.shape == (1, 7)
    again = _again(model, architecture(spec, classes=7, channels=1))
    assert torch.equal(again(image), expected)
    _refused('did you mean "test_resnet', source="timm", name="test_resnt")
    _refused("it follows from the data", source="timm", name="test_resnet", in_chans=3)
    _refused("nonsense", source="timm", name="test_resnet", nonsense=3)
    assert "resnet18" in names("timm")


@needs_torchvision
def test_torchvision() -> None:
    spec = ModelSpec(source="torchvision", name="squeezenet1_1", dropout=0.2)
    model = build(spec, classes=7, channels=3).eval()
    image = torch.randn(1, 3, 32, 32)
    again = _again(model, architecture(spec, classes=7, channels=3))
    assert torch.equal(again(image), model(image))
    _refused("3 channels", channels=1, source="torchvision", name="resnet18")
    _refused('did you mean "resnet18"', source="torchvision", name="resnet_18")
    _refused("it follows from the data", source="torchvision", name="resnet18", num_classes=3)
    _refused("nonsense", source="torchvision", name="resnet18", nonsense=3)


@needs_transformers
def test_transformers_from_a_configuration() -> None:
    spec = ModelSpec(source="transformers", name="bert", **BERT)
    fit = {"classes": 3, "vocab_size": 50}
    model = build(spec, **fit).eval()
    assert model.config.vocab_size == 50
    assert len(model.bert.encoder.layer) == 2
    expected = model(**TEXT).logits
    assert expected.shape == (2, 3)
    assert torch.equal(_again(model, architecture(spec, **fit))(**TEXT).logits, expected)


@needs_transformers
def test_transformers_for_images() -> None:
    spec = ModelSpec(source="transformers", name="vit", image_size=8, patch_size=4, **BERT)
    model = build(spec, classes=3, channels=1)
    assert model(torch.zeros(1, 1, 8, 8)).logits.shape == (1, 3)


@needs_transformers
def test_transformers_that_do_not_fit() -> None:
    bert = {"source": "transformers", "name": "bert"}
    _refused('did you mean "num_hidden_layers"', num_hiden_layers=4, **bert)
    _refused("it follows from the data", vocab_size=4, **bert)
    _refused("hidden_size", hidden_size="large", **bert)
    _refused("multiple of the number of attention heads", hidden_size=10, **bert)
    _refused('did you mean "bert"', source="transformers", name="bret")
    _refused("makes a classifier or a causal", source="transformers", name="whisper")


@needs_transformers
def test_transformers_of_a_local_folder(tmp_path: Path) -> None:
    made = build(
        ModelSpec(source="transformers", name="bert", **BERT), classes=3, vocab_size=50
    ).eval()
    made.save_pretrained(tmp_path / "whole")
    made.bert.save_pretrained(tmp_path / "body")
    whole = ModelSpec(source="transformers", path=str(tmp_path / "whole"))
    body = ModelSpec(source="transformers", path=str(tmp_path / "body"))
    loaded = build(whole, classes=3, vocab_size=50).eval()
    assert torch.equal(loaded(**TEXT).logits, made(**TEXT).logits)
    again = _again(loaded, architecture(whole, classes=3, vocab_size=50))
    assert torch.equal(again(**TEXT).logits, made(**TEXT).logits)
    fresh = build(body, classes=5, vocab_size=50)
    assert fresh(**TEXT).logits.shape == (2, 5)
    assert _equal(fresh.bert.encoder, made.bert.encoder)
    _refused("a model for 3 classes", classes=5, source="transformers", path=whole.path)
    _refused("config.json", source="transformers", path=str(tmp_path))
    with pytest.raises(InputError, match=r"data\.text\.tokenizer"):
        build(body, classes=3, vocab_size=51)


@needs_transformers
def test_a_folder_with_a_hole_in_the_body_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    spec = ModelSpec(source="transformers", name="bert", **BERT)
    build(spec, classes=3, vocab_size=50).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    tensors.pop("bert.encoder.layer.1.output.dense.weight")
    save_file(tensors, file, metadata={"format": "pt"})
    missing = "nothing for bert.encoder.layer.1.output.dense.weight"
    _refused(missing, source="transformers", path=str(tmp_path))


def _equal(one: nn.Module, other: nn.Module) -> bool:
    tensors = other.state_dict()
    return all(torch.equal(tensor, tensors[name]) for name, tensor in one.state_dict().items())
