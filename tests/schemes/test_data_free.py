"""Data-free distillation: losses against references, resume, and no training row."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from limbeck.core import fingerprint
from limbeck.errors import InputError
from limbeck.objective import Objective, Term, methods
from limbeck.schemes import SchemeInputs
from limbeck.schemes.data_free import (
    DataFree,
    DataFreeSettings,
    Generator,
    GeneratorWeights,
    RandomInputs,
)
from limbeck.tasks.image_classification import ImageClassification
from limbeck.tasks.tabular_classification import TabularClassification
from limbeck.teachers import EnsembleTeacher, FrozenTeacher
from limbeck.training import Training, fit
from limbeck.training.step import Stepper

CLASSES = ("a", "b", "c")
TASK = ImageClassification(classes=CLASSES)
BOUNDS = (torch.tensor([-0.5]), torch.tensor([2.0]))
ALL = GeneratorWeights(1.0, 0.3, 5.0, 0.7)


def net(seed, width=3):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)
    )


def built(seed, width=3):
    model = net(seed, width)
    model(torch.randn(16, 1, 6, 6, generator=torch.Generator().manual_seed(seed)))
    return model


def scheme(*, weights=ALL, student_steps=2, teacher=None, **more):
    teacher = teacher or FrozenTeacher(built(9), TASK)
    student = built(1, 2)
    torch.manual_seed(3)
    generator = Generator((1, 6, 6), bounds=BOUNDS, latent=5, width=4)
    return DataFree(
        student,
        more.pop("task", TASK),
        Objective(more.pop("terms", [Term("logit_mse")])),
        generator=more.pop("generator", generator),
        teacher=teacher,
        weights=weights,
        student_steps=student_steps,
    )


def drawn(subject, size=8):
    torch.manual_seed(0)
    return next(subject.batches(epoch=0, size=size))


def test_the_generators_loss_is_that_of_the_formula():
    subject = scheme().train()
    teacher, reference = subject._teachers[0].model, copy.deepcopy(subject)
    norm, before = teacher[1], fingerprint.of_module(teacher)
    batch = drawn(subject)
    subject.begin_update("generator", 0)
    found = subject.step(batch, 0.0, None, "generator")
    found.total.backward()
    images = reference.generator(batch["latent"][:, 2])
    hidden = teacher[0](images)
    logits, student = teacher(images), reference.student(images)
    p = F.softmax(logits, 1).mean(0)
    mean, variance = hidden.mean((0, 2, 3)), hidden.var((0, 2, 3), correction=0)
    expected = {
        "adversarial": -(logits - student).abs().mean(),
        "one_hot": F.cross_entropy(logits, logits.argmax(1)),
        "balance": (p * p.log()).sum(),
        "batch_norm": ((mean - norm.running_mean) ** 2).sum().sqrt()
        + ((variance - norm.running_var) ** 2).sum().sqrt(),
    }
    total = sum(weight * expected[name] for name, weight in ALL._asdict().items())
    total.backward()
    for name, value in expected.items():
        torch.testing.assert_close(found.terms[name].raw, value.detach())
    torch.testing.assert_close(found.total, total)
    for one, other in zip(
        subject.generator.parameters(), reference.generator.parameters(), strict=True
    ):
        torch.testing.assert_close(one.grad, other.grad)
    assert all(one.grad is None for one in (*teacher.parameters(), *subject.student.parameters()))
    assert all(one.requires_grad for one in subject.student.parameters())
    assert torch.equal(subject.student[1].running_mean, built(1, 2)[1].running_mean)
    assert fingerprint.of_module(teacher) == before


def test_each_update_has_noise_of_its_own_and_the_generator_moves_once(accelerator):
    subject = scheme(student_steps=3).train()
    seen = []
    subject.generator.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    settings = Training(steps=9, optimizer="sgd", momentum=0, learning_rate=0.1, warmup_ratio=0)
    stepper = Stepper(subject, settings, accelerator)
    batch = drawn(subject)
    stepper.train_step([batch], 0.0)
    assert [torch.equal(one, batch["latent"][:, n]) for n, one in enumerate(seen)] == [True] * 4
    assert {len(stepper.optimizers[name].param_groups[0]["params"]) for name in subject.phases}
    assert list(subject.phases) == ["student", "generator"]
    assert "generator" not in " ".join(subject.student.state_dict())


def test_micro_batches_are_the_whole_batch(accelerator):
    settings = Training(steps=9, optimizer="sgd", momentum=0, learning_rate=0.1, warmup_ratio=0)
    weights, ends = GeneratorWeights(adversarial=1.0, one_hot=0.5), []
    for sizes in ((8,), (3, 5)):
        subject = scheme(weights=weights).eval()  # batch statistics depend on the micro-batch
        batch = drawn(subject)["latent"].split(sizes)
        Stepper(subject, settings, accelerator).train_step([{"latent": one} for one in batch], 0.0)
        ends.append([*subject.student.parameters(), *subject.generator.parameters()])
    for one, other in zip(*ends, strict=True):
        torch.testing.assert_close(one, other)


class Killed(BaseException):
    pass


def train(subject, folder, accelerator, *, kill=None):
    def update(done, total, note, *, milestone=False):
        if done == kill and not milestone:
            raise Killed

    bar = type("Bar", (), {"update": staticmethod(update)})()
    return fit(
        subject,
        train=None,
        validate=lambda model: {"score": 0.0},
        settings=Training(steps=6, validate_every=4, batch_size=8, checkpoint_every=0),
        folder=folder,
        seed=0,
        accelerator=accelerator,
        progress_bar=bar,
    )


def test_killed_and_resumed_it_comes_to_the_same_bits(tmp_path, accelerator):
    whole = scheme()
    train(whole, tmp_path / "whole", accelerator)
    for step in (2, 5):
        with pytest.raises(Killed):
            train(scheme(), tmp_path / str(step), accelerator, kill=step)
        again = scheme()
        train(again, tmp_path / str(step), accelerator)
        states = [one.state_dict().values() for one in (whole, again)]
        assert all(map(torch.equal, *states))


def test_generated_inputs_are_inside_the_bounds_and_of_any_size():
    for shape in ((1, 8, 8), (3, 7, 10), (1, 1, 1)):
        bounds = (torch.full((shape[0],), -1.0), torch.full((shape[0],), 3.0))
        for model in (
            Generator(shape, bounds=bounds, latent=4, width=4),
            RandomInputs(shape, bounds=bounds),
        ):
            inputs = model(torch.randn(64, model.latent))
            assert inputs.shape == (64, *shape)
            assert inputs.min() >= -1
            assert inputs.max() <= 3
    uniform = RandomInputs((1, 8, 8), bounds=BOUNDS)(torch.randn(500, 64))
    assert uniform.mean().item() == pytest.approx(0.75, abs=0.02)
    assert uniform.std().item() == pytest.approx(2.5 / math.sqrt(12), abs=0.02)
    for shape in ((2, 8, 8), (5,)):
        free = Generator(shape, latent=4, width=4)(torch.randn(256, 4))
        assert free.mean().abs() < 1e-4
        assert free.std().item() == pytest.approx(1, abs=0.02)


def test_table_rows_are_generated_too(accelerator, tmp_path):
    task = TabularClassification(classes=CLASSES)
    [name] = task.inputs
    inputs = SchemeInputs(
        task=task,
        objective=lambda: Objective([Term("logit_mse")]),
        probe={name: torch.zeros(2, 4)},
        teacher=FrozenTeacher(nn.Linear(4, 3), task),
    )
    subject = DataFreeSettings(latent=3).build_scheme(nn.Linear(4, 3), inputs)
    train(subject, tmp_path, accelerator)
    assert subject._generate(drawn(subject))[name].shape == (8, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"terms": methods.hinton()}, r"terms: got \['task'\]; .*no labels"),
        ({"terms": [Term("fitnet_hint", student="0", teacher="0")]}, r"terms: got \['0', '0'\]"),
        ({"weights": GeneratorWeights(0.0)}, "weights: got .*; allowed: at least one above 0"),
        ({"teacher": EnsembleTeacher([FrozenTeacher(built(2), TASK)])}, "teacher: got 'Ensemble"),
        (
            {"teacher": FrozenTeacher(nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), TASK)},
            "batch_norm: got 0.7; allowed: 0, for a teacher without batch normalisation",
        ),
    ],
)
def test_what_cannot_be_distilled_without_data_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        scheme(**change)


def test_inputs_that_cannot_be_generated_are_refused():
    for probe, message in (
        (torch.zeros(2, 5, dtype=torch.long), "inputs of int64"),
        (torch.zeros(2, 5, 5), "inputs with 2 axes"),
    ):
        inputs = SchemeInputs(
            task=TASK,
            objective=lambda: Objective([Term("logit_mse")]),
            probe={"image": probe},
            teacher=FrozenTeacher(built(9), TASK),
        )
        with pytest.raises(InputError, match=message):
            DataFreeSettings().build_scheme(built(1), inputs)
