"""A cache returns the outputs for exactly the inputs of the student."""

from __future__ import annotations

import pytest
import torch

from limbeck.data.cache import TeacherCache, key_of
from limbeck.data.load import load
from limbeck.data.modalities.image import AugmentSpec
from limbeck.data.spec import DataSpec
from limbeck.errors import InputError, LimbeckError
from limbeck.objective import Objective, methods
from limbeck.schemes import Offline
from limbeck.targets import DenseTargets, Layout
from limbeck.teachers import CachedTeacher, FrozenTeacher
from limbeck.training import Training, fit


@pytest.fixture
def cached(digits, task, net, tmp_path):
    """Record a teacher; gives how to open the record, the teacher, and its calls."""
    model, calls = net(), []
    model.register_forward_hook(lambda *_: calls.append(1))
    frozen = FrozenTeacher(model, task)
    digits.train.set_seed(7)

    def open_record():
        store = TeacherCache(
            tmp_path / "store",
            key=key_of(digits, teacher=frozen.fingerprint),
            rows=len(digits.train),
            views=digits.train.views,
            layout=Layout.of({"logits": DenseTargets(torch.zeros(1, 10))}, samples=1),
        )
        store.record(lambda batch: frozen.answer(batch).targets, digits.train, batch_size=64)
        return CachedTeacher(store, fingerprint=frozen.fingerprint)

    return open_record, frozen, calls


def test_shuffled_and_augmented_batches_get_their_own_answer(digits, cached):
    open_record, frozen, _ = cached
    recorded = open_record()
    assert recorded.fingerprint == frozen.fingerprint
    for epoch in (0, 1, 2, 4, 0):
        digits.train.set_epoch(epoch)
        rows = torch.randperm(len(digits.train), generator=torch.Generator().manual_seed(epoch))
        batch = digits.train.__getitems__(rows[:40])
        answer = recorded.answer(batch).logits
        torch.testing.assert_close(answer, frozen.answer(batch).logits)
        digits.train.set_epoch(epoch + 1)
        other = frozen.answer(digits.train.__getitems__(rows[:40])).logits
        assert not torch.allclose(answer, other)


def test_a_second_student_costs_no_teacher_call(digits, task, net, cached, accelerator, tmp_path):
    open_record, _, calls = cached
    for number in range(2):
        before = len(calls)
        teacher = open_record()
        assert len(calls) - before == (0 if number else 3 * -(-len(digits.train) // 64))
        before = len(calls)
        student = net(number)
        scheme = Offline(
            student,
            task,
            Objective(methods.hinton()),
            teacher=teacher,
            probe=digits.train.__getitems__([0, 1]),
        )
        fit(
            scheme,
            train=digits.train,
            validate=lambda model: {},
            settings=Training(epochs=4),
            folder=tmp_path / str(number),
            seed=7,
            accelerator=accelerator,
        )
        assert len(calls) == before


def test_augmentation_without_end_is_refused(digits, task, net, tmp_path, cached):
    spec = DataSpec(
        source="sklearn", name="digits", max_samples={"train": 300}, augment=AugmentSpec(shift=2)
    )
    endless = load(spec, workdir=tmp_path)
    with pytest.raises(InputError, match=r"data\.augment\.views: got None.*Set data\.augment\."):
        key_of(endless, teacher="any")
    open_record, _, _ = cached
    recorded = open_record()
    endless.train.set_epoch(3)
    with pytest.raises(LimbeckError, match="no targets for row 0 in view 3"):
        recorded.answer(endless.train.__getitems__([0]))


def test_a_batch_without_sample_indices_is_refused(cached):
    open_record, _, _ = cached
    with pytest.raises(InputError, match=r"batch: got \['image'\]; allowed: index and view"):
        open_record().answer({"image": torch.zeros(1, 1, 8, 8)})
