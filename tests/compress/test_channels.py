from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from four_nets import NETS, Subject, subject
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.utils import parametrize

pytest.importorskip("torch_pruning", reason="torch-pruning is an extra")

from limbeck.compress.channels import Channels as All
from limbeck.compress.method import CompressError, apply
from limbeck.compress.pruners import PRUNERS
from limbeck.compress.pruners.channels import Channels
from limbeck.compress.structure import cost, first_order, scores, squares, trainable_copy, weakest
from limbeck.errors import InputError
from limbeck.export.onnx import to_onnx
from limbeck.export.predictor import OnnxPredictor


def rebuilt(name: str, made: Subject, changes: list[Mapping]) -> Tensor:
    """Return the logits of a fresh model with the changes and the weights."""
    fresh = subject(name).model
    apply(fresh, json.loads(json.dumps(changes)))
    fresh.load_state_dict(made.model.state_dict())
    return made.logits(fresh)


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def test_is_registered():
    assert PRUNERS.load("channels") is Channels


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_shapes_shrink_and_a_fresh_model_gets_the_same_structure(name, scope):
    made = subject(name)
    before = shapes(made.model)
    method = Channels(ratio=0.5, scope=scope)
    method.check(made.model, made.work)
    changed = method.transform(made.model, made.work)
    after = shapes(made.model)
    assert before.keys() == after.keys()
    assert before != after
    assert all(
        torch.tensor(after[key]).le(torch.tensor(size)).all() for key, size in before.items()
    )
    assert made.logits().shape == (32, 4)
    assert made.logits().isfinite().all()
    assert torch.equal(rebuilt(name, made, [changed.change]), made.logits())


@pytest.mark.parametrize("name", NETS)
def test_prune_train_and_prune_again(name):
    made = subject(name)
    changes = [Channels(ratio=0.25).transform(made.model, made.work).change]
    first = sum(p.numel() for p in made.model.parameters())
    optimizer = torch.optim.SGD(made.model.parameters(), 0.1)
    made.model.train()
    for _ in range(2):
        optimizer.zero_grad()
        made.work.loss(made.model, made.batch).backward()
        optimizer.step()
    method = Channels(ratio=0.5, importance="taylor")
    changes.append(method.transform(made.model, made.work).change)
    assert sum(p.numel() for p in made.model.parameters()) < first
    assert torch.equal(rebuilt(name, made, changes), made.logits())


def test_half_of_each_layer_goes():
    made = subject("cnn")
    changed = Channels(ratio=0.5).transform(made.model, made.work)
    model = made.model
    assert [model.stem[0].out_channels, model.deep[0].groups, model.deep[3].out_channels] == [4] * 3
    assert (model.wide[0].out_channels, model.hidden.out_features) == (8, 12)
    assert model.head.weight.shape == (4, 12)
    assert "24 of 48 channels removed from 3 of 3 groups" in changed.what
    assert "2,108 to 656 parameters (31 %)" in changed.what
    assert changed.notes == ("skipped: head (it computes the model's output)",)


def test_the_smallest_hidden_units_of_bert_go():
    made = subject("bert")
    layer = made.model.bert.encoder.layer[0]
    unit = layer.intermediate.dense.weight.detach().square().sum(1)
    unit = unit + layer.output.dense.weight.detach().square().sum(0)
    kept = unit.argsort(descending=True)[:24].sort().values
    wanted = layer.intermediate.dense.weight.detach()[kept]
    Channels(ratio=0.25, layers=["*.0.intermediate.dense"]).transform(made.model, made.work)
    assert torch.equal(layer.intermediate.dense.weight, wanted)
    assert layer.output.dense.in_features == 24


def test_recurrent_layers_are_left_and_noted():
    made = subject("lstm")
    before = shapes(made.model)
    changed = Channels(ratio=0.5).transform(made.model, made.work)
    cut = {name for name, shape in shapes(made.model).items() if shape != before[name]}
    assert cut == {"hidden.weight", "hidden.bias", "head.weight"}
    assert "skipped: lstm (recurrent)" in changed.notes


