"""Every way of compressing that there is: named settings for each, and what all of them keep."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from four_nets import NETS, Subject, subject

from limbeck.compress.change import CompressError, apply
from limbeck.compress.factorizers import FACTORIZERS
from limbeck.compress.files.record import QuantizeError
from limbeck.compress.masks.held import fixed
from limbeck.compress.method import FileMethod
from limbeck.compress.pruners import PRUNERS
from limbeck.compress.quantizers import QUANTIZERS
from limbeck.errors import InputError
from limbeck.export.compact.files import pack
from limbeck.export.onnx import to_onnx
from limbeck.export.predictor import OnnxPredictor

REGISTRIES = {"prune": PRUNERS, "factorize": FACTORIZERS, "quantize": QUANTIZERS}
# What a method is tried with; one that is not here is found by the first test.
SETTINGS = {
    "prune.channels": {"ratio": 0.5},
    "prune.heads": {"ratio": 0.5},
    "prune.layers": {"count": 1, "by": "last"},
    "prune.magnitude": {"sparsity": 0.5},
    "prune.movement": {"sparsity": 0.5},
    "prune.n_m": {},
    "prune.random": {"sparsity": 0.5},
    "factorize.svd": {"energy": 0.8},
    "quantize.uniform": {"bits": 4},
    "quantize.ternary": {},
    "quantize.binary": {},
    "quantize.int8_static": {},
    "quantize.int8_dynamic": {},
    "quantize.float16": {},
    "quantize.bfloat16": {},
    "quantize.int4_weights": {},
}
# One of each kind of change; the others of a kind differ in the numbers only. All pairs of all
# methods are tried by benchmarks/pairs.py.
KINDS = (
    "prune.channels",
    "prune.layers",
    "prune.magnitude",
    "factorize.svd",
    "quantize.uniform",
)
# The least step of a quantised file's answers, and what differs between torch and a plain file.
TOLERANCE = 2e-3


def method(name: str):
    family, _, way = name.partition(".")
    return REGISTRIES[family].load(way)(**SETTINGS[name])


def of_models():
    return [name for name in SETTINGS if not isinstance(method(name), FileMethod)]


def changed(name: str, made: Subject, model):
    """Change a model in place, through a few steps of training if the method needs them."""
    way = method(name)
    way.check(model, made.work)
    found = [way.change(model, made.work).change]
    if way.needs_training:
        train(model, made)
        found.append(fixed(model))
    return [change for change in found if change is not None]


def attempt(work):
    """Give what came of it, or nothing and why it was refused."""
    try:
        return work(), ""
    except (CompressError, InputError, QuantizeError) as refused:
        return None, str(refused)


def train(model, made: Subject, steps: int = 3) -> None:
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.05)
    growing = [part for part in model.modules() if callable(getattr(part, "advance", None))]
    for step in range(steps):
        for part in growing:
            part.advance(step / (steps - 1))
        optimizer.zero_grad()
        made.work.loss(model, made.batch).backward()
        optimizer.step()
    model.eval()


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
    torch.testing.assert_close(made.answers(fresh), made.answers(), rtol=1e-5, atol=1e-6)


def test_no_method_fits_no_net():
    for name in of_models():
        fits = []
        for net in NETS:
            made = subject(net)
            changes, _ = attempt(partial(changed, name, made, made.model))
            fits.append(bool(changes))
        assert any(fits), name


@pytest.mark.slow
@pytest.mark.parametrize("second", KINDS)
@pytest.mark.parametrize("first", KINDS)
def test_a_file_answers_as_the_model_does_after_any_two(first, second, tmp_path):
    """Or the second refuses, and says why."""
    made = subject("cnn")
    changed(first, made, made.model)
    changes, why = attempt(lambda: changed(second, made, made.model))
    if changes is None:
        assert len(why) > 20
        return
    path = tmp_path / "model.onnx"
    to_onnx(made.model, made.task, made.batch, path)
    pack(path)
    answered = OnnxPredictor(path, threads=1).predict(made.batch)["logits"]
    expected = made.answers().numpy()
    assert np.abs(answered - expected).max() <= TOLERANCE * max(1.0, np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize("second", [name for name in SETTINGS if name not in of_models()])
@pytest.mark.parametrize("first", KINDS[:4])
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
    answered = OnnxPredictor(small, threads=1).predict(made.batch)["logits"]
    # Few bits move answers; they may not break them.
    expected = made.answers().numpy()
    assert np.abs(answered - expected).max() <= 0.5 * max(1.0, np.abs(expected).max())
