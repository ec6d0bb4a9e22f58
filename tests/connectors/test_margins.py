import pytest
import torch

from limbeck.connectors.margins import build
from limbeck.errors import InputError
from limbeck.losses import overhaul
from limbeck.losses.features import batch_norm_margin

SHAPES = [
    ((3, 8, 8, 8), (3, 16, 4, 4), (3, 16, 4, 4)),
    ((3, 8, 4, 4), (3, 16, 8, 8), (3, 16, 4, 4)),
    ((3, 8), (3, 16), (3, 16)),
    ((3, 5, 8), (3, 5, 16), (3, 5, 16)),
]


@pytest.mark.parametrize(("student_shape", "teacher_shape", "expected"), SHAPES)
def test_responses_have_the_teachers_channels(student_shape, teacher_shape, expected):
    student, teacher = torch.randn(student_shape, requires_grad=True), torch.randn(teacher_shape)
    connector = build(student, teacher)
    output = connector(student, teacher, {})
    assert output.student.shape == output.teacher.shape == expected
    overhaul(output.student, output.teacher, **output.arguments).sum().backward()
    assert student.grad.abs().sum() > 0
    assert all(p.grad is not None for p in connector.parameters())
    assert len(output.arguments["margin"]) == 16
    assert (output.arguments["margin"] < 0).all()


def test_margins_agree_with_those_of_the_batch_normalisation():
    torch.manual_seed(0)
    norm = torch.nn.BatchNorm2d(4)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, 1.0, 2.0, 1.0]))
        norm.bias.copy_(torch.tensor([0.3, -0.5, 0.0, 9.0]))
    responses = norm(torch.randn(64, 4, 16, 16)).detach()
    margin = build(torch.zeros(64, 2, 16, 16), responses).margin
    torch.testing.assert_close(
        margin, batch_norm_margin(norm.weight, norm.bias), rtol=0.02, atol=0.02
    )


def test_half_precision_is_computed_in_float32():
    connector = build(torch.zeros(2, 3).half(), torch.randn(2, 4).half())
    assert connector(torch.ones(2, 3).half(), torch.ones(2, 4), {}).student.dtype == torch.float32


def test_unsupported_features_raise():
    with pytest.raises(InputError, match="layers of one layout"):
        build(torch.zeros(2, 8), torch.zeros(2, 8, 4, 4))
