"""Models adapted to data with another class order or normalisation than their own."""

from __future__ import annotations

import copy
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from limbeck.errors import InputError
from limbeck.models.adapt import Adaptation, adapt, adaptation
from limbeck.models.build import architecture, build
from limbeck.models.spec import ModelSpec, Normalization

GREY = Normalization(mean=(0.3,), std=(0.2,))
OWN = {"class_names": ("c", "a", "spare", "b"), "normalization": {"mean": [0.5], "std": [0.25]}}
FIT = {"classes": 3, "channels": 1, "class_names": ("a", "b", "c"), "normalization": GREY}


def spec_of(**more: object) -> ModelSpec:
    return ModelSpec(source="limbeck", name="digits_cnn", width=2, **more)


def pair(**own: object) -> tuple[nn.Module, nn.Module]:
    """Build the adapted model and, from the same seed, the unadapted model."""
    torch.manual_seed(0)
    fitted = build(spec_of(**own), **FIT).eval()
    torch.manual_seed(0)
    alone = build(spec_of(), classes=4, channels=1).eval()
    return fitted, alone


def test_the_adapted_model_equals_the_model_on_its_own_pixels_and_classes() -> None:
    fitted, alone = pair(**OWN)
    pixels = torch.rand(5, 1, 8, 8)
    output = fitted((pixels - 0.3) / 0.2)
    expected = alone((pixels - 0.5) / 0.25)[:, [1, 3, 0]]
    torch.testing.assert_close(output, expected)
    assert list(fitted.state_dict()) == list(alone.state_dict())
    torch.testing.assert_close(copy.deepcopy(fitted)(pixels), fitted(pixels))


def test_the_student_folder_builds_the_adapted_model_without_limbeck(
    alone: Callable[..., torch.Tensor],
) -> None:
    fitted, _ = pair(**OWN, output_type="sigmoid")
    image = torch.rand(2, 1, 8, 8)
    text = architecture(spec_of(**OWN, output_type="sigmoid"), **FIT)
    torch.testing.assert_close(alone(fitted, text, {"image": image}), fitted(image))


def test_the_export_holds_the_adaptation(tmp_path: Path) -> None:
    from limbeck.export.onnx import to_onnx
    from limbeck.export.predictor import OnnxPredictor
    from limbeck.tasks.image_classification import ImageClassification

    fitted, _ = pair(**OWN, output_type="probabilities")
    batch = {"image": torch.rand(6, 1, 8, 8)}
    to_onnx(fitted, ImageClassification(("a", "b", "c")), batch, tmp_path / "model.onnx")
    logits = OnnxPredictor(tmp_path / "model.onnx").predict(batch)["logits"]
    torch.testing.assert_close(torch.from_numpy(logits), fitted(batch["image"]), atol=1e-4, rtol=0)


def test_probabilities_become_logits_of_the_same_distribution() -> None:
    logits = torch.randn(7, 3) * 5
    softmax = adapt(nn.Softmax(1), Adaptation(output_type="probabilities", count=3))
    torch.testing.assert_close(softmax(logits).softmax(1), logits.softmax(1))
    sigmoid = adapt(nn.Sigmoid(), Adaptation(output_type="sigmoid", count=3))
    torch.testing.assert_close(sigmoid(logits), logits, atol=1e-3, rtol=1e-3)
    certain = torch.tensor([[1000.0, 0.0, 0.0]])
    assert softmax(certain).isfinite().all()


class Returns(nn.Module):
    """Return logits within some structure."""

    def __init__(self, structure: Callable[[torch.Tensor], object]) -> None:
        super().__init__()
        self.structure = structure

    def forward(self, logits: torch.Tensor) -> object:
        return self.structure(logits)


Pair = namedtuple("Pair", ["logits_of_head", "aux"])


@pytest.mark.parametrize(
    ("structure", "logits_of"),
    [
        (lambda x: {"logits": x}, lambda out: out["logits"]),
        (lambda x: (x, x + 1), lambda out: out[0]),
        (lambda x: [x, torch.zeros(4, 7)], lambda out: out[0]),
        (lambda x: Pair(x, x), lambda out: out.logits_of_head),
    ],
)
def test_logits_within_a_structure_are_reordered(structure, logits_of) -> None:
    model = adapt(Returns(structure), Adaptation(classes=[2, 0], count=3))
    logits = torch.randn(4, 3)
    assert torch.equal(logits_of(model(logits)), logits[:, [2, 0]])


def test_transformers_outputs_and_named_inputs() -> None:
    transformers = pytest.importorskip("transformers")
    config = {"image_size": 8, "patch_size": 4, "hidden_size": 8, "num_hidden_layers": 1}
    config |= {"num_attention_heads": 2, "intermediate_size": 8, "num_channels": 1}
    model = transformers.ViTForImageClassification(
        transformers.ViTConfig(num_labels=3, **config)
    ).eval()
    image = torch.rand(2, 1, 8, 8)
    expected = model(pixel_values=image * 2 - 1).logits[:, [1, 2]]
    adapt(model, Adaptation(scale=[2.0], shift=[-1.0], classes=[1, 2], count=3))
    torch.testing.assert_close(model(pixel_values=image).logits, expected)


@pytest.mark.parametrize(
    ("own", "match"),
    [
        ({"class_names": ("a", "b", "cc")}, r'class_names: .*missing: c. did you mean "cc"'),
        ({"normalization": {"mean": [0.5] * 3, "std": [1.0] * 3}}, r"data\.image\.channels: 3"),
    ],
)
def test_a_mismatch_with_the_data_is_refused(own, match) -> None:
    with pytest.raises(InputError, match=match):
        build(spec_of(**own), **FIT)


@pytest.mark.parametrize(
    "own",
    [
        {"class_names": ("a", "a")},
        {"normalization": {"mean": [0.5], "std": [0.0]}},
        {"normalization": {"mean": [0.5, 0.5], "std": [1.0]}},
        {"output_type": "odds"},
        {"expect": {"accuracy": 93.39}},
        {"expect": {"split": "test"}},
    ],
)
def test_malformed_statements_are_refused(own) -> None:
    with pytest.raises(ValueError, match="validation error"):
        spec_of(**own)


def test_without_statements_no_hook_is_registered() -> None:
    assert not adaptation(spec_of(), ("a", "b"), GREY)
    assert not adaptation(spec_of(normalization="data"), ("a", "b"), GREY)
    model = build(spec_of(), **FIT)
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
