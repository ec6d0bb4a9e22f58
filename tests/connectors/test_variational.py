import math

import pytest
import torch

from limbeck.connectors.variational import build
from limbeck.errors import InputError
from limbeck.losses import variational_information

SHAPES = [
    ((3, 8, 4, 4), (3, 16, 4, 4), (3, 16, 4, 4)),
    ((3, 8, 8, 8), (3, 16, 4, 4), (3, 16, 4, 4)),  # the larger map is averaged down
    ((3, 8, 4, 4), (3, 16, 8, 8), (3, 16, 4, 4)),
    ((3, 8, 8, 2), (3, 16, 4, 4), (3, 16, 4, 2)),
    ((3, 8), (3, 16), (3, 16)),
    ((3, 5, 8), (3, 5, 16), (3, 5, 16)),
]


@pytest.mark.parametrize(("student_shape", "teacher_shape", "expected"), SHAPES)
def test_the_prediction_has_the_teachers_channels_at_the_smaller_size(
    student_shape, teacher_shape, expected
):
    student = torch.randn(student_shape, requires_grad=True)
    connector = build(student.detach(), torch.randn(teacher_shape))
    output = connector(student, torch.randn(teacher_shape), {})
    assert output.student.shape == output.teacher.shape == expected
    value = variational_information(output.student, output.teacher, **output.arguments)
    value.sum().backward()
    assert student.grad.abs().sum() > 0
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in connector.parameters())
    assert output.aux_loss is None


def test_the_variance_starts_at_five_and_stays_above_zero():
    connector = build(torch.zeros(2, 3), torch.zeros(2, 4))
    torch.testing.assert_close(connector.variance, torch.full((4,), 5.0))
    with torch.no_grad():
        connector.scale.fill_(-1e4)
    assert (connector.variance >= 0.99e-5).all()
    with torch.no_grad():
        connector.scale.fill_(1.0)
    torch.testing.assert_close(connector.variance, torch.full((4,), math.log1p(math.e) + 1e-5))


def test_the_regressor_has_three_layers_without_bias():
    connector = build(torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 4, 4))
    shapes = sorted(tuple(p.shape) for p in connector.regress.parameters())
    assert shapes == [(5, 3, 1, 1), (5, 5, 1, 1), (5, 5, 1, 1)]


def test_it_learns_mean_and_variance():
    torch.manual_seed(0)
    student = torch.randn(256, 4)
    teacher = torch.stack([student[:, 0].relu(), 2 * torch.randn(256)], dim=1)
    connector = build(student, teacher)
    optimizer = torch.optim.Adam(connector.parameters(), lr=0.03)
    for _ in range(400):
        output = connector(student, teacher, {})
        value = variational_information(output.student, output.teacher, **output.arguments).mean()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    known, unknown = connector.variance.tolist()
    assert known < 0.2
    assert 2 < unknown < 5


def test_half_precision_is_computed_in_float32():
    connector = build(torch.zeros(2, 3), torch.zeros(2, 4))
    half = torch.ones(2, 3, dtype=torch.bfloat16)
    assert connector(half, torch.zeros(2, 4), {}).student.dtype == torch.float32


def test_an_empty_batch_has_no_values():
    connector = build(torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 2, 2))
    output = connector(torch.zeros(0, 3, 4, 4), torch.zeros(0, 5, 2, 2), {})
    value = variational_information(output.student, output.teacher, **output.arguments)
    assert value.shape == (0,)


def test_weights_are_reproducible():
    def weights():
        torch.manual_seed(3)
        return build(torch.zeros(2, 8), torch.zeros(2, 4)).state_dict()

    first, second = weights(), weights()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(
    ("student", "teacher", "reason"),
    [
        ((2, 8), (2, 8, 4, 4), "layers of one layout"),
        ((2, 5, 8), (2, 6, 8), "different numbers of tokens"),
        ((2, 8), (3, 8), "one batch"),
        ((2,), (2,), r"only \[n, d\]"),
        ((2, 0), (2, 4), "without empty dimensions"),
    ],
)
def test_unsupported_features_raise(student, teacher, reason):
    with pytest.raises(InputError, match=reason):
        build(torch.zeros(student), torch.zeros(teacher))
    with pytest.raises(InputError, match="floating-point"):
        build(torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 3))
