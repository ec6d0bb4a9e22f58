"""The offline scheme and the teachers as modules: moved, copied, saved, restored."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from limbeck.errors import InputError
from limbeck.objective import Objective, Term, methods
from limbeck.schemes import Offline
from limbeck.targets import DenseTargets
from limbeck.tasks.image_classification import ImageClassification
from limbeck.teachers import Answer, CachedTeacher, EnsembleTeacher, FrozenTeacher

TASK = ImageClassification(classes=("a", "b", "c"))


def batch(dtype=torch.float32, device="cpu"):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(8, 1, 4, 4, generator=generator, dtype=dtype).to(device)
    return {"image": images, "labels": (torch.arange(8) % 3).to(device)}


def net(width=2, classes=3):
    torch.manual_seed(width)
    stem = nn.Sequential(nn.Conv2d(1, width, 3, bias=False), nn.BatchNorm2d(width))
    return nn.Sequential(stem, nn.Dropout(), nn.Flatten(), nn.Linear(4 * width, classes))


def offline(*terms, teacher=None, student=None):
    teacher = teacher or FrozenTeacher(net(5), TASK)
    terms = terms or (*methods.hinton(), Term("fitnet_hint", student="0", teacher="0.1"))
    return Offline(student or net(), TASK, Objective(terms), teacher=teacher, probe=batch())


def test_the_layers_that_terms_compare_are_captured_without_naming_them_twice():
    teacher = FrozenTeacher(net(5), TASK, taps=["3"])
    scheme = offline(
        Term("fitnet_hint", student="0", teacher="0.1"),
        Term("attention_transfer", student="0", teacher="0.0"),
        teacher=teacher,
    )
    losses = scheme.step(batch(), 0.0)
    assert all(term.raw.isfinite() for term in losses.terms.values())
    assert set(teacher.answer(batch()).taps) == {"0.0", "0.1", "3"}


def test_teachers_without_features_refuse_a_term_that_compares_some():
    many = EnsembleTeacher([FrozenTeacher(net(5), TASK), FrozenTeacher(net(4), TASK)])
    with pytest.raises(InputError, match=r"teacher: got \['0.1'\].*share no axes"):
        offline(teacher=many)
    with pytest.raises(InputError, match="terms on recorded answers only"):
        offline(teacher=CachedTeacher(None, fingerprint="any"))


def test_a_teacher_of_ones_own_may_return_its_features_by_itself():
    class Own:
        fingerprint = "own"

        def answer(self, batch):
            return Answer(
                {"logits": DenseTargets(torch.zeros(8, 3))}, {"0.1": torch.ones(8, 5, 2, 2)}
            )

    assert offline(teacher=Own()).step(batch(), 0.0).total.isfinite()


def test_parameters_are_the_students_and_the_connectors():
    teacher = FrozenTeacher(net(5), TASK)
    scheme = offline(teacher=teacher)
    parameters = set(scheme.parameters())
    assert parameters == {*scheme.student.parameters(), *scheme.connectors.parameters()}
    assert len(list(scheme.connectors.parameters())) > 0
    assert not parameters & set(teacher.parameters())
    assert teacher not in set(scheme.modules())
    assert set(scheme.trainable()) == parameters
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_an_optimizer_over_its_parameters_trains_all_of_them_and_leaves_the_teacher():
    teacher = FrozenTeacher(net(5), TASK)
    scheme = offline(teacher=teacher).train()
    before = teacher.fingerprint
    old = [parameter.clone() for parameter in scheme.parameters()]
    optimizer = torch.optim.SGD(scheme.parameters(), lr=0.1)
    scheme(batch(), 0.0).total.backward()
    optimizer.step()
    assert not any(map(torch.equal, old, scheme.parameters()))
    assert FrozenTeacher(teacher.model, TASK).fingerprint == before


def test_training_mode_does_not_reach_the_teacher():
    teacher = FrozenTeacher(net(5), TASK)
    scheme = offline(teacher=teacher)
    assert scheme.train().student.training
    assert not any(part.training for part in teacher.modules())
    assert not any(part.training for part in teacher.train().modules())
    ensemble = EnsembleTeacher([FrozenTeacher(net(5), TASK)]).train()
    assert not any(part.training for part in ensemble.modules())


def test_a_move_takes_the_teacher_along():
    teacher = FrozenTeacher(net(5), TASK)
    scheme = offline(teacher=teacher)
    first = teacher.fingerprint
    assert scheme.to(torch.float64) is scheme
    assert {one.dtype for one in teacher.parameters()} == {torch.float64}
    assert scheme.step(batch(torch.float64), 0.0).total.dtype == torch.float64
    assert teacher.fingerprint != first
    many = EnsembleTeacher([FrozenTeacher(net(5), TASK), FrozenTeacher(net(4), TASK)])
    offline(*methods.hinton(), teacher=many).double()
    assert {one.dtype for one in many.parameters()} == {torch.float64}
    scheme.to("meta")
    assert next(teacher.parameters()).is_meta


def test_its_state_is_restored_without_the_teacher():
    scheme, other = offline(), offline(student=net(2).double().float())
    for parameter in scheme.parameters():
        nn.init.normal_(parameter)
    state = scheme.state_dict()
    assert {name.partition(".")[0] for name in state} == {"student", "connectors", "balance"}
    assert {name.removeprefix("student.") for name in state if name.startswith("student")} == set(
        scheme.student.state_dict()
    )
    assert not other.load_state_dict(state).missing_keys
    pairs = zip(
        scheme.eval().step(batch(), 0.0).terms.values(),
        other.eval().step(batch(), 0.0).terms.values(),
        strict=True,
    )
    assert all(torch.equal(one.raw, other.raw) for one, other in pairs)


def test_a_teachers_state_is_restored_with_its_fingerprint():
    one, other = FrozenTeacher(net(5), TASK), FrozenTeacher(net(5), TASK)
    nn.init.normal_(one.model[3].weight)
    old = other.fingerprint
    other.load_state_dict(one.state_dict())
    assert other.fingerprint == one.fingerprint != old
    many, more = (EnsembleTeacher([teacher]) for teacher in (one, FrozenTeacher(net(5), TASK)))
    more.load_state_dict(many.state_dict())
    assert more.fingerprint == many.fingerprint


def test_a_deep_copy_is_independent():
    scheme = offline()
    copied = copy.deepcopy(scheme)
    copied.eval(), scheme.eval()
    expected = scheme.step(batch(), 0.0).total
    assert torch.equal(copied.step(batch(), 0.0).total, expected)
    with torch.no_grad():
        for parameter in (*copied.parameters(), *copied.teacher.parameters()):
            parameter.zero_()
    copied.step(batch(), 0.0).total.backward()
    assert torch.equal(scheme.step(batch(), 0.0).total, expected)
    assert all(parameter.grad is None for parameter in scheme.parameters())
    assert any(parameter.grad is not None for parameter in copied.parameters())


def test_walks_over_its_parts_meet_the_student_only():
    scheme = offline()
    names = {name.partition(".")[0] for name, _ in scheme.named_modules() if name}
    assert names == {"student", "connectors", "balance"}
    assert [name for name, _ in scheme.named_children()] == ["student", "connectors", "balance"]
    seen = []
    scheme.apply(seen.append)
    assert scheme.teacher not in seen
    assert scheme.teacher.model not in seen
    scheme.requires_grad_(False).requires_grad_(True)
    assert not any(one.requires_grad for one in scheme.teacher.parameters())


def test_vocabularies_that_are_padded_are_compared_where_both_have_classes():
    wide, student = FrozenTeacher(net(5, classes=8), TASK), net(classes=6)
    scheme = offline(Term("divergence", temperature=2.0), student=student, teacher=wide)
    scheme.step(batch(), 0.0).total.backward()
    assert student[3].weight.grad[:6].abs().sum() > 0
    with pytest.raises(InputError, match="got '8 classes'; allowed: 6 classes"):
        offline(*methods.hinton(), student=student, teacher=wide)
    few = FrozenTeacher(net(5, classes=2), TASK)
    with pytest.raises(InputError, match="got '2 classes'; allowed: 6 classes"):
        offline(Term("divergence", temperature=2.0), student=student, teacher=few)
