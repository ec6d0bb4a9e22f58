"""Wrong input gives one clear error: what was given, what is allowed, the fix."""

import contextlib
import inspect
import subprocess
import sys

import pytest
import torch

from limbeck import losses
from limbeck.errors import InputError
from limbeck.targets import DenseTargets

LOGITS, LABELS = torch.zeros(2, 3), torch.tensor([0, 2])
STATES, SCORES = torch.zeros(2, 3, 4), torch.zeros(2, 2, 3, 3)
MASK = torch.ones(2, 3, dtype=torch.bool)

# What each loss over logits needs beside them.
PAIRED = {
    "binary_kl": {"temperature": 1.0},
    "dist": {},
    "dkd": {"labels": LABELS},
    "logit_mse": {},
    "mlkd": {},
    "soft_target_kl": {"temperature": 1.0},
    "standardized_kl": {},
    "ttm": {"temperature": 1.0},
    "wttm": {"temperature": 1.0},
}
HARD = {"cross_entropy": {}, "cumulative_cross_entropy": {}, "label_smoothing": {"smoothing": 0.1}}
WITH_TEMPERATURE = [
    "binary_kl",
    "dist",
    "divergence",
    "dkd",
    "soft_target_kl",
    "standardized_kl",
    "ttm",
    "wttm",
]
# Losses over what a transformer holds: an input that fits, and what they need beside it.
INSIDE = {
    "attention_kl": (SCORES.softmax(-1), {}),
    "attention_mse": (SCORES, {}),
    "embedding_mse": (STATES, {}),
    "hidden_cosine": (STATES, {}),
    "hidden_mse": (STATES, {}),
    "minilm_relation": (STATES, {"heads": 2}),
}


def call(name, *args, **kwargs):
    """Call the function itself, below the shape checks that the test session puts around it."""
    return inspect.unwrap(losses.find(name))(*args, **kwargs)


@pytest.fixture(params=["plain", "autocast"])
def precision(request):
    lowered = torch.autocast("cpu", dtype=torch.bfloat16)
    with lowered if request.param == "autocast" else contextlib.nullcontext():
        yield


def refused(place, allowed, name, *args, **kwargs):
    """Assert that a call raises one error, of that argument and with that text."""
    with pytest.raises(InputError) as caught:
        call(name, *args, **kwargs)
    [problem] = caught.value.problems
    assert problem.where == f"{name}.{place}"
    assert allowed in problem.allowed
    assert str(problem.given) in str(caught.value)


@pytest.mark.usefixtures("precision")
@pytest.mark.parametrize("name", PAIRED)
def test_logits_of_different_shapes_raise(name):
    more = PAIRED[name]
    refused("student", "floating-point", name, LOGITS.long(), LOGITS, **more)
    refused("teacher", "floating-point", name, LOGITS, LOGITS.long(), **more)
    refused("teacher", "one shape", name, LOGITS, torch.zeros(2, 4), **more)
    refused("teacher", "one shape", name, LOGITS, torch.zeros(3, 3), **more)
    refused("student", "elements", name, torch.zeros(3), torch.zeros(3), **more)
    refused("student", "elements", name, torch.zeros(2, 3, 4), torch.zeros(2, 3, 4), **more)
    refused("student", "one class", name, LOGITS[:, :0], LOGITS[:, :0], **more)


@pytest.mark.usefixtures("precision")
@pytest.mark.parametrize("name", [*HARD, "dkd"])
def test_invalid_labels_raise(name):
    def with_labels(labels, logits=LOGITS):
        if name == "dkd":
            return (name, logits, logits), {"labels": labels}
        return (name, logits, labels), HARD[name]

    for labels, allowed in (
        (torch.tensor([0, 3]), "from 0 to 2"),
        (torch.tensor([0, -100]), "from 0 to 2"),
        (torch.tensor([5, 0]), "from 0 to 2"),
        (LABELS.float(), "whole numbers"),
        (LABELS.bool(), "whole numbers"),
        (torch.tensor([0]), "one label per element"),
        (LABELS[:, None], "one label per element"),
    ):
        args, more = with_labels(labels)
        refused("labels", allowed, *args, **more)
    args, more = with_labels(LABELS, LOGITS.long())
    refused("student", "floating-point", *args, **more)


