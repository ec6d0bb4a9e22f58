import pytest
import torch
from torch import nn

from limbeck.connectors import Connector, connect
from limbeck.core.imports import available
from limbeck.errors import InputError

JOINED = [
    ((2, 8, 4, 4), (2, 16, 4, 4)),  # channels
    ((2, 8, 8, 8), (2, 8, 4, 4)),  # a larger map
    ((2, 8, 4, 4), (2, 16, 8, 8)),  # a smaller map, and channels
    ((2, 8, 8, 2), (2, 16, 4, 4)),  # larger one way, smaller the other
    ((2, 8), (2, 16)),
    ((2, 5, 8), (2, 5, 16)),
    ((2, 7, 8), (2, 12, 16)),  # shorter sequences
    ((2, 12, 8), (2, 7, 8)),  # longer ones
    ((2, 49, 8), (2, 16, 7, 7)),  # tokens to a map
    ((2, 50, 8), (2, 16, 7, 7)),  # with a class token
    ((2, 198, 8), (2, 16, 7, 7)),  # and one of distillation; a larger grid
    ((2, 21, 8), (2, 16, 8, 8)),  # with five tokens before it; a smaller grid
    ((2, 18, 8), (2, 16, 6, 12)),  # a grid that is no square
    ((2, 8, 7, 7), (2, 50, 16)),  # a map to tokens with a class token
    ((2, 8, 7, 7), (2, 196, 16)),  # without
    ((2, 8, 3, 6), (2, 18, 16)),
    ((2, 197, 8), (2, 50, 16)),  # two grids, each with a class token
    ((2, 196, 8), (2, 50, 16)),  # only the teacher has one
    ((2, 197, 8), (2, 49, 8)),  # only the student has one
    ((2, 197, 8), (2, 54, 8)),  # the teacher has registers beside it
    ((2, 8, 4, 4), (2, 16)),  # a map to a vector
    ((2, 8), (2, 16, 1, 1)),
    ((2, 7, 7, 96), (2, 512, 7, 7)),  # channels last, as Swin has them
    ((2, 16, 14, 14), (2, 7, 7, 96)),
    ((2, 14, 14, 32), (2, 7, 7, 96)),
    ((2, 14, 14, 32), (2, 50, 96)),
]


@pytest.mark.parametrize(("student", "teacher"), JOINED)
def test_features_reach_the_teachers_shape(student, teacher):
    join = connect(torch.randn(student), torch.randn(teacher))
    batch = torch.randn(3, *student[1:], requires_grad=True)
    reached = join(batch)
    assert reached.shape == (3, *teacher[1:])
    reached.sum().backward()
    assert batch.grad.abs().sum() > 0
    assert all(parameter.grad is not None for parameter in join.parameters())


@pytest.mark.parametrize("shape", [(2, 8), (2, 5, 8), (2, 8, 4, 4), (2, 7, 7, 8)])
def test_equal_shapes_are_left_alone(shape):
    join = connect(torch.randn(shape), torch.randn(shape))
    assert isinstance(join, nn.Identity)


def test_only_channels_that_differ_get_parameters():
    join = connect(torch.zeros(2, 8, 8, 8), torch.zeros(2, 8, 4, 4))
    assert not list(join.parameters())
    join = connect(torch.zeros(2, 8, 8, 8), torch.zeros(2, 16, 4, 4))
    assert sum(p.numel() for p in join.parameters()) == 8 * 16 + 16
    join = connect(torch.zeros(2, 50, 8), torch.zeros(2, 8, 4, 4))
    assert not list(join.parameters())


def test_smaller_maps_are_interpolated_and_larger_ones_averaged():
    ramp = torch.arange(16.0).reshape(1, 1, 4, 4)
    down = connect(ramp, torch.zeros(1, 1, 2, 2))
    assert torch.equal(down(ramp), nn.functional.avg_pool2d(ramp, 2))
    up = connect(torch.zeros(1, 1, 2, 2), ramp)
    assert up(torch.ones(1, 1, 2, 2)).equal(torch.ones(1, 1, 4, 4))


