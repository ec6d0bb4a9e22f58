import pytest
import torch
from torch import nn

from limbeck.connectors import Connector, connect
from limbeck.core.imports import available
from limbeck.errors import InputError

SHAPES = [
    ((2, 8, 4, 4), (2, 16, 4, 4)),  # channels
    ((2, 8, 8, 8), (2, 8, 4, 4)),  # a larger map
    ((2, 8, 4, 4), (2, 16, 8, 8)),  # a smaller map, and channels
    ((2, 8, 8, 2), (2, 16, 4, 4)),  # larger in height, smaller in width
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
    ((2, 197, 8), (2, 54, 8)),  # the teacher also has registers
    ((2, 8, 4, 4), (2, 16)),  # a map to a vector
    ((2, 8), (2, 16, 1, 1)),
    ((2, 7, 7, 96), (2, 512, 7, 7)),  # channels last, as in Swin
    ((2, 16, 14, 14), (2, 7, 7, 96)),
    ((2, 14, 14, 32), (2, 7, 7, 96)),
    ((2, 14, 14, 32), (2, 50, 96)),
]


@pytest.mark.parametrize(("student", "teacher"), SHAPES)
def test_features_are_mapped_to_the_teachers_shape(student, teacher):
    connector = connect(torch.randn(student), torch.randn(teacher))
    batch = torch.randn(3, *student[1:], requires_grad=True)
    output = connector(batch)
    assert output.shape == (3, *teacher[1:])
    output.sum().backward()
    assert batch.grad.abs().sum() > 0
    assert all(parameter.grad is not None for parameter in connector.parameters())


@pytest.mark.parametrize("shape", [(2, 8), (2, 5, 8), (2, 8, 4, 4), (2, 7, 7, 8)])
def test_equal_shapes_need_no_connector(shape):
    connector = connect(torch.randn(shape), torch.randn(shape))
    assert isinstance(connector, nn.Identity)


def test_only_different_channels_have_parameters():
    connector = connect(torch.zeros(2, 8, 8, 8), torch.zeros(2, 8, 4, 4))
    assert not list(connector.parameters())
    connector = connect(torch.zeros(2, 8, 8, 8), torch.zeros(2, 16, 4, 4))
    assert sum(p.numel() for p in connector.parameters()) == 8 * 16 + 16
    connector = connect(torch.zeros(2, 50, 8), torch.zeros(2, 8, 4, 4))
    assert not list(connector.parameters())


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


def test_tokens_are_mapped_row_by_row_without_the_class_token():
    maps = torch.randn(2, 8, 3, 3)
    tokens = torch.cat([torch.full((2, 1, 8), 1e6), maps.flatten(2).transpose(1, 2)], dim=1)
    assert torch.equal(connect(tokens, maps)(tokens), maps)
    rows = torch.randn(2, 8, 2, 4)
    assert torch.equal(connect(rows.flatten(2).transpose(1, 2), rows)(_tokens(rows)), rows)


def test_a_map_is_mapped_to_tokens_and_its_mean_to_the_class_token():
    maps = torch.randn(2, 8, 3, 3)
    assert torch.equal(connect(maps, torch.zeros(2, 9, 8))(maps), _tokens(maps))
    connector = connect(maps, torch.zeros(2, 10, 8))
    output = connector(maps)
    assert torch.equal(output[:, 1:], _tokens(maps))
    assert torch.allclose(output[:, 0], connector.leading(maps.mean((2, 3))))


def test_class_tokens_are_mapped_to_class_tokens_and_grids_to_grids():
    tokens = torch.randn(2, 37, 8)
    output = connect(tokens, torch.zeros(2, 10, 8))(tokens)
    assert torch.equal(output[:, 0], tokens[:, 0])
    maps = tokens[:, 1:].transpose(1, 2).reshape(2, 8, 6, 6)
    assert torch.allclose(output[:, 1:], _tokens(nn.functional.avg_pool2d(maps, 2)))


def _tokens(maps):
    return maps.flatten(2).transpose(1, 2)


def test_channels_last_is_inferred_from_the_other_map():
    wide = torch.zeros(2, 64, 64, 128)  # 64 channels of 64 rows and 128 columns
    assert connect(wide, torch.zeros(2, 8, 32, 64)).student.grid == (64, 128)
    assert connect(wide, torch.zeros(2, 8, 32, 32)).student.grid == (64, 64)


def test_sizes_and_lengths_may_change_from_batch_to_batch():
    states = connect(torch.zeros(2, 16, 8), torch.zeros(2, 16, 4))
    assert states(torch.zeros(3, 11, 8)).shape == (3, 11, 4)
    maps = connect(torch.zeros(2, 8, 4, 4), torch.zeros(2, 4, 8, 8))
    assert maps(torch.zeros(3, 8, 6, 6), like=torch.zeros(3, 4, 12, 12)).shape == (3, 4, 12, 12)
    tokens = connect(torch.zeros(2, 197, 8), torch.zeros(2, 4, 7, 7))
    assert tokens(torch.zeros(3, 257, 8), like=torch.zeros(3, 4, 8, 8)).shape == (3, 4, 8, 8)
    with pytest.raises(InputError, match="1 tokens and a grid"):
        tokens(torch.zeros(3, 200, 8))
    with pytest.raises(InputError, match="as in the example batch"):
        maps(torch.zeros(3, 5, 4, 4))


