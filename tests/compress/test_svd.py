"""The method on four networks: structure, targets, skipped layers, and refusals."""

from __future__ import annotations

import copy
import math
import re
from types import MappingProxyType

import numpy as np
import pytest
import torch
from four_nets import NETS, Subject, subject
from pydantic import ValidationError
from torch import nn
from torch.nn.utils import parametrize

from limbeck.compress.factorizers.svd import Svd
from limbeck.compress.low_rank import matrix
from limbeck.compress.method import CalibrationContext, CompressError, apply
from limbeck.errors import InputError
from limbeck.evaluate.flops import flops, parameters
from limbeck.export.onnx import to_onnx
from limbeck.export.predictor import OnnxPredictor

VARIANTS = {
    "rank": {"rank": 2},
    "energy": {"energy": 0.5},
    "whitened energy": {"energy": 0.9, "whiten": True},
    "parameters": {"parameters": 0.9},
    "flops": {"flops": 0.99, "whiten": True},
    "sensitivity": {"parameters": 0.9, "by": "sensitivity"},
    "spatial": {"rank": 2, "convolutions": "spatial", "embeddings": True},
}


def rebuilt(name: str, model: nn.Module, changes) -> nn.Module:
    fresh = subject(name).model
    apply(fresh, changes)
    fresh.load_state_dict(model.state_dict())
    return fresh


def operations(one: Subject) -> int:
    return flops(one.model, one.task, one.batch)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", NETS)
