"""The closed-form gradient of the forward KL agrees with automatic differentiation."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from limbeck import losses


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_closed_form_gradients_pass_gradcheck(temperature):
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
    student.requires_grad_()

    def value(logits):
        return losses.soft_target_kl(logits, teacher, temperature=temperature)

    assert gradcheck(value, (student,))
    assert gradgradcheck(value, (student,))


def test_classes_of_minus_infinity_have_no_gradient():
    student = torch.tensor([[1.0, -torch.inf, 0.5, 2.0]], requires_grad=True)
    teacher = torch.tensor([[0.3, 1.0, -torch.inf, 0.1]])
    losses.soft_target_kl(student, teacher, temperature=2.0).sum().backward()
    kept = torch.tensor([[1.0, 0.5, 2.0]], requires_grad=True)
    rest = torch.tensor([[0.3, -torch.inf, 0.1]])
    losses.soft_target_kl(kept, rest, temperature=2.0).sum().backward()
    assert student.grad[0, 1] == 0
    torch.testing.assert_close(student.grad[0, [0, 2, 3]], kept.grad[0])