def test_the_insides_of_attention_are_left_and_noted():
    made = subject("vit")
    changed = Channels(ratio=0.5).transform(made.model, made.work)
    assert made.model.blocks[0].attn.qkv.weight.shape == (48, 8)
    assert any("blocks.0.attn.qkv" in note and "heads" in note for note in changed.notes)


@pytest.mark.parametrize("name", ["cnn", "bert", "vit"])
@pytest.mark.parametrize("what", ["flops", "parameters"])
def test_a_target_is_met_and_hardly_passed(name, what):
    made = subject(name)
    before = getattr(cost(made.model, made.work), what)
    Channels(**{what: 0.6}, scope="global").transform(made.model, made.work)
    assert 0.4 * before < getattr(cost(made.model, made.work), what) <= 0.6 * before


def test_a_target_out_of_reach_names_the_least():
    made = subject("lstm")
    before = shapes(made.model)
    with pytest.raises(InputError, match=r"parameters: got 0.5; allowed: at least 0\.\d+"):
        Channels(parameters=0.5).transform(made.model, made.work)
    assert shapes(made.model) == before


def test_channels_are_rounded_up_to_a_multiple():
    made = subject("cnn")
    Channels(ratio=0.7, round_to=4).transform(made.model, made.work)
    assert made.model.hidden.out_features == 8  # 7 rounded
    assert made.model.wide[0].out_channels == 8  # 5 rounded
    assert made.model.stem[0].out_channels == 4  # 2 rounded


def test_skipped_layers_keep_their_outputs_with_all_that_is_tied():
    made = subject("cnn")
    changed = Channels(ratio=0.5, skip=["deep.3"]).transform(made.model, made.work)
    assert made.model.stem[0].out_channels == 8
    assert made.model.wide[0].out_channels == 8
    assert "skipped: stem.0, deep.0 (coupled to deep.3, which is skipped)" in changed.notes


def test_what_goes_along_is_noted():
    made = subject("cnn")
    changed = Channels(ratio=0.5, layers=["stem.0"]).transform(made.model, made.work)
    assert made.model.wide[0].out_channels == 16
    [note] = changed.notes
    assert note.startswith("also pruned")
    assert "deep.3" in note
    assert "deep.0" in note


def test_a_wished_layer_with_too_few_channels_is_noted():
    made = subject("cnn")
    changed = Channels(ratio=0.06, layers=["deep.3", "wide.0"]).transform(made.model, made.work)
    assert made.model.wide[0].out_channels == 15
    assert "skipped: deep.3 (the share of 8 channels rounds to none)" in changed.notes


def test_batch_norm_scales_choose():
    made = subject("cnn")
    scale = torch.linspace(2, 1, 16)
    with torch.no_grad():
        made.model.wide[1].weight.copy_(scale)
    changed = Channels(ratio=0.25, importance="bn_scale").transform(made.model, made.work)
    assert torch.equal(made.model.wide[1].weight, scale[:12])
    assert "skipped: hidden (no batch norm scales them)" in changed.notes


def test_random_follows_the_seed():
    made, again, other = subject("cnn"), subject("cnn"), subject("cnn")
    for one, seed in ((made, 0), (again, 0), (other, 1)):
        work = replace(one.work, seed=seed)
        Channels(ratio=0.5, importance="random").transform(one.model, work)
    assert torch.equal(made.logits(), again.logits())
    assert not torch.equal(made.logits(), other.logits())


