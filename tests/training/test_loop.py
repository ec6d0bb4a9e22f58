"""The training loop around its steps: modes, logs, selection, early stopping."""

from __future__ import annotations

import functools
import json
import math

import pytest
import torch
from torch import nn

from limbeck.core import fingerprint
from limbeck.errors import InputError, LimbeckError
from limbeck.training import checkpoint, data


def scores(*values):
    """Validate with these numbers, one after the other."""
    left = list(values)
    return lambda model: {"score": left.pop(0)}


def test_the_student_trains_in_train_mode_after_every_evaluation(tiny, tmp_path, accelerator):
    subject, modes, validated = tiny.scheme(), [], []
    plain = subject.step

    def step(batch, progress, total_weights, phase):
        modes.append({module.training for module in subject.student.modules()})
        return plain(batch, progress, total_weights, phase)

    def validate(model):
        validated.append(model is subject.student)
        return tiny.score(model)

    subject.step = step
    tiny.train(tmp_path, subject=subject, validate=validate, log_every=1)
    assert modes == [{True}] * 18
    assert validated == [True] * 3
    assert not any(module.training for module in subject.student.modules())


def test_each_term_is_logged_raw_and_weighted(tiny, tmp_path, accelerator):
    _, history = tiny.train(tmp_path, subject=tiny.scheme(hint=True), log_every=2)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    epochs = [row for row in rows if "validation/wobble" in row]
    assert epochs == list(history.rows)
    assert [row["step"] for row in epochs] == [3, 6, 9]
    assert [row["step"] for row in rows if row not in epochs] == [2, 4, 6, 8]
    weights = {"task": 0.1, "soft_target_kl": 0.9, "fitnet_hint": 2.0}
    for row in rows:
        total = sum(row[f"train/{name}/weighted"] for name in weights)
        assert row["train/loss"] == pytest.approx(total)
        for name, weight in weights.items():
            assert row[f"train/{name}/weighted"] == pytest.approx(weight * row[f"train/{name}/raw"])


def test_a_nan_stops_the_run_and_names_the_term(tiny, tmp_path, accelerator):
    dataset, subject = tiny.Images(), tiny.scheme()
    plain = subject._objective._ready[1].loss

    def spoiled(student, teacher, **more):
        nan = math.nan if dataset.epoch == 1 else 1.0
        return plain(student, teacher, **more) * nan

    object.__setattr__(subject._objective._ready[1], "loss", spoiled)
    with pytest.raises(LimbeckError, match=r"not finite: soft_target_kl = nan\. Lower"):
        tiny.train(tmp_path, subject=subject, train=dataset)
    assert all(parameter.isfinite().all() for parameter in subject.trainable())
    assert checkpoint.latest(tmp_path / "checkpoint").plain["progress"]["step"] == 3


@pytest.mark.parametrize(
    ("values", "best"), [((0.1, 0.3, 0.2), 2), ((0.3, 0.1, 0.3), 3), ((math.nan, 0.1, math.nan), 2)]
)
@pytest.mark.parametrize("keep", ["best", "last"])
def test_the_weights_of_the_chosen_epoch_are_kept(tiny, tmp_path, accelerator, values, best, keep):
    subject, seen = tiny.scheme(), []
    score = scores(*values)

    def validate(model):
        seen.append(fingerprint.of_tensors(model.state_dict()))
        return score(model)

    _, history = tiny.train(tmp_path, subject=subject, validate=validate, keep=keep)
    kept = best if keep == "best" else 3
    assert history.best_step == 3 * kept
    assert fingerprint.of_tensors(subject.student.state_dict()) == seen[kept - 1]
    for row, value in zip(history.rows, values, strict=True):
        assert row.get("validation/score", math.nan) == pytest.approx(value, nan_ok=True)
    json.dumps(history.rows, allow_nan=False)


@pytest.mark.parametrize("validate", [lambda model: {}, lambda model: {"score": math.nan}])
def test_without_a_number_the_last_epoch_is_kept(tiny, tmp_path, accelerator, validate):
    _, history = tiny.train(tmp_path, validate=validate)
    assert history.best_step == 9


