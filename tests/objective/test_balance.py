"""Gradient norms, and weights that make them equal."""

import pytest
import torch
from torch import nn

from limbeck.objective import Objective, Term
from limbeck.objective.balance import Balance, gradient_norms


def test_norms_are_those_of_a_plain_backward_pass():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    value = net(torch.randn(5, 3)).square().mean()
    parameters = list(net.parameters())
    measured = gradient_norms({"value": value, "none": torch.zeros(())}, parameters)
    value.backward()
    expected = torch.cat([parameter.grad.flatten() for parameter in parameters]).norm()
    torch.testing.assert_close(measured["value"], expected)
    assert measured["none"] == 0


def objective_of(*terms, **settings):
    net = nn.Linear(3, 4)
    data, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 3, 0, 1])
    teacher = torch.randn(6, 4)
    objective = Objective(terms, **settings)

    def step(progress):
        logits = net(data)
        parameters = list(net.parameters())
        return objective.compute(logits, teacher, labels, progress=progress, parameters=parameters)

    return objective, step


def test_automatic_weights_equalise_gradient_norms():
    objective, step = objective_of(
        Term("cross_entropy", weight=0.5), Term("logit_mse", weight="auto")
    )
    first = step(0.0)
    assert first.terms["logit_mse"].weighted == first.terms["logit_mse"].raw
    second = step(0.01)
    norms = first.gradient_norms
    expected = 0.5 * norms["cross_entropy"] / norms["logit_mse"]
    torch.testing.assert_close(
        second.terms["logit_mse"].weighted, second.terms["logit_mse"].raw * expected
    )
    assert not second.gradient_norms  # measured every 50 steps
    assert "balance" in objective.modules()


def test_micro_batches_of_one_step_are_weighed_alike():
    objective, step = objective_of(Term("cross_entropy"), Term("logit_mse", weight="auto"))
    for _ in range(3):
        step(0.0)
        assert objective.balance.weight("logit_mse") == 1
    step(0.1)
    assert objective.balance.weight("logit_mse") != 1


def test_with_all_weights_automatic_the_reference_is_the_mean_norm():
    balance = Balance(["a", "b"])
    assert balance.is_due(0.0)
    balance.update({"a": torch.tensor(4.0), "b": torch.tensor(1.0)}, {})
    balance.is_due(0.5)
    assert [balance.weight(name) for name in "ab"] == pytest.approx([2.5 / 4, 2.5])


def test_a_term_without_gradient_keeps_its_weight():
    balance = Balance(["a"])
    balance.is_due(0.0)
    balance.update({"a": torch.tensor(0.0), "b": torch.tensor(1.0)}, {"b": 1.0})
    balance.is_due(0.5)
    assert balance.weight("a") == 1


def test_its_state_can_be_saved_and_put_back():
    objective, step = objective_of(Term("cross_entropy"), Term("logit_mse", weight="auto"))
    step(0.0)
    again = Balance(["logit_mse"])
    again.load_state_dict(objective.balance.state_dict())
    objective.balance.is_due(0.1)
    again.is_due(0.1)
    assert again.weight("logit_mse") == objective.balance.weight("logit_mse") != 1


def test_norms_are_measured_only_on_request():
    objective, step = objective_of(Term("cross_entropy"), Term("logit_mse"), measure_every=2)
    measured = [bool(step(progress).gradient_norms) for progress in (0.0, 0.1, 0.2, 0.3)]
    assert measured == [True, False, True, False]
    assert "balance" not in objective.modules()
    _, plain = objective_of(Term("cross_entropy"))
    assert not plain(0.0).gradient_norms
