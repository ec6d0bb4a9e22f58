"""Schemes of several phases: each has its optimiser, its parameters and its number of updates."""

from __future__ import annotations

import pytest
import torch

from limbeck.errors import InputError
from limbeck.schemes import Offline, Phase
from limbeck.training import CheckpointError, Training
from limbeck.training.step import Stepper


class Alternating(Offline):
    """The last layer is updated twice, after the others, and follows nothing else."""

    @property
    def phases(self):
        first, last = self.student[:-1].parameters(), self.student[-1].parameters()
        return {"body": Phase(tuple(first)), "head": Phase(tuple(last), steps=2)}

    def begin_epoch(self, epoch):
        self.calls.append(epoch)

    def step(self, batch, progress, total_weights=None, phase="body"):
        self.calls.append(phase)
        return super().step(batch, progress, total_weights)

    def after_step(self, step):
        self.steps.append(step)


def scheme(tiny):
    subject = tiny.scheme(dropout=0, norm=False)
    subject.__class__ = Alternating
    subject.calls, subject.steps = [], []
    return subject


def test_each_phase_updates_its_own_parameters_on_all_micro_batches(tiny, accelerator):
    subject, reference = scheme(tiny), scheme(tiny)
    images = tiny.Images(8)
    settings = Training(epochs=1, optimizer="sgd", momentum=0, learning_rate=0.5, warmup_ratio=0)
    batches = [images.__getitems__(list(rows)) for rows in (range(3), range(3, 8))]
    row = Stepper(subject, settings, accelerator).train_step(batches, 0.0)
    whole = images.__getitems__(list(range(8)))
    losses = []
    for part in (reference.student[:-1], reference.student[-1], reference.student[-1]):
        loss = reference.step(whole, 0.0).total
        parameters = list(part.parameters())
        gradients = torch.autograd.grad(loss, parameters)
        losses.append(loss.item())
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter -= 0.5 * gradient
    for actual, expected in zip(subject.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(actual, expected)
        assert actual.grad is None
    assert subject.calls == ["body"] * 2 + ["head"] * 4
    assert row["train/loss"] == pytest.approx(losses[0] + losses[2])
    names = {name.removeprefix("train/") for name in row if name.endswith("raw")}
    terms = ("task", "soft_target_kl")
    assert names == {f"{phase}/{term}/raw" for phase in ("body", "head") for term in terms}


def test_hooks_frame_epochs_and_steps_also_after_a_kill(tiny, tmp_path, accelerator):
    ends = []
    for folder, kill in ((tmp_path / "whole", None), (tmp_path / "killed", 4)):
        if kill:
            with pytest.raises(tiny.Killed):
                tiny.train(folder, subject=scheme(tiny), progress_bar=tiny.KillAt(kill))
        subject = scheme(tiny)
        tiny.train(folder, subject=subject, accelerator=accelerator)
        epochs = [call for call in subject.calls if isinstance(call, int)]
        # Killed in step 4, before its checkpoint: resumed within the second epoch.
        assert epochs == [0, 1, 2][1 if kill else 0 :]
        assert subject.steps == list(range(1, 10))[kill - 1 if kill else 0 :]
        ends.append(list(subject.parameters()))
    assert all(map(torch.equal, *ends))


def test_a_checkpoint_of_other_phases_is_refused(tiny, tmp_path, accelerator):
    tiny.train(tmp_path, subject=tiny.scheme(dropout=0, norm=False))
    with pytest.raises(CheckpointError, match=r"phases was \['student'\], now it is \['body', "):
        tiny.train(tmp_path, subject=scheme(tiny))


def test_a_phase_without_parameters_is_an_error(tiny, accelerator):
    subject = scheme(tiny)
    subject.__class__ = type("Frozen", (Alternating,), {"phases": {"head": Phase(())}})
    with pytest.raises(InputError, match="head: got 'no parameters'"):
        Stepper(subject, Training(epochs=1), accelerator)


@pytest.mark.parametrize("step", [2, 5, 8])
def test_mutual_learning_killed_and_resumed_comes_to_the_same_bits(
    tiny, tmp_path, accelerator, step
):
    settings = {"ema_decay": 0.7, "log_every": 2, "max_grad_norm": 0.5, "weight_decay": 0.1}
    whole, history = tiny.train(tmp_path / "whole", subject=tiny.mutual(), **settings)
    with pytest.raises(tiny.Killed):
        tiny.train(
            tmp_path / "a", subject=tiny.mutual(), progress_bar=tiny.KillAt(step), **settings
        )
    again, resumed = tiny.train(tmp_path / "a", subject=tiny.mutual(), **settings)
    assert whole.state_dict().keys() == again.state_dict().keys()
    assert all(map(torch.equal, whole.state_dict().values(), again.state_dict().values()))
    losses = [
        [{key: row[key] for key in row if key != "seconds"} for row in one.rows]
        for one in (history, resumed)
    ]
    assert losses[0] == losses[1]
    assert {"train/student/task/raw", "train/peer_1/soft_target_kl/weighted"} <= {*losses[0][0]}