def test_sequences_are_resized_along_their_tokens_only():
    short = torch.stack([torch.arange(3.0), -torch.arange(3.0)], dim=-1)[None]
    longer = connect(short, torch.zeros(1, 6, 2))(short)
    expected = torch.tensor([0.0, 0.25, 0.75, 1.25, 1.75, 2.0])
    assert torch.allclose(longer, torch.stack([expected, -expected], dim=-1)[None])
    halved = connect(torch.zeros(1, 6, 2), short)(longer)
    assert torch.allclose(halved[0, :, 0], expected.reshape(3, 2).mean(1))


def test_tokens_lie_on_the_map_row_by_row_and_the_class_token_is_dropped():
    maps = torch.randn(2, 8, 3, 3)
    tokens = torch.cat([torch.full((2, 1, 8), 1e6), maps.flatten(2).transpose(1, 2)], dim=1)
    assert torch.equal(connect(tokens, maps)(tokens), maps)
    rows = torch.randn(2, 8, 2, 4)
    assert torch.equal(connect(rows.flatten(2).transpose(1, 2), rows)(_tokens(rows)), rows)


def test_a_map_becomes_tokens_and_its_mean_stands_for_the_class_token():
    maps = torch.randn(2, 8, 3, 3)
    assert torch.equal(connect(maps, torch.zeros(2, 9, 8))(maps), _tokens(maps))
    join = connect(maps, torch.zeros(2, 10, 8))
    reached = join(maps)
    assert torch.equal(reached[:, 1:], _tokens(maps))
    assert torch.allclose(reached[:, 0], join.leading(maps.mean((2, 3))))


def test_class_tokens_go_to_class_tokens_and_grids_to_grids():
    tokens = torch.randn(2, 37, 8)
    reached = connect(tokens, torch.zeros(2, 10, 8))(tokens)
    assert torch.equal(reached[:, 0], tokens[:, 0])
    maps = tokens[:, 1:].transpose(1, 2).reshape(2, 8, 6, 6)
    assert torch.allclose(reached[:, 1:], _tokens(nn.functional.avg_pool2d(maps, 2)))


def _tokens(maps):
    return maps.flatten(2).transpose(1, 2)


def test_channels_last_is_told_from_a_map_by_the_other_map():
    wide = torch.zeros(2, 64, 64, 128)  # 64 channels of 64 rows and 128 columns
    assert connect(wide, torch.zeros(2, 8, 32, 64)).ours.grid == (64, 128)
    assert connect(wide, torch.zeros(2, 8, 32, 32)).ours.grid == (64, 64)


def test_sizes_and_lengths_may_change_from_batch_to_batch():
    states = connect(torch.zeros(2, 16, 8), torch.zeros(2, 16, 4))
    assert states(torch.zeros(3, 11, 8)).shape == (3, 11, 4)
    maps = connect(torch.zeros(2, 8, 4, 4), torch.zeros(2, 4, 8, 8))
    assert maps(torch.zeros(3, 8, 6, 6), like=torch.zeros(3, 4, 12, 12)).shape == (3, 4, 12, 12)
    tokens = connect(torch.zeros(2, 197, 8), torch.zeros(2, 4, 7, 7))
    assert tokens(torch.zeros(3, 257, 8), like=torch.zeros(3, 4, 8, 8)).shape == (3, 4, 8, 8)
    with pytest.raises(InputError, match="1 tokens and a grid"):
        tokens(torch.zeros(3, 200, 8))
    with pytest.raises(InputError, match="as in the probe"):
        maps(torch.zeros(3, 5, 4, 4))


def test_channels_can_be_joined_alone():
    join = connect(torch.zeros(2, 8, 4, 4), torch.zeros(2, 16, 8, 8), size=False)
    assert join(torch.zeros(3, 8, 5, 5), like=torch.zeros(3, 16, 9, 9)).shape == (3, 16, 5, 5)
    same = connect(torch.zeros(2, 8, 4, 4), torch.zeros(2, 8, 8, 8), size=False)
    assert isinstance(same, nn.Identity)


def test_a_seed_decides_the_weights():
    def made():
        torch.manual_seed(3)
        return connect(torch.zeros(2, 8), torch.zeros(2, 4)).state_dict()

    first, second = made(), made()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_features_are_joined_in_float32(half):
    join = connect(torch.zeros(2, 8, 4, 4, dtype=half), torch.zeros(2, 4, 8, 8))
    assert {parameter.dtype for parameter in join.parameters()} == {torch.float32}
    assert join(torch.zeros(2, 8, 4, 4, dtype=half)).dtype == torch.float32


