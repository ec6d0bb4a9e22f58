"""Batches of one sample, one class, equal samples or no weight: all results are finite."""

from __future__ import annotations

import pytest
import torch
from loss_trials import EACH, TRIALS

from limbeck import losses
from limbeck.objective import Objective, Term
from limbeck.testing.subject import Subject, each


def batches(subject):
    whole = subject.draw().to(torch.float32)
    yield "one sample", whole.rows(slice(0, 1))
    yield "two samples", whole.rows(slice(0, 2))
    yield "a sample twice", whole.rows(torch.tensor([0, 0]))
    if whole.labels is not None:
        one_class = whole.but(labels=torch.zeros_like(whole.labels))
        yield "one class", one_class
        yield "one sample of one class", one_class.rows(slice(0, 1))
    if subject.kind == "hard_label":
        yield "one class", whole.but(second=torch.zeros_like(whole.second))
        return

    def first(side):
        return side[:1].expand_as(side).clone()

    def constant(side):
        return torch.full_like(side, 3.0)

    yield "a teacher of equal rows", whole.but(second=each(first, whole.second))
    yield "a student of equal rows", whole.but(student=each(first, whole.student))
    same = whole.but(student=each(constant, whole.student), second=each(constant, whole.second))
    yield "constants", same
    yield "one sample of constants", same.rows(slice(0, 1))


@pytest.mark.parametrize(("name", "place"), EACH)
def test_every_loss_is_finite_on_odd_batches(name, place):
    trial = TRIALS[name][place]
    subject = Subject(trial.args[0], trial.keywords["kind"], None, 0, trial.keywords.get("draw"))
    for case, inputs in batches(subject):
        assert subject(inputs).isfinite().all(), case
        assert all(one.isfinite().all() for one in subject.gradient(inputs)), case


@pytest.mark.parametrize("name", ["dist", "mlkd", "info_nce", "rkd_distance", "rkd_angle"])
@pytest.mark.parametrize("weights", [(0, 0, 0, 0), (0, 1, 0, 0), (1, 1, 0, 0)])
def test_terms_over_a_batch_are_finite_whatever_counts(name, weights):
    assert name in losses.BATCH_LOSSES
    torch.manual_seed(0)
    logits = torch.randn(4, 3, requires_grad=True)
    labels = torch.zeros(4, dtype=torch.long)
    weights = torch.tensor(weights, dtype=torch.float32)
    objective = Objective([Term(name)])
    total = objective.compute(logits, torch.randn(4, 3), labels, weights).total
    total.backward()
    assert total.isfinite()
    assert logits.grad.isfinite().all()
    assert not logits.grad[weights == 0].any()
