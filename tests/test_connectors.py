import pytest
import torch
from torch import nn

from limbeck.connectors import connect
from limbeck.errors import InputError

JOINED = [
    ((2, 8, 4, 4), (2, 16, 4, 4)),  # channels
    ((2, 8, 8, 8), (2, 8, 4, 4)),  # a larger map
    ((2, 8, 4, 4), (2, 16, 8, 8)),  # a smaller map, and channels
    ((2, 8, 8, 2), (2, 16, 4, 4)),  # larger one way, smaller the other
    ((2, 8), (2, 16)),
    ((2, 5, 8), (2, 5, 16)),
]


@pytest.mark.parametrize(("student", "teacher"), JOINED)
def test_features_reach_the_teachers_shape(student, teacher):
    join = connect(torch.randn(student), torch.randn(teacher))
    batch = torch.randn(3, *student[1:], requires_grad=True)
    reached = join(batch)
    assert reached.shape == (3, *teacher[1:])
    reached.sum().backward()
    assert batch.grad.abs().sum() > 0


@pytest.mark.parametrize("shape", [(2, 8), (2, 5, 8), (2, 8, 4, 4)])
def test_equal_shapes_are_left_alone(shape):
    join = connect(torch.randn(shape), torch.randn(shape))
    assert isinstance(join, nn.Identity)


def test_only_channels_that_differ_get_parameters():
    join = connect(torch.zeros(2, 8, 8, 8), torch.zeros(2, 8, 4, 4))
    assert not list(join.parameters())
    join = connect(torch.zeros(2, 8, 8, 8), torch.zeros(2, 16, 4, 4))
    assert sum(p.numel() for p in join.parameters()) == 8 * 16 + 16


def test_smaller_maps_are_interpolated_and_larger_ones_averaged():
    ramp = torch.arange(16.0).reshape(1, 1, 4, 4)
    down = connect(ramp, torch.zeros(1, 1, 2, 2))
    assert torch.equal(down(ramp), nn.functional.avg_pool2d(ramp, 2))
    up = connect(torch.zeros(1, 1, 2, 2), ramp)
    assert up(torch.ones(1, 1, 2, 2)).equal(torch.ones(1, 1, 4, 4))


def test_a_seed_decides_the_weights():
    def made():
        torch.manual_seed(3)
        return connect(torch.zeros(2, 8), torch.zeros(2, 4)).state_dict()

    first, second = made(), made()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_half_precision_features_are_joined_in_float32():
    join = connect(torch.zeros(2, 8, 4, 4), torch.zeros(2, 4, 8, 8))
    assert join(torch.zeros(2, 8, 4, 4, dtype=torch.bfloat16)).dtype == torch.float32


@pytest.mark.parametrize(
    ("student", "teacher", "reason"),
    [
        ((2, 8), (2, 8, 4, 4), "layers of one kind"),
        ((2, 5, 8), (2, 6, 8), "different numbers of tokens"),
        ((2, 8), (3, 8), "one batch"),
        ((2,), (2,), r"only \[n, d\]"),
    ],
)
def test_what_cannot_be_joined_says_why(student, teacher, reason):
    with pytest.raises(InputError, match=reason):
        connect(torch.zeros(student), torch.zeros(teacher))


def test_whole_numbers_cannot_be_joined():
    with pytest.raises(InputError, match="floating-point"):
        connect(torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 3))
