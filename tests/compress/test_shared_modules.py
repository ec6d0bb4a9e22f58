"""Weights that two layers share, modules under two names, and weights that a hook recomputes."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from every_method import attempt, changed, method, of_models
from four_nets import Subject
from torch import Tensor, nn

from limbeck.compress.masked_weights import masked_weights
from limbeck.compress.method import apply
from limbeck.compress.trace import shared_layers
from limbeck.errors import InputError
from limbeck.export.weights import load_weights, save_weights
from limbeck.tasks.image_classification import ImageClassification

TASK = ImageClassification(tuple("abcd"))


class Net(nn.Module):
    """Four linear layers; the two in the middle may be one, or share a weight."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.first, self.a, self.b = nn.Linear(48, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.head = nn.Linear(16, 4)
        if kind == "two names":
            self.b = self.a
        if kind == "tied":
            self.b.weight = self.a.weight
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if kind == "weight_norm":
                nn.utils.weight_norm(self.a)
            if kind == "spectral_norm":
                nn.utils.spectral_norm(self.a)

    def forward(self, image: Tensor) -> Tensor:
        x = F.relu(self.first(image.flatten(1)))
        return self.head(F.relu(self.b(F.relu(self.a(x)))))


def subject(kind: str) -> Subject:
    torch.manual_seed(0)
    model = Net(kind).eval()
    images = torch.randn(16, 3, 4, 4)
    return Subject(model, TASK, {"image": images, "labels": torch.arange(16) % 4})


@pytest.mark.parametrize("kind", ["two names", "tied"])
@pytest.mark.parametrize("name", of_models())
def test_what_is_shared_stays_shared_or_the_method_refuses(name, kind, tmp_path):
    made = subject(kind)
    fresh = copy.deepcopy(made.model)
    before = sum(p.numel() for p in fresh.parameters())
    changes, why = attempt(lambda: changed(name, made, made.model))
    if changes is None:
        assert len(why) > 20
        return
    assert sum(p.numel() for p in made.model.parameters()) <= 2 * before
    assert "factors" not in str(changes) or not {"a", "b"} & changes[0]["layers"].keys()
    apply(fresh, changes)
    save_weights(made.model, tmp_path / "model.safetensors")
    load_weights(fresh, tmp_path / "model.safetensors")
    torch.testing.assert_close(made.logits(fresh), made.logits())
    one, other = made.model.a.weight, made.model.b.weight
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_shared_weight_is_not_masked_and_that_is_noted():
    made = subject("tied")
    weight = made.model.a.weight.detach().clone()
    found = method("prune.magnitude").transform(made.model, made.work)
    assert masked_weights(made.model).keys() == {"first", "head"}
    assert torch.equal(made.model.b.weight, weight)
    assert "skipped: a, b (another layer shares the weight)" in found.notes
    zeros = sum(int((layer.weight == 0).sum()) for layer in (made.model.first, made.model.head))
    assert f"{zeros} of 832 weights" in found.what


def test_a_selected_shared_weight_is_refused():
    made = subject("tied")
    variant = method("prune.magnitude").model_copy(update={"layers": ["a", "head"]})
    with pytest.raises(InputError, match=r"layers: got \['a'\].*untie"):
        variant.check(made.model, made.work)


def test_one_module_under_two_names_shares_nothing_with_another():
    assert shared_layers(subject("two names").model) == {"a", "b"}
    assert shared_layers(subject("two names").model, two_names=False) == set()
    assert shared_layers(subject("tied").model, two_names=False) == {"a", "b"}
    made = subject("two names")
    method("prune.magnitude").transform(made.model, made.work)
    assert masked_weights(made.model).keys() == {"first", "a", "head"}


@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm"])
@pytest.mark.parametrize("name", of_models())
def test_a_weight_that_a_hook_recomputes_is_refused_before_training(name, kind):
    made = subject(kind)
    with pytest.raises(InputError, match=r"recomputed by a hook: a\.weight.*parametrizations"):
        method(name).check(made.model, made.work)