def test_taylor_scores_are_the_products_with_the_gradient():
    made = subject("cnn")
    model = trainable_copy(made.model).double()
    batch = {**made.batch, "image": made.batch["image"].double()}
    halves = [
        {name: part[rows] for name, part in batch.items()} for rows in (slice(9), slice(9, 32))
    ]
    work = replace(made.work, batches=lambda: iter(halves))
    tied = All(model, work).groups["hidden"]
    found = scores(
        model, work, importance="taylor", parts={"hidden": 24}, total=lambda _, one: tied.total(one)
    )
    want = torch.zeros(24, dtype=torch.float64)
    for half in halves:
        model.zero_grad()
        made.work.loss(model, half).backward()
        hidden, head = model.hidden.weight, model.head.weight
        want += (hidden * hidden.grad).sum(1).abs() + (head * head.grad).sum(0).abs()
    assert torch.allclose(found["hidden"], want, rtol=1e-10, atol=0)
    assert all(
        key.shape == value.shape for one in first_order(model, work) for key, value in one.items()
    )


class Odd(nn.Module):
    """Convolutions in groups, transposed and concatenated, and a flattened map."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 12, 3, padding=1, groups=2)
        self.side = nn.Conv2d(8, 6, 1)
        self.up = nn.ConvTranspose2d(18, 10, 2, stride=2)
        self.norm = nn.BatchNorm2d(10)
        self.hidden = nn.Linear(10 * 4 * 4, 14)
        self.head = nn.Linear(14, 4)

    def forward(self, image: Tensor) -> Tensor:
        x = F.relu(self.first(F.avg_pool2d(image, 4)))
        x = F.relu(torch.cat([self.grouped(x), self.side(x)], 1))
        return self.head(F.relu(self.hidden(F.relu(self.norm(self.up(x))).flatten(1))))


def of_images(model: nn.Module) -> Subject:
    made = subject("cnn")
    return replace(made, model=model.eval())


def silence(model: nn.Module, layers: tuple[str, ...], channels: list[int]) -> None:
    """Set some output channels of layers to zero."""
    modules = dict(model.named_modules())
    for path in layers:
        layer = modules[path]
        weight = (
            layer.weight.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else layer.weight
        )
        weight[channels] = 0
        if layer.bias is not None:
            layer.bias[channels] = 0


@pytest.mark.parametrize("make", [lambda: subject("cnn").model, Odd], ids=["cnn", "odd"])
def test_removing_zero_channels_changes_no_logit(make):
    torch.manual_seed(1)
    made = of_images(make().double())
    made = replace(made, batch={**made.batch, "image": made.batch["image"].double()})
    model = trainable_copy(made.model)
    channels = All(model, made.work)
    norms = [one for one in model.modules() if isinstance(one, nn.BatchNorm2d)]
    gone = {
        path: [0, tied.parts // 2] for path, tied in channels.groups.items() if not tied.skip_reason
    }
    assert {"first", "grouped", "side", "up", "hidden"} <= gone.keys() or "deep.3" in gone
    with torch.no_grad():
        for path, parts in gone.items():
            tied = channels.groups[path]
            out = [part + block * tied.parts for part in parts for block in range(tied.blocks)]
            silence(model, tied.layers, out)
        for norm in norms:  # what stays silent behind a silent convolution
            norm.running_mean.zero_()
            norm.bias.zero_()
    logits = made.logits(model)
    assert not torch.allclose(logits, made.logits(), atol=1e-3)
    channels.remove(gone)
    assert torch.allclose(made.logits(model), logits, rtol=0, atol=1e-12)
    if make is Odd:
        assert model.grouped.weight.shape == (8, 2, 3, 3)


def test_zero_channels_are_removed_first_without_changing_logits():
    made = subject("cnn")
    dead = [1, 4, 6, 11]
    with torch.no_grad():
        silence(made.model, ("wide.0",), dead)
        for vector in (made.model.wide[1].bias, made.model.wide[1].running_mean):
            vector[dead] = 0
        made.model.hidden.weight[:, dead] *= 1e-3
    logits = made.logits()
    Channels(ratio=0.25, layers=["wide.0"]).transform(made.model, made.work)
    assert made.model.wide[0].out_channels == 12
    assert torch.allclose(made.logits(), logits, atol=1e-5)


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3 * 64, 100)
        self.norm = nn.LayerNorm(100)
        self.head = nn.Linear(100, 4)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(F.relu(self.norm(self.first(image.flatten(1)))))


def test_layer_norms_keep_the_order_of_channels():
    # Torch-Pruning 1.6 alone gives 96, 97, 98, 99, 90, 91, ...
    made = of_images(Normed())
    with torch.no_grad():
        made.model.norm.weight.copy_(torch.arange(100.0))
        made.model.first.weight[:90] *= 1e-3
    Channels(ratio=0.9).transform(made.model, made.work)
    assert made.model.norm.weight.tolist() == list(range(90, 100))
    assert made.model.norm.normalized_shape == (10,)


class Gated(nn.Module):
    """A GRU, which Torch-Pruning does not know, between linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Linear(24, 12)
        self.gru = nn.GRU(12, 12, batch_first=True)
        self.hidden = nn.Linear(12, 10)
        self.head = nn.Linear(10, 4)

    def forward(self, image: Tensor) -> Tensor:
        outputs, _ = self.gru(self.before(image.flatten(2).transpose(1, 2).reshape(-1, 8, 24)))
        return self.head(F.relu(self.hidden(outputs.mean(1))))


