"""Wrong input gives one clear error: what was given, what is allowed, the fix."""

import inspect

import pytest
import torch

from limbeck import losses
from limbeck.errors import InputError
from limbeck.targets import DenseTargets

LOGITS, LABELS = torch.zeros(2, 3), torch.tensor([0, 2])


def call(name, *args, **kwargs):
    """Call the function itself, below the shape checks that the test session puts around it."""
    return inspect.unwrap(losses.find(name))(*args, **kwargs)


WRONG = [
    ("soft_target_kl", LOGITS.long(), LOGITS, {"temperature": 1.0}, "student", "floating-point"),
    ("soft_target_kl", LOGITS, LOGITS.long(), {"temperature": 1.0}, "teacher", "floating-point"),
    ("soft_target_kl", LOGITS, torch.zeros(2, 4), {"temperature": 1.0}, "teacher", "one shape"),
    ("soft_target_kl", torch.zeros(3), torch.zeros(3), {"temperature": 1.0}, "student", "units"),
    ("soft_target_kl", LOGITS[:, :0], LOGITS[:, :0], {"temperature": 1.0}, "student", "one class"),
    ("logit_mse", LOGITS, torch.zeros(3, 3), {}, "teacher", "one shape"),
    ("cross_entropy", LOGITS, torch.tensor([0, 3]), {}, "labels", "from 0 to 2"),
    ("cross_entropy", LOGITS, torch.tensor([0, -100]), {}, "labels", "from 0 to 2"),
    ("cross_entropy", LOGITS, LABELS.float(), {}, "labels", "whole numbers"),
    ("cross_entropy", LOGITS, torch.tensor([0]), {}, "labels", "one label a unit"),
    ("cross_entropy", LOGITS.long(), LABELS, {}, "student", "floating-point"),
    ("label_smoothing", LOGITS, torch.tensor([5, 0]), {"smoothing": 0.1}, "labels", "from 0 to 2"),
    ("label_smoothing", LOGITS, LABELS, {"smoothing": 1.0}, "smoothing", "a number in"),
    ("fitnet_hint", torch.zeros(2, 3), torch.zeros(2, 4), {}, "teacher", "one shape"),
    ("fitnet_hint", torch.zeros(2), torch.zeros(2), {}, "student", "samples"),
    (
        "divergence",
        LOGITS,
        DenseTargets(torch.zeros(3, 3)),
        {"temperature": 1.0},
        "targets",
        "2 units",
    ),
]


@pytest.mark.parametrize(("name", "student", "second", "settings", "place", "allowed"), WRONG)
def test_wrong_tensors_are_refused(name, student, second, settings, place, allowed):
    with pytest.raises(InputError) as caught:
        call(name, student, second, **settings)
    [problem] = caught.value.problems
    assert problem.where == f"{name}.{place}"
    assert allowed in problem.allowed


@pytest.mark.parametrize("temperature", [0, 0.0, -1.0, float("nan"), float("inf"), "4", None, True])
@pytest.mark.parametrize("name", ["soft_target_kl", "divergence"])
def test_wrong_temperatures_are_refused(name, temperature):
    second = DenseTargets(LOGITS) if name == "divergence" else LOGITS
    with pytest.raises(InputError, match="a finite number above 0"):
        call(name, LOGITS, second, temperature=temperature)


@pytest.mark.parametrize("given", ["forwardkl", None, 3])
def test_unknown_kinds_are_refused(given):
    with pytest.raises(InputError, match="forward_kl, reverse_kl, jsd, tvd"):
        call("divergence", LOGITS, DenseTargets(LOGITS), kind=given, temperature=1.0)


def test_labels_of_any_whole_type_serve():
    expected = losses.cross_entropy(LOGITS, LABELS)
    for dtype in (torch.int32, torch.uint8, torch.int8):
        assert torch.equal(losses.cross_entropy(LOGITS, LABELS.to(dtype)), expected)


def test_no_units_give_no_values():
    empty, none = torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)
    assert losses.cross_entropy(empty, none).shape == (0,)
    assert losses.label_smoothing(empty, none, smoothing=0.1).shape == (0,)
    assert losses.soft_target_kl(empty, empty, temperature=4.0).shape == (0,)
    assert losses.divergence(empty, DenseTargets(empty), temperature=4.0).shape == (0,)
    assert losses.logit_mse(empty, empty).shape == (0,)


def test_nan_is_not_hidden():
    bad = torch.tensor([[float("nan"), 0.0, 0.0]])
    assert losses.soft_target_kl(bad, LOGITS[:1], temperature=1.0).isnan().all()
    assert losses.cross_entropy(bad, LABELS[:1]).isnan().all()
    assert losses.logit_mse(bad, LOGITS[:1]).isnan().all()
