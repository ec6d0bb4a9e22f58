"""The forward KL has its gradient written out; it must be the one that torch would find."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from limbeck import losses


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_its_gradients_are_those_of_the_value(temperature):
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
    student.requires_grad_()

    def value(logits):
        return losses.soft_target_kl(logits, teacher, temperature=temperature)

    assert gradcheck(value, (student,))
    assert gradgradcheck(value, (student,))


def test_classes_ruled_out_get_no_gradient():
    student = torch.tensor([[1.0, -torch.inf, 0.5, 2.0]], requires_grad=True)
    teacher = torch.tensor([[0.3, 1.0, -torch.inf, 0.1]])
    losses.soft_target_kl(student, teacher, temperature=2.0).sum().backward()
    kept = torch.tensor([[1.0, 0.5, 2.0]], requires_grad=True)
    rest = torch.tensor([[0.3, -torch.inf, 0.1]])
    losses.soft_target_kl(kept, rest, temperature=2.0).sum().backward()
    assert student.grad[0, 1] == 0
    torch.testing.assert_close(student.grad[0, [0, 2, 3]], kept.grad[0])
