import pytest
import torch
from torch import nn

from limbeck.errors import InputError
from limbeck.taps import Taps, expand, list_paths


@pytest.fixture
def stages():
    def stage():
        return nn.Sequential(nn.Linear(3, 3), nn.ModuleDict({"attention": nn.ReLU()}))

    return nn.ModuleDict({"stem": nn.ReLU(), "layer2": stage(), "layer1": stage()})


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("layer*", ["layer2", "layer1"]),  # as they are defined, and not what is inside
        ("layer?", ["layer2", "layer1"]),
        ("layer[2-9]", ["layer2"]),
        ("layer[!2]", ["layer1"]),
        ("layer*.0", ["layer2.0", "layer1.0"]),
        ("*.0", ["layer2.0", "layer1.0"]),
        ("**.attention", ["layer2.1.attention", "layer1.1.attention"]),
        ("layer1.**", ["layer1.0", "layer1.1", "layer1.1.attention"]),
        ("**", None),
        ("layer*:input", ["layer2:input", "layer1:input"]),
        ("layer[12]@0:output", ["layer2@0:output", "layer1@0:output"]),
        ("stem", ["stem"]),
        ("stem:input", ["stem:input"]),
    ],
)
def test_patterns_match_whole_paths(stages, pattern, expected):
    everything = [name for name, _ in stages.named_modules() if name]
    assert expand(stages, pattern) == (expected or everything)


def test_a_pattern_without_a_match_is_an_error(stages):
    with pytest.raises(InputError, match="a pattern that matches") as caught:
        expand(stages, "layr1*")
    assert '"layer1"' in caught.value.problems[0].fix
    with pytest.raises(InputError, match="got 'stages"):
        Taps(stages, ["stages.*"])


def test_all_unknown_paths_are_named_with_the_nearest():
    net = nn.ModuleDict({"layer1": nn.ReLU(), "layer2": nn.ReLU()})
    with pytest.raises(InputError) as caught:
        Taps(net, ["layr1", "layer2", "nowhere"])
    first, second = caught.value.problems
    assert first.given == "layr1"
    assert '"layer1"' in first.fix
    assert second.given == "nowhere"


def test_an_unknown_side_is_an_error(stages):
    with pytest.raises(InputError, match=r'layer1:output\. did you mean "input"'):
        Taps(stages, ["layer1:inputs"])


def test_names_that_look_like_a_suffix_are_names():
    net = nn.ModuleDict({"a:input": nn.ReLU(), "b@0": nn.ReLU(), "a": nn.Tanh()})
    x = torch.tensor([-1.0])
    with Taps(net, ["a:input", "b@0", "a:output"]) as taps:
        for part in net.values():
            part(x)
        captured = taps.take()
    assert captured["a:input"] == 0
    assert captured["b@0"] == 0
    assert captured["a:output"] == x.tanh()


def test_listing_shows_every_path_and_leaves_the_module_as_it_was(net, hooks):
    net.idle.eval()
    net.batch = nn.BatchNorm1d(3)
    before = {key: value.clone() for key, value in net.state_dict().items()}

    def run(module):
        module(module.batch(torch.randn(2, 3)))

    layers = {layer.path: layer for layer in list_paths(net, run)}
    assert layers["shared"][1:] == ("Linear", (2, 3), 12)
    assert layers["again"][1:] == ("Linear", (2, 3), 12)
    assert layers["pair"][1:] == ("Pair", (2, 3), 0)
    assert layers["idle"].shape is None
    assert hooks(net) == 0
    assert net.training
    assert not net.idle.training
    assert all(torch.equal(net.state_dict()[key], before[key]) for key in before)
