"""An ensemble is the mean of probabilities, not of logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import special

from limbeck.errors import InputError
from limbeck.targets import DenseTargets
from limbeck.teachers import Answer, EnsembleTeacher, FrozenTeacher


class ConstantTeacher:
    """A teacher with the same output for every batch."""

    def __init__(self, logits, name=""):
        self.logits, self.fingerprint = logits, name

    def answer(self, batch):
        return Answer({"logits": DenseTargets(self.logits)})


@pytest.mark.parametrize("members", [1, 2, 5])
@pytest.mark.parametrize("scale", [1.0, 30.0, 1e4])
def test_probabilities_are_averaged(members, scale):
    draw = np.random.default_rng(0)
    logits = draw.normal(size=(members, 7, 4)) * scale
    ensemble = EnsembleTeacher([ConstantTeacher(torch.from_numpy(one).float()) for one in logits])
    mean = special.softmax(logits, axis=-1).mean(0)
    answer = ensemble.answer({}).logits
    # A float32 of 1e4 has three digits behind the point, and no probability below 1e-45.
    rtol = 2e-3 if scale > 99 else 1e-5
    np.testing.assert_allclose(answer.softmax(-1).numpy(), mean, rtol=rtol, atol=1e-37)
    assert answer.isfinite().all()


def test_members_are_frozen_models(digits, task, net):
    models = [net(seed) for seed in range(3)]
    ensemble = EnsembleTeacher([FrozenTeacher(model, task) for model in models])
    for model in models:
        model.train()
    batch = digits.train.__getitems__(range(10))
    answer = ensemble.answer(batch).logits
    mean = sum(model.eval()(batch["image"]).softmax(-1) for model in models) / 3
    torch.testing.assert_close(answer.softmax(-1), mean)
    assert not answer.requires_grad


def test_its_fingerprint_is_its_members():
    prints = [
        EnsembleTeacher([ConstantTeacher(None, name) for name in names]).fingerprint
        for names in ("ab", "ab", "ba", "abc")
    ]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


def test_members_must_fit_together():
    with pytest.raises(InputError, match="at least one teacher"):
        EnsembleTeacher([])
    odd = EnsembleTeacher([ConstantTeacher(torch.zeros(2, 3)), ConstantTeacher(torch.zeros(2, 4))])
    with pytest.raises(InputError, match="same elements and classes"):
        odd.answer({})
