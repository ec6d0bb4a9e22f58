"""Laws of every compression method, with settings for each."""

import copy
from functools import partial
from itertools import permutations

import numpy as np
import pytest
import torch
from every_method import REGISTRIES, SETTINGS, attempt, changed, method, of_models
from four_nets import NETS, subject

from limbeck.compress.method import apply
from limbeck.export.compact.onnx import pack
from limbeck.export.onnx import to_onnx
from limbeck.export.predictor import OnnxPredictor

# One of each kind of change; the others of a kind differ in the numbers only. All pairs of all
# methods are tried by benchmarks/pairs.py.
KINDS = (
    "prune.channels",
    "prune.layers",
    "prune.magnitude",
    "factorize.svd",
    "quantize.uniform",
)
# The smallest step of a quantised file's logits, and the difference of torch from a plain file.
TOLERANCE = 2e-3


def test_every_method_is_tried():
    there = {f"{family}.{name}" for family, all_ in REGISTRIES.items() for name in all_.names()}
    assert there == set(SETTINGS)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("name", of_models())
def test_a_change_can_be_done_again_to_a_fresh_net(name, net):
    made = subject(net)
    fresh = copy.deepcopy(made.model)
    changes, why = attempt(lambda: changed(name, made, made.model))
    if changes is None:
        assert len(why) > 20
        return
    apply(fresh, changes)
    fresh.load_state_dict(made.model.state_dict())
    torch.testing.assert_close(made.logits(fresh), made.logits(), rtol=1e-5, atol=1e-6)


def test_no_method_fits_no_net():
    for name in of_models():
        fits = []
        for net in NETS:
            made = subject(net)
            changes, _ = attempt(partial(changed, name, made, made.model))
            fits.append(bool(changes))
        assert any(fits), name


PAIRS = [
    *(("cnn", *pair) for pair in permutations(KINDS, 2)),
    ("lstm", "prune.channels", "quantize.uniform"),
    ("lstm", "factorize.svd", "prune.magnitude"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("net", "first", "second"), PAIRS)
def test_a_file_has_the_logits_of_the_model_after_any_two_methods(net, first, second, tmp_path):
    """Or the second refuses, with a reason."""
    made = subject(net)
    changed(first, made, made.model)
    changes, why = attempt(lambda: changed(second, made, made.model))
    if changes is None:
        assert len(why) > 20
        return
    path = tmp_path / "model.onnx"
    to_onnx(made.model, made.task, made.batch, path)
    pack(path)
    outputs = OnnxPredictor(path, threads=1).predict(made.batch)["logits"]
    expected = made.logits().numpy()
    assert np.abs(outputs - expected).max() <= TOLERANCE * max(1.0, np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize("second", [name for name in SETTINGS if name not in of_models()])
@pytest.mark.parametrize("first", ["prune.magnitude", "factorize.svd"])
def test_a_file_of_a_changed_model_can_be_made_smaller(first, second, tmp_path):
    made = subject("cnn")
    changed(first, made, made.model)
    plain, small = tmp_path / "plain.onnx", tmp_path / "small.onnx"
    to_onnx(made.model, made.task, made.batch, plain)
    batches = [{name: tensor.numpy() for name, tensor in made.batch.items()}]
    record, why = attempt(lambda: method(second).write(plain, small, calibration=batches))
    if record is None:
        assert len(why) > 20
        return
    pack(small)
    outputs = OnnxPredictor(small, threads=1).predict(made.batch)["logits"]
    # Few bits change logits a little.
    expected = made.logits().numpy()
    assert np.abs(outputs - expected).max() <= 0.5 * max(1.0, np.abs(expected).max())