def test_patience_stops_early(tiny, tmp_path, accelerator):
    validate = scores(0.1, 0.3, 0.3, 0.2, 0.9)
    _, history = tiny.train(tmp_path, validate=validate, patience=2, epochs=9)
    assert history.stopped_early
    assert len(history.rows) == 4
    assert history.steps == 12
    assert history.best_step == 9


def test_the_teacher_stays_as_it_was_and_is_saved_nowhere(tiny, tmp_path, accelerator):
    subject = tiny.scheme(hint=True)
    teacher = subject.teacher.model
    before = fingerprint.of_module(teacher)
    tiny.train(tmp_path, subject=subject, weight_decay=0.1, ema_decay=0.5)
    assert fingerprint.of_module(teacher) == before == subject.teacher.fingerprint
    assert all(parameter.grad is None for parameter in teacher.parameters())
    saved = checkpoint.latest(tmp_path / "checkpoint")
    sizes = {name: tensor.shape for name, tensor in saved.tensors.items()}
    owned = {name for module in subject.modules_to_save().values() for name in module.state_dict()}
    owned |= {f"module.{name}" for name in owned} | {"n_averaged"}  # of the moving average
    for name in sizes:
        kind, _, rest = name.partition("/")
        assert kind in {"module", "best", "optimizer", "process"}
        if kind in {"module", "best"}:
            assert rest.rpartition("/")[2] in owned
    teachers = {tensor.shape for tensor in teacher.state_dict().values() if tensor.dim() > 1}
    assert not teachers & set(sizes.values())


def test_trackers_get_the_same_numbers(tiny, tmp_path):
    from accelerate import Accelerator
    from accelerate.tracking import GeneralTracker

    class Fake(GeneralTracker):
        name, requires_logging_directory = "fake", False

        def __init__(self):
            super().__init__()
            self.rows = []

        @property
        def tracker(self):
            return self.rows

        def store_init_configuration(self, values):
            pass

        def log(self, values, step=None, **more):
            self.rows.append((step, dict(values)))

    fake = Fake()
    accelerator = Accelerator(cpu=True, log_with=fake)
    accelerator.init_trackers("trial")
    tiny.train(tmp_path, accelerator=accelerator, log_every=2)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row for _, row in fake.rows] == rows
    assert [step for step, _ in fake.rows] == [row["step"] for row in rows]


def test_every_step_and_every_epoch_is_reported_with_loss_and_score(tiny, tmp_path, accelerator):
    steps, epochs = [], []

    class Reporter:
        def update(self, done, total, note, *, milestone=False):
            (epochs if milestone else steps).append((done, total, note))

    tiny.train(tmp_path, progress_bar=Reporter(), log_every=1)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [done for done, _, _ in steps] == list(range(1, 10))
    assert {total for _, total, _ in steps + epochs} == {9}
    by_step = [row for row in rows if "validation/wobble" not in row]
    for (done, _, note), row in zip(steps, by_step, strict=True):
        assert note.startswith(f"epoch {(done + 2) // 3}/3, loss {row['train/loss']:.4g}")
    by_epoch = [row for row in rows if "validation/wobble" in row]
    assert [done for done, _, _ in epochs] == [3, 6, 9]
    for number, ((_, _, note), row) in enumerate(zip(epochs, by_epoch, strict=True), start=1):
        assert note.startswith(f"epoch {number}/3, loss {row['train/loss']:.4g} (")
        assert f"soft_target_kl {row['train/soft_target_kl/weighted']:.4g}" in note
        assert f"validation wobble {row['validation/wobble']:.4f}" in note
        assert f"learning rate {row['learning_rate']:.3g}" in note
    assert steps[-1][2].endswith(f"validation wobble {by_epoch[1]['validation/wobble']:.4f}")


def test_every_sample_is_seen_once_an_epoch(tiny, tmp_path, accelerator):
    for samples, size in ((22, 4), (21, 4), (9, 4), (2, 8), (1, 8), (64, 64)):
        for processes in (1, 2):
            parts = data.batches(samples, size=size, seed=0, epoch=1, processes=processes)
            shares = [
                index
                for part in parts
                for rank in range(processes)
                for index in data.share(part, rank=rank, processes=processes)
            ]
            assert sorted(shares) == list(range(samples))
            assert samples == 1 or min(map(len, parts)) >= 2
        assert [*parts] == [*data.batches(samples, size=size, seed=0, epoch=1)]
    assert (
        data.batches(9, size=4, seed=1, epoch=0)[0] != data.batches(9, size=4, seed=0, epoch=0)[0]
    )


