import pytest
import torch

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


@pytest.mark.parametrize(("ours", "theirs", "factors"), SHAPES)
def test_factors_are_half_the_teachers_channels(ours, theirs, factors):
    student, teacher = torch.randn(ours), torch.randn(theirs)
    joined = build(student, teacher)(student, teacher, {})
    assert joined.student.shape == factors
    axis = 1 if len(theirs) == 4 else -1
    assert joined.teacher.shape[axis] == factors[axis]
    assert joined.teacher.numel() * teacher.shape[axis] == teacher.numel() * factors[axis]
    assert joined.aux_loss.shape == ()
    form = "factor" if len(ours) == 2 else "map"
    assert factor_transfer(joined.student, joined.teacher, form=form).shape == (3,)


def test_the_paraphraser_learns_from_its_reconstruction_alone():
    student, teacher = torch.randn(2, 4, 3, 3), torch.randn(2, 6, 3, 3, requires_grad=True)
    parts = build(student, teacher.detach())
    joined = parts(student, teacher, {})
    factor_transfer(joined.student, joined.teacher).sum().backward()
    assert all(p.grad is None for p in parts.paraphrase.parameters())
    assert all(p.grad is None for p in parts.restore.parameters())
    assert all(p.grad is not None for p in parts.translate.parameters())
    parts.zero_grad(set_to_none=True)
    parts(student, teacher, {}).aux_loss.backward()
    assert all(p.grad is None for p in parts.translate.parameters())
    assert all(p.grad.abs().sum() > 0 for p in parts.paraphrase.parameters())
    assert teacher.grad is None


def test_the_reconstruction_gets_better():
    torch.manual_seed(0)
    student = torch.randn(64, 4)
    teacher = torch.randn(64, 2) @ torch.randn(2, 8)  # two factors hold all of it
    parts = build(student, teacher)
    optimizer = torch.optim.Adam(parts.parameters(), lr=0.01)
    errors = []
    for _ in range(300):
        error = parts(student, teacher, {}).aux_loss
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < 0.1 * errors[0]


@pytest.mark.parametrize("shape", [(1, 4, 1, 1), (1, 4), (1, 1, 4)])
def test_one_value_a_channel_is_normalised_by_what_was_before(shape):
    one = torch.ones(shape)
    parts = build(one, one)
    before = parts.translate[1].norm.running_mean.clone()
    assert parts(one, one, {}).student.isfinite().all()
    assert torch.equal(parts.translate[1].norm.running_mean, before)


def test_batches_are_normalised_by_themselves():
    parts = build(torch.zeros(2, 4, 3, 3), torch.zeros(2, 4, 3, 3))
    parts(torch.randn(8, 4, 3, 3), torch.randn(8, 4, 3, 3), {})
    assert parts.translate[1].norm.running_mean.abs().sum() > 0


def test_half_precision_is_computed_in_float32_and_no_samples_give_nothing():
    parts = build(torch.zeros(2, 4, 3, 3), torch.zeros(2, 4, 3, 3))
    joined = parts(torch.ones(2, 4, 3, 3).bfloat16(), torch.ones(2, 4, 3, 3).half(), {})
    assert joined.student.dtype == joined.teacher.dtype == joined.aux_loss.dtype == torch.float32
    joined = parts(torch.zeros(0, 4, 3, 3), torch.zeros(0, 4, 3, 3), {})
    assert joined.aux_loss == 0
    assert factor_transfer(joined.student, joined.teacher).shape == (0,)


def test_what_cannot_be_joined_says_why():
    with pytest.raises(InputError, match="layers of one kind"):
        build(torch.zeros(2, 8), torch.zeros(2, 8, 4, 4))
    with pytest.raises(InputError, match="above 0"):
        build(torch.zeros(2, 8), torch.zeros(2, 8), rate=0.0)


def test_the_rate_decides_how_many_factors_there_are():
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 8, 4, 4)
    assert build(student, teacher, rate=0.75)(student, teacher, {}).student.shape[1] == 6