def test_what_torch_pruning_cannot_follow_is_left():
    made = of_images(Gated())
    changed = Channels(ratio=0.5).transform(made.model, made.work)
    assert made.model.before.out_features == 12
    assert made.model.hidden.out_features == 5
    assert any("skipped: before (Torch-Pruning cannot" in note for note in changed.notes)
    assert made.logits().shape == (32, 4)


class Fixed(Normed):
    """Code that counts on a size."""

    def forward(self, image: Tensor) -> Tensor:
        x = self.norm(self.first(image.flatten(1)))
        return self.head(F.relu(self.middle(x.view(-1, 100) * 2)))

    def __init__(self) -> None:
        super().__init__()
        self.middle = nn.Linear(100, 100)


def test_channels_without_which_the_model_fails_are_skipped():
    made = of_images(Fixed())
    changed = Channels(ratio=0.5).transform(made.model, made.work)
    assert made.model.first.out_features == 100
    assert made.model.middle.out_features == 50
    assert any("skipped: first (the model does not run without" in note for note in changed.notes)


def test_a_model_that_cannot_be_traced_is_an_error():
    made = of_images(Normed())

    def forward(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        raise TypeError("as from DPN's sums of slices")

    with pytest.raises(CompressError, match=r"cannot trace the model .TypeError: as from DPN"):
        Channels(ratio=0.5).check(made.model, replace(made.work, forward=forward))


def test_a_channel_shuffle_after_a_split_is_refused_with_alternatives():
    """As in torchvision's `shufflenet_v2_x0_5`: Torch-Pruning divides by zero."""

    class Shuffle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branch = nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            first, second = x.chunk(2, 1)
            both = torch.cat([first, self.branch(second)], 1)
            shuffled = both.view(len(x), 2, 4, *x.shape[2:]).transpose(1, 2).contiguous()
            return shuffled.view(x.shape)

    pool = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    net = nn.Sequential(
        nn.Conv2d(3, 8, 1), *(Shuffle() for _ in range(3)), nn.Conv2d(8, 8, 1), *pool
    )
    made = of_images(net)
    with pytest.raises(CompressError, match=r"cannot trace the model .*shuffle.*`magnitude`"):
        Channels(ratio=0.5).check(made.model, made.work)


def test_an_error_lists_why_no_channel_can_be_removed():
    made = of_images(Fixed())
    before = shapes(made.model)
    with pytest.raises(CompressError, match=r"first .the model does not run without"):
        Channels(ratio=0.5, layers=["first"]).transform(made.model, made.work)
    assert shapes(made.model) == before


@pytest.mark.parametrize("name", ["cnn", "bert"])
def test_the_exported_file_has_the_logits_of_the_model(name, tmp_path):
    made = subject(name)
    Channels(ratio=0.4).transform(made.model, made.work)
    to_onnx(made.model, made.task, made.batch, tmp_path / "model.onnx")
    found = OnnxPredictor(tmp_path / "model.onnx", threads=1).predict(made.batch)["logits"]
    assert torch.allclose(torch.from_numpy(found), made.logits(), atol=1e-5)


def test_a_single_output_layer_is_refused():
    made = subject("cnn")
    before = shapes(made.model)
    for method in (Channels(ratio=0.5, layers=["head"]), Channels(ratio=0.01)):
        with pytest.raises(CompressError, match=r"head: |head \(it computes|hidden: 24"):
            method.transform(made.model, made.work)
    assert shapes(made.model) == before


def test_masked_weights_are_refused():
    made = subject("cnn")
    parametrize.register_parametrization(made.model.hidden, "weight", nn.Identity())
    with pytest.raises(InputError, match=r"quantised hidden.*Prune channels and heads before"):
        Channels(ratio=0.5).check(made.model, made.work)


def test_a_ratio_that_removes_no_channel_is_refused_before_training():
    made = subject("cnn")
    with pytest.raises(
        InputError, match=r"ratio: got 0.01; allowed: at least 0\.\d+: below"
    ) as found:
        Channels(ratio=0.01).check(made.model, made.work)
    least = float(re.search(r"at least (0\.\d+)", str(found.value))[1])
    assert Channels(ratio=least).transform(made.model, made.work).change
    with pytest.raises(InputError, match=r"round_to: got 64; allowed: a number below"):
        Channels(ratio=0.9, round_to=64).check(made.model, made.work)


def test_bad_settings():
    made = subject("bert")
    for wrong in (
        {},
        {"ratio": 0.5, "flops": 0.5},
        {"ratio": 1.0},
        {"flops": 0},
        {"ratio": 0.5, "x": 1},
    ):
        with pytest.raises(ValidationError):
            Channels(**wrong)
    with pytest.raises(InputError, match=r"bn_scale.*no batch norm"):
        Channels(ratio=0.5, importance="bn_scale").check(made.model, made.work)
    with pytest.raises(InputError, match=r'clasifier.*did you mean "classifier"'):
        Channels(ratio=0.5, layers=["clasifier"]).check(made.model, made.work)


def test_weights_that_are_not_finite_are_refused():
    made = subject("cnn")
    with torch.no_grad():
        made.model.hidden.weight[0, 0] = float("nan")
    with pytest.raises(CompressError, match="not finite"):
        Channels(ratio=0.5).transform(made.model, made.work)


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    ratio=st.floats(0.01, 0.99),
    scope=st.sampled_from(["layer", "global"]),
    step=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_the_weakest_are_the_weakest(sizes, ratio, scope, step, seed):
    draw = torch.Generator().manual_seed(seed)
    found = {str(place): torch.rand(size, generator=draw) for place, size in enumerate(sizes)}
    gone = weakest(found, ratio, scope=scope, steps=dict.fromkeys(found, step))
    for path, places in gone.items():
        kept = [place for place in range(len(found[path])) if place not in places]
        assert kept
        assert len(kept) % step == 0
        assert found[path][places].max() <= found[path][kept].min()
    more = weakest(found, min(ratio + 0.2, 1), scope=scope, steps=dict.fromkeys(found, step))
    assert all(set(places) <= set(more[path]) for path, places in gone.items())
    if scope == "global" and step == 1:
        count = min(int(ratio * sum(sizes) + 0.5), sum(sizes) - len(sizes))
        assert sum(map(len, gone.values())) == count


def test_squares_are_of_the_weights():
    layer = nn.Linear(3, 2)
    assert torch.equal(squares(layer)[layer.weight], layer.weight.detach() ** 2)
