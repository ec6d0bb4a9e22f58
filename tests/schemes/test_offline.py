"""The offline scheme: what trains, what is looked at, what is refused before it begins."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.errors import InputError
from limbeck.objective import Objective, Term, methods
from limbeck.schemes import Offline
from limbeck.tasks.image_classification import ImageClassification
from limbeck.teachers import FrozenTeacher

TASK = ImageClassification(classes=("a", "b", "c"))
BATCH = {"image": torch.randn(8, 1, 4, 4), "labels": torch.arange(8) % 3}


def net(width=2, classes=3):
    return nn.Sequential(
        nn.Conv2d(1, width, 3),
        nn.BatchNorm2d(width),
        nn.Dropout(),
        nn.Flatten(),
        nn.Linear(4 * width, classes),
    )


def offline(terms, *, student=None, teacher=None, taps=()):
    frozen = None if teacher is None else FrozenTeacher(teacher, TASK, taps)
    return Offline(student or net(), TASK, Objective(terms), teacher=frozen, probe=BATCH)


def hint(**settings):
    return Term("fitnet_hint", student="0", teacher="0", **settings)


def test_student_and_connectors_train_and_the_teacher_does_not():
    student, teacher = net(2), net(5)
    scheme = offline([*methods.hinton(), hint()], student=student, teacher=teacher, taps=["0"])
    assert scheme.modules_to_save()["student"] is student
    connector = scheme.modules_to_save()["connectors"]["fitnet_hint"]
    trained = set(scheme.trainable())
    assert trained == {*student.parameters(), *connector.parameters()}
    assert not trained & set(teacher.parameters())
    held = {key for module in scheme.modules_to_save().values() for key in module.state_dict()}
    assert len(held) == len(student.state_dict()) + len(connector.state_dict())


def test_a_step_gives_a_gradient_to_all_that_trains_and_to_nothing_else():
    teacher = net(5)
    scheme = offline([*methods.hinton(), hint()], teacher=teacher, taps=["0"])
    scheme.step(BATCH, 0.5).total.backward()
    assert all(parameter.grad is not None for parameter in scheme.trainable())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert not any(module._forward_hooks for module in scheme.student.modules())


def test_a_batch_without_an_input_is_refused_by_step_and_teacher():
    teacher = FrozenTeacher(net(5), TASK)
    scheme = Offline(net(), TASK, Objective(methods.hinton()), teacher=teacher, probe=BATCH)
    batch = {name: tensor for name, tensor in BATCH.items() if name != "image"}
    for call in (lambda: scheme.step(batch, 0.0), lambda: teacher.answer(batch)):
        with pytest.raises(InputError, match="allowed: a mapping with image"):
            call()


def test_the_probe_leaves_the_student_as_it_was():
    student = net().train()
    student[1].eval()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    state = torch.get_rng_state()
    offline(methods.label_only(), student=student)
    assert [module.training for module in student] == [True, False, True, True, True]
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_progress_reaches_the_schedules():
    scheme = offline([Term("task", weight={"linear": {"start": 1, "end": 0}})])
    scheme.student.eval()
    weighted = [scheme.step(BATCH, progress).terms["task"].weighted for progress in (0, 0.5, 1)]
    assert weighted[1] == pytest.approx(weighted[0].item() / 2)
    assert weighted[2] == 0


def test_an_unused_teacher_does_not_run():
    class NullProgressBar:
        fingerprint = ""

        def answer(self, batch):
            raise AssertionError("the teacher was run")

    scheme = Offline(net(), TASK, Objective([Term("task")]), teacher=NullProgressBar(), probe=BATCH)
    assert scheme.step(BATCH, 0.0).total.isfinite()


def test_what_cannot_work_is_refused_at_once():
    with pytest.raises(InputError, match="teacher: got None; allowed: a teacher, which a term"):
        offline(methods.hinton())
    with pytest.raises(InputError, match="got '4 classes'; allowed: 3 classes, as the student has"):
        offline(methods.hinton(), teacher=net(classes=4))
    with pytest.raises(InputError, match="tap: got 'zero'"):
        offline([Term("fitnet_hint", student="zero", teacher="0")], teacher=net(), taps=["0"])
    with pytest.raises(InputError, match=r"tap: got 'last'"):
        offline([Term("fitnet_hint", student="0", teacher="last")], teacher=net())


def test_a_bare_module_as_teacher_is_refused_with_the_fix():
    with pytest.raises(InputError, match=r"got 'Sequential'.*FrozenTeacher\(model, task\)"):
        Offline(
            net(),
            TASK,
            Objective([Term("soft_target_kl", temperature=2.0)]),
            teacher=net(),
            probe=BATCH,
        )


def test_mass_is_the_number_of_samples():
    assert offline(methods.label_only()).total_weights(BATCH) == {"logits": 8}