def test_autocast_does_not_make_connectors_overflow():
    join = connect(torch.zeros(2, 64), torch.zeros(2, 4))
    nn.init.constant_(join.project.weight, 100.0)
    with torch.autocast("cpu", dtype=torch.float16):
        reached = join(torch.full((2, 64), 1e4))
    assert reached.dtype == torch.float32
    assert reached.isfinite().all()


def test_float64_stays_float64():
    join = connect(torch.zeros(2, 8).double(), torch.zeros(2, 4).double())
    assert join(torch.zeros(2, 8).double()).dtype == torch.float64


@pytest.mark.parametrize(
    ("student", "teacher", "reason"),
    [
        ((2, 8), (2, 8, 4, 4), "a vector has no places"),
        ((2, 8), (2, 5, 8), "what follows the pooling"),
        ((2, 5, 8), (2, 8), "what follows the pooling"),
        ((2, 7, 8), (2, 8, 4, 4), "7 tokens are no grid"),
        ((2, 8, 4, 4), (2, 7, 8), "7 tokens are no grid"),
        ((2, 8), (3, 8), "one batch"),
        ((2,), (2,), r"only \[n, d\]"),
        ((2, 8, 4, 4, 4), (2, 8, 4, 4), r"only \[n, d\]"),
        ((2, 8, 0, 4), (2, 8, 4, 4), "nothing that is empty"),
    ],
)
def test_what_cannot_be_joined_says_why(student, teacher, reason):
    with pytest.raises(InputError, match=reason):
        connect(torch.zeros(student), torch.zeros(teacher))


def test_whole_numbers_cannot_be_joined():
    with pytest.raises(InputError, match="floating-point"):
        connect(torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 3))


@pytest.mark.skipif(not available("timm"), reason="timm is not installed")
@pytest.mark.parametrize(
    ("student", "theirs"),
    [
        (("vit_tiny_patch16_224", "blocks.2"), ("resnet18", "layer4")),
        (("resnet18", "layer3"), ("vit_tiny_patch16_224", "blocks.2")),
        (("vit_tiny_patch16_224", "blocks.2"), ("deit_tiny_distilled_patch16_224", "blocks.3")),
        (("vit_tiny_patch16_224", "blocks.0"), ("swin_tiny_patch4_window7_224", "layers.1")),
        (("swin_tiny_patch4_window7_224", "layers.0"), ("resnet18", "layer2")),
    ],
)
def test_models_of_timm_are_joined(student, theirs):
    features, reference = (_tapped_of_timm(*side) for side in (student, theirs))
    join = connect(features.detach(), reference)
    assert isinstance(join, Connector)
    reached = join(features)
    assert reached.shape == reference.shape
    (gradient,) = torch.autograd.grad(reached.square().mean(), features)
    assert gradient.abs().sum() > 0


def _tapped_of_timm(name, path):
    import timm

    from limbeck.taps import Taps

    net = timm.create_model(name, pretrained=False, num_classes=2)
    with Taps(net, [path]) as taps:
        net(torch.randn(2, 3, 224, 224))
        return taps.take()[path]


@pytest.mark.skipif(not available("transformers"), reason="transformers is not installed")
def test_hidden_states_of_transformers_are_joined():
    from transformers import BertConfig, BertModel

    from limbeck.objective.methods.layer_maps import layer_map, paths
    from limbeck.taps import Taps

    def bert(width, layers):
        heads = {"num_attention_heads": 2, "intermediate_size": 2 * width}
        config = BertConfig(vocab_size=50, hidden_size=width, num_hidden_layers=layers, **heads)
        return BertModel(config)

    small, large = bert(16, 2), bert(24, 4)
    pairs = paths(layer_map(2, 4, "tinybert"), *["encoder.layer.{}"] * 2)
    ours, theirs = zip(*pairs, strict=True)

    def states(tokens):
        with Taps(small, ours) as own, Taps(large, theirs) as other:
            small(tokens)
            large(tokens)
            return list(own.take().values()), list(other.take().values())

    joins = [
        connect(*both) for both in zip(*states(torch.ones(2, 6, dtype=torch.long)), strict=True)
    ]
    # A text of another length.
    for join, mine, reference in zip(
        joins, *states(torch.ones(3, 9, dtype=torch.long)), strict=True
    ):
        assert join(mine).shape == reference.shape == (3, 9, 24)