def test_channels_without_sizes():
    connector = connect(torch.zeros(2, 8, 4, 4), torch.zeros(2, 16, 8, 8), size=False)
    assert connector(torch.zeros(3, 8, 5, 5), like=torch.zeros(3, 16, 9, 9)).shape == (3, 16, 5, 5)
    same = connect(torch.zeros(2, 8, 4, 4), torch.zeros(2, 8, 8, 8), size=False)
    assert isinstance(same, nn.Identity)


def test_weights_are_reproducible():
    def weights():
        torch.manual_seed(3)
        return connect(torch.zeros(2, 8), torch.zeros(2, 4)).state_dict()

    first, second = weights(), weights()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(half):
    connector = connect(torch.zeros(2, 8, 4, 4, dtype=half), torch.zeros(2, 4, 8, 8))
    assert {parameter.dtype for parameter in connector.parameters()} == {torch.float32}
    assert connector(torch.zeros(2, 8, 4, 4, dtype=half)).dtype == torch.float32


def test_autocast_does_not_make_learnedoverflow():
    connector = connect(torch.zeros(2, 64), torch.zeros(2, 4))
    nn.init.constant_(connector.project.weight, 100.0)
    with torch.autocast("cpu", dtype=torch.float16):
        output = connector(torch.full((2, 64), 1e4))
    assert output.dtype == torch.float32
    assert output.isfinite().all()


def test_float64_stays_float64():
    connector = connect(torch.zeros(2, 8).double(), torch.zeros(2, 4).double())
    assert connector(torch.zeros(2, 8).double()).dtype == torch.float64


@pytest.mark.parametrize(
    ("student", "teacher", "reason"),
    [
        ((2, 8), (2, 8, 4, 4), "a vector has no positions"),
        ((2, 8), (2, 5, 8), "the layer after the pooling"),
        ((2, 5, 8), (2, 8), "the layer after the pooling"),
        ((2, 7, 8), (2, 8, 4, 4), "7 tokens are no grid"),
        ((2, 8, 4, 4), (2, 7, 8), "7 tokens are no grid"),
        ((2, 8), (3, 8), "one batch"),
        ((2,), (2,), r"only \[n, d\]"),
        ((2, 8, 4, 4, 4), (2, 8, 4, 4), r"only \[n, d\]"),
        ((2, 8, 0, 4), (2, 8, 4, 4), "without empty dimensions"),
    ],
)
def test_unsupported_features_raise(student, teacher, reason):
    with pytest.raises(InputError, match=reason):
        connect(torch.zeros(student), torch.zeros(teacher))


def test_integer_features_raise():
    with pytest.raises(InputError, match="floating-point"):
        connect(torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 3))


@pytest.mark.skipif(not available("timm"), reason="timm is not installed")
@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        (("vit_tiny_patch16_224", "blocks.2"), ("resnet18", "layer4")),
        (("resnet18", "layer3"), ("vit_tiny_patch16_224", "blocks.2")),
        (("vit_tiny_patch16_224", "blocks.2"), ("deit_tiny_distilled_patch16_224", "blocks.3")),
        (("vit_tiny_patch16_224", "blocks.0"), ("swin_tiny_patch4_window7_224", "layers.1")),
        (("swin_tiny_patch4_window7_224", "layers.0"), ("resnet18", "layer2")),
    ],
)
def test_features_of_timm_models(student, teacher):
    features, reference = (_tapped_of_timm(*side) for side in (student, teacher))
    connector = connect(features.detach(), reference)
    assert isinstance(connector, Connector)
    output = connector(features)
    assert output.shape == reference.shape
    (gradient,) = torch.autograd.grad(output.square().mean(), features)
    assert gradient.abs().sum() > 0


def _tapped_of_timm(name, path):
    import timm

    from limbeck.taps import Taps

    net = timm.create_model(name, pretrained=False, num_classes=2)
    with Taps(net, [path]) as taps:
        net(torch.randn(2, 3, 224, 224))
        return taps.take()[path]


@pytest.mark.skipif(not available("transformers"), reason="transformers is not installed")
def test_hidden_states_of_transformers():
    from transformers import BertConfig, BertModel

    from limbeck.objective.methods.layer_maps import layer_map, paths
    from limbeck.taps import Taps

    def bert(width, layers):
        heads = {"num_attention_heads": 2, "intermediate_size": 2 * width}
        config = BertConfig(vocab_size=50, hidden_size=width, num_hidden_layers=layers, **heads)
        return BertModel(config)

    small, large = bert(16, 2), bert(24, 4)
    pairs = paths(layer_map(2, 4, "tinybert"), *["encoder.layer.{}"] * 2)
    student_paths, teacher_paths = zip(*pairs, strict=True)

    def states(tokens):
        with Taps(small, student_paths) as student, Taps(large, teacher_paths) as teacher:
            small(tokens)
            large(tokens)
            return list(student.take().values()), list(teacher.take().values())

    learned = [
        connect(*both) for both in zip(*states(torch.ones(2, 6, dtype=torch.long)), strict=True)
    ]
    # A text of another length.
    for connector, hidden, reference in zip(
        learned, *states(torch.ones(3, 9, dtype=torch.long)), strict=True
    ):
        assert connector(hidden).shape == reference.shape == (3, 9, 24)