@pytest.mark.usefixtures("precision")
@pytest.mark.parametrize("name", INSIDE)
def test_invalid_states_and_attention_raise(name):
    fits, more = INSIDE[name]
    refused("student", "floating-point", name, fits.long(), fits, **more)
    refused("teacher", "floating-point", name, fits, fits.long(), **more)
    refused("student", "a tensor", name, fits[0, 0, ..., 0], fits[0, 0, ..., 0], **more)
    others = "samples" if name == "minilm_relation" else "one shape"
    refused("teacher", others, name, fits, fits[:1], **more)
    refused("mask", "boolean mask", name, fits, fits, mask=MASK.long(), **more)
    refused("mask", "[samples, tokens]", name, fits, fits, mask=MASK[:, :2], **more)


WRONG = [
    ("fitnet_hint", torch.zeros(2, 3), torch.zeros(2, 4), {}, "teacher", "one shape"),
    ("fitnet_hint", torch.zeros(2), torch.zeros(2), {}, "student", "samples"),
    (
        "divergence",
        LOGITS,
        DenseTargets(torch.zeros(3, 3)),
        {"temperature": 1.0},
        "targets",
        "2 elements",
    ),
    ("minilm_relation", STATES, STATES, {"heads": 3}, "heads", "student's 4 features"),
    ("minilm_relation", STATES, torch.zeros(2, 3, 6), {"heads": 4}, "heads", "teacher's 6"),
    ("minilm_relation", STATES, STATES, {"heads": 0}, "heads", "whole number"),
    ("minilm_relation", STATES, STATES, {"heads": 2.0}, "heads", "whole number"),
    ("minilm_relation", STATES, STATES, {"heads": 12}, "heads", "whole number"),
    ("minilm_relation", STATES[0], STATES[0], {"heads": 2}, "student", "features"),
    ("attention_kl", SCORES, SCORES, {"heads": "meen"}, "heads", "match, mean"),
    ("attention_kl", SCORES, torch.zeros(2, 4, 3, 3), {}, "teacher", "one shape"),
    ("attention_mse", SCORES[..., :2], SCORES[..., :2], {"mask": MASK}, "mask", "(2, 2)"),
    ("attention_mse", SCORES[0], SCORES[0], {}, "student", "heads"),
    ("label_smoothing", LOGITS, LABELS, {"smoothing": 1.0}, "smoothing", "a number in"),
    ("standardized_kl", LOGITS, LOGITS, {"correction": 2}, "correction", "0 or 1"),
    ("mlkd", LOGITS, LOGITS, {"temperatures": []}, "temperatures", "above 0"),
    ("mlkd", LOGITS, LOGITS, {"temperatures": 4.0}, "temperatures", "a list"),
    ("mlkd", LOGITS, LOGITS, {"temperatures": [2, 0]}, "temperatures[1]", "above 0"),
]


@pytest.mark.parametrize(("name", "student", "second", "settings", "place", "allowed"), WRONG)
def test_other_invalid_input_raises(name, student, second, settings, place, allowed):
    refused(place, allowed, name, student, second, **settings)


@pytest.mark.parametrize("temperature", [0, 0.0, -1.0, float("nan"), float("inf"), "4", None, True])
@pytest.mark.parametrize("name", WITH_TEMPERATURE)
def test_invalid_temperatures_raise(name, temperature):
    second = DenseTargets(LOGITS) if name == "divergence" else LOGITS
    more = PAIRED.get(name, {}) | {"temperature": temperature}
    refused("temperature", "a finite number above 0", name, LOGITS, second, **more)


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf"), "1", None, True])
@pytest.mark.parametrize(
    ("name", "weighs"),
    [
        ("dist", "beta"),
        ("dist", "gamma"),
        ("dkd", "alpha"),
        ("dkd", "beta"),
        ("mlkd", "batch"),
        ("mlkd", "classes"),
        ("mlkd", "instance"),
    ],
)
def test_invalid_weights_raise(name, weighs, weight):
    more = PAIRED[name] | {weighs: weight}
    refused(weighs, "at least 0", name, LOGITS, LOGITS, **more)


@pytest.mark.parametrize("given", ["forwardkl", None, 3])
def test_unknown_kinds_raise(given):
    with pytest.raises(InputError, match="forward_kl, reverse_kl, jsd, tvd"):
        call("divergence", LOGITS, DenseTargets(LOGITS), kind=given, temperature=1.0)