def test_the_structure_is_built_again(name, variant):
    one = subject(name)
    method = Svd(**VARIANTS[variant])
    before = {path: rows.clone() for path, rows in one.model.state_dict().items()}
    method.check(one.model, one.work)
    assert all(torch.equal(rows, before[path]) for path, rows in one.model.state_dict().items())
    size, cost = parameters(one.model), operations(one)
    done = method.transform(one.model, one.work)
    assert parameters(one.model) < size
    assert f"{size:,} to {parameters(one.model):,} parameters" in done.what
    if method.parameters:
        assert parameters(one.model) <= method.parameters * size
    if method.flops:
        assert operations(one) <= method.flops * cost
    assert not any(module.training for module in one.model.modules())
    torch.testing.assert_close(
        one.logits(rebuilt(name, one.model, [done.change])), one.logits(), rtol=0, atol=0
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_layers_are_cut_again_and_exported(name, tmp_path):
    one = subject(name)
    given = {"skip": ["classifier" if name == "bert" else "head"]}
    first = Svd(rank=7, convolutions="spatial", **given).transform(one.model, one.work)
    embeddings = name in ("bert", "lstm")
    second = Svd(rank=2, embeddings=embeddings, **given).transform(one.model, one.work)
    assert any(path.endswith((".0", ".1")) for path in second.change["layers"])
    fresh = rebuilt(name, one.model, [first.change, second.change])
    torch.testing.assert_close(one.logits(fresh), one.logits(), rtol=0, atol=0)
    if name == "lstm":
        return  # the exporter writes no LSTM over any number of tokens, cut or not
    to_onnx(one.model, one.task, one.batch, tmp_path / "net.onnx")
    found = OnnxPredictor(tmp_path / "net.onnx").predict(one.batch)["logits"]
    np.testing.assert_allclose(found, one.logits().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", ["channel", "spatial"])
def test_each_layer_error_is_that_of_its_singular_values(form):
    one = subject("cnn")
    model = one.model.double()
    dense = copy.deepcopy(model)
    context = CalibrationContext(
        lambda: iter([{"x": torch.randn(2, 3, 8, 8).double()}]), run, None, None, 0
    )
    done = Svd(rank={"wide.0": 3, "hidden": 5}, convolutions=form).transform(model, context)
    assert done.change["layers"] == {
        "wide.0": {"rank": 3, "form": form},
        "hidden": {"rank": 5, "form": "linear"},
    }
    for path, given in done.change["layers"].items():
        two, layer = model.get_submodule(path), dense.get_submodule(path)
        weight = matrix(layer.weight, given["form"]).detach().numpy()
        first, second = (part.weight.detach().flatten(1) for part in two)
        if given["form"] == "spatial":
            second = two[1].weight.detach().permute(0, 3, 1, 2).flatten(2).flatten(0, 1)
        tail = np.linalg.svd(weight, compute_uv=False)[given["rank"] :]
        error = np.linalg.norm(weight - (second @ first).numpy())
        assert error == pytest.approx(np.sqrt((tail**2).sum()), rel=1e-9)
        torch.testing.assert_close(two[1].bias, layer.bias)


def run(model, batch):
    return model(batch["x"])


def anisotropic(count: int, width: int) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(count, width) @ torch.randn(width, width) * torch.logspace(0, -2, width)


@pytest.mark.parametrize("shape", [(6, 9), (9, 6)])
def test_whitening_keeps_what_the_samples_make_of_a_layer(shape):
    torch.manual_seed(0)
    layer, x = nn.Sequential(nn.Linear(shape[1], shape[0])), anisotropic(64, shape[1])
    context = CalibrationContext(lambda: iter([{"x": x[:40]}, {"x": x[40:]}]), run, None, None, 0)
    errors = []
    for whiten in (True, False):
        model = copy.deepcopy(layer)
        Svd(rank=2, whiten=whiten).transform(model, context)
        errors.append((model(x) - layer(x)).norm().item())
    assert errors[0] < 0.9 * errors[1]
    weight = layer[0].weight.detach().double().numpy()
    tail = np.linalg.svd(weight @ x.double().numpy().T, compute_uv=False)[2:]
    assert errors[0] == pytest.approx(np.sqrt((tail**2).sum()), rel=1e-3)


@pytest.mark.parametrize("by", ["energy", "sensitivity"])
@pytest.mark.parametrize("target", ["parameters", "flops"])
@pytest.mark.parametrize("share", [0.5, 0.75, 0.99])
def test_targets_are_met_and_not_overdone(target, share, by):
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.Conv2d(32, 32, 3, stride=2),
        nn.Flatten(),
        nn.LazyLinear(64),
    )
    images = torch.randn(4, 3, 9, 9)
    model(images)
    one = Subject(model, _Task(), {"x": images})
    whole = parameters(model) if target == "parameters" else operations(one)
    context = CalibrationContext(lambda: iter([{"x": images}]), run, None, None, 0)
    Svd(**{target: share}, by=by, convolutions="spatial").transform(model, context)
    left = parameters(model) if target == "parameters" else operations(one)
    assert 0.85 * share < left / whole <= share


class _Task:
    inputs = MappingProxyType({"x": ("batch",)})

    def outputs(self, model, batch):
        return {"logits": model(batch["x"])}


def test_sensitivity_spares_the_layer_that_the_logits_depend_on():
    torch.manual_seed(0)

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.loud, self.quiet = nn.Linear(16, 16), nn.Linear(16, 16)
            self.quiet.load_state_dict(self.loud.state_dict())

        def forward(self, x):
            return self.loud(x) + 0.01 * self.quiet(x)

    x = torch.randn(32, 16)
    context = CalibrationContext(lambda: iter([{"x": x}]), run, None, None, 0)
    ranks = {}
    for by in ("energy", "sensitivity"):
        done = Svd(parameters=0.7, by=by).transform(Two(), context)
        ranks[by] = {path: given["rank"] for path, given in done.change["layers"].items()}
    assert set(ranks["sensitivity"]) == {"quiet"}
    assert set(ranks["energy"]) == {"loud", "quiet"}


def test_logits_change_less_at_higher_rank():
    moved = []
    for energy in (0.3, 0.6, 0.8):
        one = subject("bert")
        before = one.logits()
        Svd(energy=energy, layers=["*intermediate*"]).transform(one.model, one.work)
        moved.append(float((one.logits() - before).norm()))
    assert moved == sorted(moved, reverse=True)
    assert moved[-1] > 0


class Mixed(nn.Module):
    """Every kind of layer that is left."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Linear(16, 16)
        self.tied, self.same = nn.Linear(16, 16), nn.Linear(16, 16)
        self.same.weight = self.tied.weight
        self.twice = self.again = nn.Linear(16, 16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.encoder = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.lstm = nn.LSTM(16, 16, batch_first=True)
        self.own = Doubled(16, 16)
        self.read = nn.Linear(16, 16)
        self.small = nn.Linear(16, 1)
        self.quantised = nn.Linear(16, 16)
        self.quantised.input_quantizer = nn.Identity()
        self.grouped = nn.Conv1d(16, 16, 3, padding=1, groups=2)

    def forward(self, x):
        x = self.same(self.tied(self.again(self.twice(self.fine(x)))))
        x = self.encoder(self.attention(x, x, x)[0])
        x = nn.functional.linear(self.own(self.lstm(x)[0]), self.read.weight)
        return self.small(self.quantised(self.grouped(x.transpose(1, 2)).transpose(1, 2)))


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def test_unsupported_layers_are_skipped_and_listed():
    torch.manual_seed(0)
    model, x = Mixed().eval(), torch.randn(2, 5, 16)
    context = CalibrationContext(lambda: iter([{"x": x}]), run, None, None, 0)
    done = Svd(energy=0.2).transform(model, context)
    assert set(done.change["layers"]) == {"fine"}
    model(x)
    assert model.tied.weight is model.same.weight
    assert model.twice is model.again
    for reason, paths in {
        "shares its weights": "tied, same, twice",
        "kernels read": "attention.out_proj, encoder.self_attn.out_proj, encoder.linear1",
        "may override": "own",
        "not called": "read",
        "not smaller": "small",
        "input is quantised": "quantised",
        "in groups": "grouped",
        "recurrent": "lstm",
    }.items():
        (note,) = [note for note in done.notes if reason in note]
        assert paths in note, note


def test_depthwise_and_pointwise_convolutions():
    one = subject("cnn")
    done = Svd(rank=2, convolutions="spatial").transform(one.model, one.work)
    assert {"stem.0", "wide.0"} < set(done.change["layers"])
    assert any("in groups" in note and "deep.0" in note for note in done.notes)
    assert any("1 × 1" in note and "deep.3" in note for note in done.notes)


class Masked(nn.Module):
    def forward(self, weight):
        return weight * (torch.arange(weight.shape[1]) % 2)


def test_masks_are_applied_before_factorising():
    one = subject("cnn")
    parametrize.register_parametrization(one.model.hidden, "weight", Masked())
    masked = one.model.hidden.weight.detach().clone()
    done = Svd(rank={"hidden": 7}).transform(one.model, one.work)
    (note,) = [note for note in done.notes if "masks" in note]
    assert "hidden" in note
    first, second = one.model.hidden
    tail = torch.linalg.svdvals(masked)[7:].norm()
    error = (second.weight @ first.weight - masked).norm().item()
    assert error == pytest.approx(float(tail), rel=1e-3)
    fresh = subject("cnn").model
    parametrize.register_parametrization(fresh.hidden, "weight", Masked())
    apply(fresh, [done.change])
    fresh.load_state_dict(one.model.state_dict())
    torch.testing.assert_close(one.logits(fresh), one.logits())


def test_a_model_that_reads_a_weight_is_left_whole():
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(16, 16)

        def forward(self, x):
            return self.first(x.to(self.first.weight.dtype))

    model = Reads()
    context = CalibrationContext(lambda: iter([{"x": torch.randn(2, 16)}]), run, None, None, 0)
    with pytest.raises(CompressError, match=r"first: .*'weight'.*skip"):
        Svd(rank=2).transform(model, context)
    assert isinstance(model.first, nn.Linear)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rank": 8}, "rank: got 8; allowed: at most 4 for head.* skip: \\[head\\]"),
        ({"rank": {"hidden": 17}}, "rank: got 17; allowed: at most 16 for hidden"),
        ({"rank": {"hiden": 2}}, "got 'hiden'.*did you mean \"hidden\""),
        ({"energy": 0.5, "layers": ["nothing.*"]}, "layers: got 'nothing"),
        ({"parameters": 0.05}, "parameters: got 0.05; allowed: at least 0\\.[0-9]+"),
        ({"flops": 0.05}, "flops: got 0.05; allowed: at least 0\\.[0-9]+"),
    ],
)
def test_invalid_settings_are_refused_by_check(given, message):
    one = subject("cnn")
    for step in (Svd(**given).check, Svd(**given).transform):
        with pytest.raises(InputError, match=message):
            step(one.model, one.work)


def test_the_smallest_target_in_the_error_can_be_met():
    one = subject("cnn")
    with pytest.raises(InputError) as caught:
        Svd(flops=0.05).check(one.model, one.work)
    least = float(str(caught.value).split("at least ")[1].split(",")[0])
    assert math.isclose(least, round(least, 3))
    Svd(flops=least).transform(one.model, one.work)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "exactly one of"),
        ({"rank": 2, "energy": 0.5}, "rank and energy"),
        ({"rank": 0}, "greater than or equal to 1"),
        ({"energy": 0}, "greater than 0"),
        ({"energy": 1.1}, "less than or equal to 1"),
        ({"flops": 1}, "less than 1"),
        ({"rank": 2, "by": "sensitivity"}, "needs parameters or flops"),
        ({"rank": {"a": 2}, "layers": ["a"]}, "leave layers out"),
    ],
)
def test_settings_that_contradict_are_refused(given, message):
    with pytest.raises(ValidationError, match=message):
        Svd(**given)


def test_an_energy_that_saves_nothing_is_refused_with_one_that_does():
    one = subject("lstm")
    with pytest.raises(
        CompressError, match=r"Set `energy` to at most 0\.\d+, or `parameters`"
    ) as found:
        Svd(energy=1.0, layers=["hidden"]).transform(one.model, one.work)
    energy = float(re.search(r"at most (0\.\d+)", str(found.value))[1])
    assert Svd(energy=energy, layers=["hidden"]).transform(one.model, one.work).change


def test_a_model_of_layers_that_no_rank_makes_smaller_is_refused_before_training():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    work = CalibrationContext(
        lambda: iter([{"x": torch.zeros(2, 2)}]), lambda m, b: m(b["x"]), None, None, 0
    )
    for settings in ({"energy": 0.5}, {"rank": 1}):
        with pytest.raises(CompressError, match=r"smaller.*Select larger layers"):
            Svd(**settings).check(model, work)


def test_nothing_to_gain_is_an_error():
    one = subject("lstm")
    with pytest.raises(CompressError, match=r"no layer would become smaller.*hidden"):
        Svd(energy=1.0).transform(one.model, one.work)
    with pytest.raises(CompressError, match=r"no layer would become smaller.*rank 9.*at most 8"):
        Svd(rank=9, layers=["hidden"]).check(one.model, one.work)
    cnn = subject("cnn")
    with pytest.raises(CompressError, match=r"no layer can be factorised.*in groups.*deep.0"):
        Svd(rank=1, layers=["deep.0"]).check(cnn.model, cnn.work)
    nothing = CalibrationContext(lambda: iter([]), run, None, None, 0)
    with pytest.raises(InputError, match="no batch"):
        Svd(rank=1).check(one.model, nothing)
    with torch.no_grad():
        one.model.hidden.weight[0, 0] = float("inf")
    with pytest.raises(CompressError, match=r"hidden: .*not finite"):
        Svd(rank=1).transform(one.model, one.work)
