"""The laws catch what they are made to catch: each bug here is one that a library has shipped."""

import pytest
import torch
import torch.nn.functional as F

from limbeck.losses import cross_entropy, soft_target_kl
from limbeck.testing import BrokenLawError, check_loss


def kl(student, teacher, temperature):
    s, t = student.float() / temperature, teacher.detach().float() / temperature
    if student.dtype == torch.float64:
        s, t = student / temperature, teacher.detach() / temperature
    return F.kl_div(s.log_softmax(1), t.log_softmax(1), reduction="none", log_target=True).sum(1)


def reduced(student, teacher, *, temperature):
    return soft_target_kl(student, teacher, temperature=temperature).mean()


def cross_entropy_called_kl(student, teacher, *, temperature):
    q = (student.float() if student.element_size() == 2 else student).log_softmax(1)
    return -(teacher.detach().to(q.dtype).softmax(1) * q).sum(1)


def without_square(student, teacher, *, temperature):
    return soft_target_kl(student, teacher, temperature=temperature) / temperature**2


def into_teacher(student, teacher, *, temperature):
    value = soft_target_kl(student, teacher, temperature=temperature)
    return value + 0 * teacher.sum(1).to(value.dtype)


def square_on_value_only(student, teacher, *, temperature):
    value = soft_target_kl(student, teacher, temperature=temperature)
    return value.detach() + (value - value.detach()) / temperature**2


def over_the_batch(student, teacher, *, temperature):
    value = soft_target_kl(student, teacher, temperature=temperature)
    return value / len(value)


def not_finite(student, teacher, *, temperature):
    return temperature**2 * kl(student, teacher, temperature).clamp_min(0)


@pytest.mark.parametrize(
    ("loss", "law"),
    [
        (reduced, 0),
        (cross_entropy_called_kl, 1),
        (into_teacher, 3),
        (square_on_value_only, 4),
        (without_square, 5),
        (over_the_batch, 6),
        (not_finite, 9),
    ],
)
def test_a_broken_divergence_is_caught(loss, law):
    with pytest.raises(BrokenLawError) as caught:
        check_loss(loss, kind="divergence")
    assert caught.value.law == law


def test_a_loss_with_an_opinion_about_classes_is_caught():
    def favours_class_0(student, labels):
        return cross_entropy(student, labels) * (1 + (labels == 0))

    with pytest.raises(BrokenLawError) as caught:
        check_loss(favours_class_0, kind="hard_label")
    assert caught.value.law == 8


def test_a_wrong_definition_is_caught():
    def half(student, teacher, temperature):
        return 0 * student[:, 0]

    with pytest.raises(BrokenLawError, match="law 4: the value"):
        check_loss(soft_target_kl, kind="divergence", reference=half)