def test_every_loss_over_logits_and_transformers_is_tried_here():
    files = ("classification", "divergences", "ordinal", "transformers")
    tested = {name for name in losses.__all__ if losses.find(name).__module__.endswith(files)}
    tested = tested - {"divergence"} | {"attention_kl", "attention_mse", "minilm_relation"}
    assert tested == {*PAIRED, *HARD, *INSIDE}


def test_labels_of_any_integer_dtype():
    logits, teacher = torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(0))
    expected = losses.cross_entropy(logits, LABELS), losses.dkd(logits, teacher, labels=LABELS)
    for dtype in (torch.int32, torch.uint8, torch.int8):
        labels = LABELS.to(dtype)
        assert torch.equal(losses.cross_entropy(logits, labels), expected[0])
        assert torch.equal(losses.dkd(logits, teacher, labels=labels), expected[1])


@pytest.mark.usefixtures("precision")
def test_an_empty_batch_has_no_values():
    empty, none = torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)
    assert losses.cross_entropy(empty, none).shape == (0,)
    assert losses.label_smoothing(empty, none, smoothing=0.1).shape == (0,)
    assert losses.divergence(empty, DenseTargets(empty), temperature=4.0).shape == (0,)
    for name, more in PAIRED.items():
        leaf = empty.clone().requires_grad_()
        value = losses.find(name)(
            leaf, empty, **more | ({"labels": none} if "labels" in more else {})
        )
        value.sum().backward()
        assert value.shape == (() if name in ("dist", "mlkd") else (0,))
        assert value.sum() == 0
        assert leaf.grad.shape == (0, 3)


@pytest.mark.usefixtures("precision")
@pytest.mark.parametrize("name", [*PAIRED, *INSIDE])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_half_precision_and_autocast_are_computed_in_float32(name, dtype):
    fits, more = INSIDE[name] if name in INSIDE else (LOGITS, PAIRED[name])
    student, teacher = torch.randn(2, *fits.shape, generator=torch.Generator().manual_seed(0))
    student, teacher = (x.softmax(-1).to(dtype) for x in (student, teacher))
    with torch.autocast("cpu", enabled=False):
        expected = losses.find(name)(student.float(), teacher.float(), **more)
    value = losses.find(name)(student, teacher, **more)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected)


def test_nan_is_propagated():
    bad = torch.tensor([[float("nan"), 0.0, 0.0]])
    assert losses.cross_entropy(bad, LABELS[:1]).isnan().all()
    for name, more in PAIRED.items():
        given = more | ({"labels": LABELS[:1]} if "labels" in more else {})
        assert losses.find(name)(bad, LOGITS[:1], **given).isnan().all(), name
    for name, (fits, more) in INSIDE.items():
        assert losses.find(name)(fits * float("nan"), fits + 1, **more).isnan().all(), name


NO_TENSORS = """
import torch
from limbeck import losses
from limbeck.errors import InputError

for name in ("logit_mse", "soft_target_kl", "rkd_distance", "fitnet_hint"):
    settings = {"temperature": 1.0} if name == "soft_target_kl" else {}
    for other in (None, [[0.0, 1.0]], 3.0):
        try:
            getattr(losses, name)(torch.zeros(1, 2), other, **settings)
        except InputError as error:
            assert "a tensor" in str(error), error
        else:
            raise AssertionError(name)
"""


def test_values_that_are_not_tensors_raise():
    # In its own process: here the annotations' checker would raise first.
    done = subprocess.run([sys.executable, "-c", NO_TENSORS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "name", ["rkd_distance", "rkd_angle", "neuron_selectivity", "logit_mse", "attention_transfer"]
)
@pytest.mark.parametrize("types", [(torch.float64, torch.float32), (torch.float32, torch.float64)])
def test_the_students_dtype_determines_the_results(name, types):
    shape = (4, 5) if name == "logit_mse" else (4, 3, 2, 2)
    student = torch.randn(shape, dtype=types[0]).requires_grad_()
    value = getattr(losses, name)(student, torch.randn(shape, dtype=types[1]))
    assert value.dtype == types[0]
    value.sum().backward()
