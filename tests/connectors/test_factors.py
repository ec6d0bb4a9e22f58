import pytest
import torch

from limbeck.connectors import build_connector
from limbeck.connectors.factors import build
from limbeck.errors import InputError
from limbeck.losses import factor_transfer

SHAPES = [
    ((3, 8, 4, 4), (3, 16, 4, 4), (3, 8, 4, 4)),
    ((3, 8, 8, 8), (3, 6, 4, 4), (3, 3, 8, 8)),
    ((3, 5, 8), (3, 5, 12), (3, 5, 6)),
    ((3, 8), (3, 12), (3, 6)),
    ((3, 8), (3, 1), (3, 1)),  # never fewer than one factor
]


@pytest.mark.parametrize(("student_shape", "teacher_shape", "factors"), SHAPES)
def test_factors_are_half_the_teachers_channels(student_shape, teacher_shape, factors):
    student, teacher = torch.randn(student_shape), torch.randn(teacher_shape)
    output = build(student, teacher)(student, teacher, {})
    assert output.student.shape == factors
    axis = 1 if len(teacher_shape) == 4 else -1
    assert output.teacher.shape[axis] == factors[axis]
    assert output.teacher.numel() * teacher.shape[axis] == teacher.numel() * factors[axis]
    assert output.aux_loss.shape == ()
    form = "factor" if len(student_shape) == 2 else "map"
    assert factor_transfer(output.student, output.teacher, form=form).shape == (3,)


def test_the_paraphraser_learns_from_its_reconstruction_alone():
    student, teacher = torch.randn(2, 4, 3, 3), torch.randn(2, 6, 3, 3, requires_grad=True)
    connector = build(student, teacher.detach())
    output = connector(student, teacher, {})
    factor_transfer(output.student, output.teacher).sum().backward()
    assert all(p.grad is None for p in connector.paraphrase.parameters())
    assert all(p.grad is None for p in connector.restore.parameters())
    assert all(p.grad is not None for p in connector.translate.parameters())
    connector.zero_grad(set_to_none=True)
    connector(student, teacher, {}).aux_loss.backward()
    assert all(p.grad is None for p in connector.translate.parameters())
    assert all(p.grad.abs().sum() > 0 for p in connector.paraphrase.parameters())
    assert teacher.grad is None


def test_the_reconstruction_error_decreases():
    torch.manual_seed(0)
    student = torch.randn(64, 4)
    teacher = torch.randn(64, 2) @ torch.randn(2, 8)  # of rank 2
    connector = build(student, teacher)
    optimizer = torch.optim.Adam(connector.parameters(), lr=0.01)
    errors = []
    for _ in range(300):
        error = connector(student, teacher, {}).aux_loss
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < 0.1 * errors[0]


@pytest.mark.parametrize("shape", [(1, 4, 1, 1), (1, 4), (1, 1, 4)])
def test_one_value_per_channel_is_normalised_by_running_statistics(shape):
    ones = torch.ones(shape)
    connector = build(ones, ones)
    before = connector.translate[1].norm.running_mean.clone()
    assert connector(ones, ones, {}).student.isfinite().all()
    assert torch.equal(connector.translate[1].norm.running_mean, before)


def test_batches_update_the_running_statistics():
    connector = build(torch.zeros(2, 4, 3, 3), torch.zeros(2, 4, 3, 3))
    connector(torch.randn(8, 4, 3, 3), torch.randn(8, 4, 3, 3), {})
    assert connector.translate[1].norm.running_mean.abs().sum() > 0


def test_half_precision_and_empty_batches():
    connector = build(torch.zeros(2, 4, 3, 3), torch.zeros(2, 4, 3, 3))
    output = connector(torch.ones(2, 4, 3, 3).bfloat16(), torch.ones(2, 4, 3, 3).half(), {})
    assert output.student.dtype == output.teacher.dtype == output.aux_loss.dtype == torch.float32
    output = connector(torch.zeros(0, 4, 3, 3), torch.zeros(0, 4, 3, 3), {})
    assert output.aux_loss == 0
    assert factor_transfer(output.student, output.teacher).shape == (0,)


def test_unsupported_features_raise():
    with pytest.raises(InputError, match="layers of one layout"):
        build(torch.zeros(2, 8), torch.zeros(2, 8, 4, 4))
    with pytest.raises(InputError, match=r"connector\.rate: got 0.*above 0"):
        build_connector("factor_transfer", torch.zeros(2, 8), torch.zeros(2, 8), rate=0.0)


def test_the_rate_sets_the_number_of_factors():
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 8, 4, 4)
    assert build(student, teacher, rate=0.75)(student, teacher, {}).student.shape[1] == 6
