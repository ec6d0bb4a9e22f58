"""Mutual learning against algorithm 1 of the paper, written here in numpy and plain torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from torch import nn

from limbeck.errors import InputError
from limbeck.objective import Objective, Term
from limbeck.schemes.mutual import Mutual
from limbeck.tasks.image_classification import ImageClassification
from limbeck.training import Training
from limbeck.training.step import Stepper

GENERATOR = torch.Generator().manual_seed(0)
BATCH = {
    "image": torch.randn(12, 1, 4, 4, generator=GENERATOR, dtype=torch.float64),
    "labels": torch.arange(12) % 3,
    "weight": torch.rand(12, generator=GENERATOR, dtype=torch.float64),
}
PLAIN = {"optimizer": "sgd", "momentum": 0, "learning_rate": 0.5, "warmup_ratio": 0}


class Weighed(ImageClassification):
    def weights(self, batch):
        return {"logits": batch["weight"]}


TASK = Weighed(classes=("a", "b", "c"))


def objective():
    return Objective([Term("task"), Term("soft_target_kl", temperature=1.0)])


def net(seed, *, norm=False):
    torch.manual_seed(seed)
    parts = [nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2) if norm else nn.Tanh(), nn.Flatten()]
    return nn.Sequential(*parts, nn.Linear(8, 3)).double()


def mutual(count=2, *, terms=objective, **settings):
    names = ["student", *(f"peer_{number}" for number in range(1, count))]
    students = {name: net(seed, **settings) for seed, name in enumerate(names)}
    return Mutual(students, TASK, terms, probe=BATCH)


def rows(*indices):
    return {name: tensor[list(indices)] for name, tensor in BATCH.items()}


def defined(logits, others, labels, weights):
    """Compute the paper's loss of one student: labels, and the mean KL to it from the others."""
    log_q = log_softmax(logits, axis=1)
    loss = -log_q[np.arange(len(labels)), labels]
    for other in others:
        log_p = log_softmax(other, axis=1)
        loss = loss + (np.exp(log_p) * (log_p - log_q)).sum(1) / len(others)
    return float((weights * loss).sum() / weights.sum())


@pytest.mark.parametrize("count", [2, 3])
def test_the_loss_and_its_gradient_are_the_papers(count):
    scheme = mutual(count)
    weights, labels = BATCH["weight"].numpy(), BATCH["labels"].numpy()
    for name, student in scheme.students.items():
        losses = scheme.step(BATCH, 0.0, phase=name)
        logits = {n: one(BATCH["image"]).detach().numpy() for n, one in scheme.students.items()}
        others = [value for other, value in logits.items() if other != name]
        expected = defined(logits[name], others, labels, weights)
        assert losses.total.item() == pytest.approx(expected, rel=1e-12)
        terms = losses.terms
        assert terms["task"].raw + terms["soft_target_kl"].raw == pytest.approx(expected)
        bias = student[-1].bias
        [gradient] = torch.autograd.grad(losses.total, bias)
        for place in range(3):
            moved = [logits[name] + h * np.eye(3)[place] for h in (1e-6, -1e-6)]
            up, down = (defined(one, others, labels, weights) for one in moved)
            assert gradient[place].item() == pytest.approx((up - down) / 2e-6, rel=1e-6, abs=1e-9)


def test_no_gradient_of_one_student_reaches_another():
    scheme = mutual(3)
    for name in scheme.students:
        scheme.zero_grad()
        scheme.step(BATCH, 0.0, phase=name).total.backward()
        for other, student in scheme.students.items():
            moved = [parameter.grad is not None for parameter in student.parameters()]
            assert moved == [other == name] * len(moved)


def test_students_are_updated_one_after_the_other_each_by_its_optimizer(accelerator):
    scheme, reference = mutual(), mutual()
    stepper = Stepper(scheme, Training(epochs=1, **PLAIN), accelerator)
    stepper.train_step([BATCH], 0.0)
    owned = {name: set(phase.parameters) for name, phase in scheme.phases.items()}
    for name, optimizer in stepper.optimizers.items():
        assert {p for group in optimizer.param_groups for p in group["params"]} == owned[name]
    for name in ("student", "peer_1"):  # the second learns from the updated first
        parameters = list(reference.students[name].parameters())
        loss = reference.step(BATCH, 0.0, phase=name).total
        with torch.no_grad():
            for parameter, gradient in zip(
                parameters, torch.autograd.grad(loss, parameters), strict=True
            ):
                parameter -= 0.5 * gradient
    for actual, expected in zip(scheme.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-14)


def test_the_cut_into_micro_batches_changes_nothing(accelerator):
    ends = []
    for cut in ([range(12)], [range(5), range(5, 12)], [[row] for row in range(12)]):
        scheme = mutual(3)
        stepper = Stepper(scheme, Training(epochs=1, **PLAIN), accelerator)
        row = stepper.train_step([rows(*indices) for indices in cut], 0.0)
        ends.append([torch.tensor(row["train/loss"]).double(), *scheme.parameters()])
    for end in ends[1:]:
        for actual, expected in zip(end, ends[0], strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


def test_running_statistics_count_each_batch_once(accelerator):
    scheme = mutual(3, norm=True)
    scheme.train()
    alone = {name: net(seed, norm=True) for seed, name in enumerate(scheme.students)}
    Stepper(scheme, Training(epochs=1, **PLAIN), accelerator).train_step([BATCH], 0.0)
    for name, model in alone.items():
        model.train()(BATCH["image"])
        for actual, expected in zip(scheme.students[name].buffers(), model.buffers(), strict=True):
            torch.testing.assert_close(actual, expected)
        assert scheme.students[name][1].track_running_stats


def test_a_check_tries_every_term_on_every_student():
    found = mutual(3).check_terms(BATCH)
    names = ("student", "peer_1", "peer_2")
    assert set(found) == {f"{name}/{term}" for name in names for term in ("task", "soft_target_kl")}
    assert all(one.norm > 0 for one in found.values())

    def cut_off(student, teacher):
        return (student.detach() - teacher).square().mean(1)

    scheme = mutual(terms=lambda: Objective([Term("task"), Term(cut_off)]))
    with pytest.raises(InputError) as error:
        scheme.check_terms(BATCH)
    places = [problem.where for problem in error.value.problems]
    assert places == ["student.cut_off", "peer_1.cut_off"]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: mutual(1), r"students: got \['student'\]; allowed: at least two students"),
        (
            lambda: Mutual({"a": net(0), "b": net(0)}, TASK, objective, probe=BATCH),
            "a and b with the same weights.*different seeds",
        ),
        (
            lambda: mutual(terms=lambda: Objective([Term("task")])),
            "terms: .*at least one term against the other students",
        ),
        (
            lambda: mutual(
                terms=lambda: Objective([Term("fitnet_hint", student="0", teacher="0")])
            ),
            "terms: .*terms on outputs only",
        ),
        (
            lambda: Mutual(
                {"a": net(0), "b": nn.Sequential(nn.Flatten(), nn.Linear(16, 4)).double()},
                TASK,
                objective,
                probe=BATCH,
            ),
            r"b: got .outputs of \[4\] classes.; allowed: \[3\], as a has",
        ),
    ],
)
def test_what_cannot_teach_each_other_is_refused(build, message):
    with pytest.raises(InputError, match=message):
        build()