def test_nothing_to_train_on_is_an_error(tiny, tmp_path, accelerator):
    with pytest.raises(InputError, match="training samples: got 0; allowed: at least 1"):
        tiny.train(tmp_path, train=tiny.Images(0))


@pytest.mark.filterwarnings("default")  # torch's compiler warns of itself
def test_a_compiled_student_is_given_back_as_it_was(tiny, tmp_path, accelerator, monkeypatch):
    # What the compiler makes of the graph is torch's business, and takes a minute to look at.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    results = []
    for compiles in (True, False):
        subject = tiny.scheme(dropout=0.0, hint=True)
        student = subject.student
        folder = tmp_path / str(compiles)
        tiny.train(folder, subject=subject, compile=compiles, epochs=2, keep="last")
        assert subject.student is student
        results.append([parameter.detach() for parameter in subject.trainable()])
    for actual, reference in zip(*results, strict=True):
        torch.testing.assert_close(actual, reference, rtol=1e-4, atol=1e-5)


def test_a_student_with_frozen_parts_trains_the_rest(tiny, tmp_path, accelerator):
    subject = tiny.scheme()
    subject.student[0].requires_grad_(False)
    before = subject.student[0].weight.clone(), subject.student[-1].weight.clone()
    tiny.train(tmp_path, subject=subject, weight_decay=0.1)
    assert torch.equal(subject.student[0].weight, before[0])
    assert not torch.equal(subject.student[-1].weight, before[1])
    assert isinstance(subject.student[1], nn.BatchNorm2d)


@pytest.mark.parametrize(
    ("kind", "given"),
    [("DEEPSPEED", "DEEPSPEED"), ("MEGATRON_LM", "MEGATRON_LM"), ("FSDP", "FSDP version 1")],
)
def test_other_ways_of_distribution_are_refused(tiny, tmp_path, accelerator, kind, given):
    from accelerate.utils import DistributedType

    class Other:
        distributed_type, is_fsdp2 = DistributedType[kind], False

    with pytest.raises(InputError, match=f"accelerator: got '{given}'; allowed: one process"):
        tiny.train(tmp_path, accelerator=Other())


def test_the_student_that_ships_is_chosen_by_validation(tiny, tmp_path, accelerator):
    from limbeck.training import Training, fit

    scores = {4: [0.1, 0.9, 0.2], 5: [0.5, 0.6, 0.4]}  # by width

    def validate(model):
        return {"score": scores[model[0].out_channels].pop(0)}

    def train(ship, folder):
        subject = tiny.mutual()
        history = fit(
            subject,
            train=tiny.Images(),
            validate=validate,
            settings=Training(epochs=3, batch_size=8),
            folder=tmp_path / folder,
            seed=0,
            accelerator=accelerator,
            ship=ship,
        )
        return subject, history

    whole, history = train("best", "best")
    assert (history.student, history.best_step) == ("student", 6)
    assert [row["validation/score"] for row in history.rows] == [0.5, 0.9, 0.4]
    assert [row["validation/peer_1/score"] for row in history.rows] == [0.5, 0.6, 0.4]
    scores.update({5: [0.1, 0.2, 0.3]})
    _, history = train("peer_1", "peer")
    assert (history.student, history.best_step) == ("peer_1", 9)
    assert scores[4] == []
    scores.update({4: [0.3, 0.3, 0.3], 5: [0.4, 0.2, 0.1]})
    other, history = train("best", "other")
    assert (history.student, history.best_step) == ("peer_1", 3)
    states = [one.peer_1.state_dict().values() for one in (whole, other)]
    assert not all(map(torch.equal, *states))  # of the first epoch, and of the last
    with pytest.raises(InputError, match="ship: got 'peer'; allowed: best, student, peer_1"):
        train("peer", "none")
