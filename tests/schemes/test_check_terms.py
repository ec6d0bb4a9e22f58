"""Before training, every term is run once: its contract, and whether it moves the student."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from limbeck.errors import InputError
from limbeck.objective import Objective, Term, methods
from limbeck.schemes import Offline
from limbeck.tasks.image_classification import ImageClassification
from limbeck.teachers import FrozenTeacher

TASK = ImageClassification(classes=("a", "b", "c"))
GENERATOR = torch.Generator().manual_seed(0)
BATCH = {"image": torch.randn(12, 1, 4, 4, generator=GENERATOR), "labels": torch.arange(12) % 3}


def net(width=2):
    torch.manual_seed(width)
    return nn.Sequential(
        nn.Conv2d(1, width, 3),
        nn.BatchNorm2d(width),
        nn.Dropout(),
        nn.Flatten(),
        nn.Linear(4 * width, 3),
    )


def check(*terms, student=None, teacher=None, batch=BATCH):
    scheme = Offline(
        student or net(),
        TASK,
        Objective(terms),
        teacher=FrozenTeacher(teacher or net(5), TASK),
        probe=BATCH,
    )
    return scheme.check_terms(batch)


def test_terms_that_work_have_a_gradient():
    found = check(
        *methods.hinton(),
        Term("fitnet_hint", student="0", teacher="0"),
        Term("rkd_distance", student="3", teacher="3"),
        Term("dist"),
    )
    assert set(found) == {"task", "soft_target_kl", "fitnet_hint", "rkd_distance", "dist"}
    assert all(one.norm > 0 and not one.reason for one in found.values())


def test_nothing_is_changed_by_the_check():
    student = net().train()
    scheme = Offline(
        student, TASK, Objective(methods.hinton()), teacher=FrozenTeacher(net(5), TASK), probe=BATCH
    )
    before = {name: value.clone() for name, value in scheme.state_dict().items()}
    state = torch.get_rng_state()
    scheme.check_terms(BATCH)
    assert all(torch.equal(value, before[name]) for name, value in scheme.state_dict().items())
    assert all(parameter.grad is None for parameter in scheme.parameters())
    assert all(part.training for part in student.modules())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_gradient_of_zero_is_excused_where_there_is_a_reason():
    student = net(5)
    found = check(
        Term("soft_target_kl", temperature=2.0),
        Term("logit_mse", weight=0.0),
        student=student,
        teacher=net(5),
    )
    assert "at the minimum already" in found["soft_target_kl"].reason
    pair = {name: tensor[:2] for name, tensor in BATCH.items()}
    found = check(Term("rkd_distance", student="3", teacher="3"), batch=pair)
    assert "the batch has 2" in found["rkd_distance"].reason
    fading = {"linear": {"start": 0.0, "end": 1.0}}
    found = check(Term("task"), Term(first_layer_without_gradient, weight=fading))
    assert found["first_layer_without_gradient"].reason == "its weight is 0"


def first_layer_without_gradient(student, teacher):
    return (student * 0).sum(1) + 1


def test_a_frozen_layer_does_not_move_the_student():
    student = net()
    student[0].requires_grad_(False)
    with pytest.raises(InputError, match="fitnet_hint: got 'a gradient of 0 for every parameter"):
        check(Term("fitnet_hint", student="0", teacher="0"), student=student)


# What users write, each with what the message must name.


def mean(student, teacher):
    return F.mse_loss(student, teacher)


def batch_mean(student, teacher):
    return F.kl_div(student.log_softmax(1), teacher.softmax(1), reduction="batchmean")


def by_class(student, teacher):
    return (student - teacher).square().mean(0)


def column(student, teacher):
    return (student - teacher).square().mean(1, keepdim=True)


def number(student, teacher):
    return (student - teacher).square().mean().item()


def two_of_them(student, teacher):
    return (student - teacher).square().mean(1), teacher


def classes_found(student, teacher):
    return student.argmax(1)


def cut_off(student, teacher):
    return (student.detach() - teacher).square().mean(1)


def through_numpy(student, teacher):
    return torch.from_numpy((student - teacher).detach().numpy() ** 2).mean(1)


def without_a_gradient(student, teacher):
    return (student.argmax(1) == teacher.argmax(1)).float() + 0 * student.sum(1)


def not_a_number(student, teacher):
    return (student - teacher).sum(1).log()


def infinite_gradient(student, teacher):
    return ((student - student.detach()) ** 2).sum(1).sqrt()


def in_place(student, teacher):
    student.mul_(0.5)
    return (student - teacher).square().mean(1)


def in_place_on_the_teacher(student, teacher):
    teacher.data.add_(1)
    return (student - teacher).square().mean(1)


def in_place_on_labels(student, labels):
    labels.zero_()
    return F.cross_entropy(student, labels, reduction="none")


def fails(student, teacher):
    return (student @ teacher).sum(1)


WRONG = [
    (mean, "the mean over the batch.*one value per element"),
    (batch_mean, "the mean over the batch.*reduction='none'"),
    (by_class, r"got \(3,\); allowed: one value per element"),
    (column, r"got \(12, 1\)"),
    (number, "got 'float'; allowed: a loss that returns a floating-point tensor"),
    (two_of_them, "got 'tuple'"),
    (classes_found, "got 'a tensor of torch.int64'"),
    (cut_off, "a value without a gradient"),
    (through_numpy, "a value without a gradient"),
    (without_a_gradient, "a gradient of 0 for every parameter"),
    (not_a_number, "got nan; allowed: a finite value"),
    (infinite_gradient, "a gradient norm of nan"),
    (in_place, "in-place changes of student logits"),
    (in_place_on_the_teacher, "in-place changes of teacher logits"),
    (in_place_on_labels, "in-place changes of labels"),
    (fails, "RuntimeError: .*mat1 and mat2"),
]


@pytest.mark.parametrize(
    ("loss", "message"), WRONG, ids=lambda value: getattr(value, "__name__", "")
)
def test_a_loss_that_breaks_its_contract_is_named(loss, message):
    with pytest.raises(InputError, match=f"^{loss.__name__}: .*{message}"):
        check(Term("task"), Term(loss))


def test_all_terms_are_named_at_once():
    with pytest.raises(InputError) as error:
        check(Term(number), Term(mean), Term(not_a_number), Term("task"))
    assert [problem.where for problem in error.value.problems] == ["number", "mean", "not_a_number"]


def test_a_scalar_that_relates_samples_is_no_mean():
    def spread(student, teacher):
        return (student.std(0) - teacher.std(0)).square().sum()

    assert check(Term(spread))["spread"].norm > 0
