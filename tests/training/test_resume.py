"""Killed anywhere and resumed, a training comes to the same bits and the same log."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

CONFIGURATIONS = {
    "adamw": {},
    "everything": {
        "hint": True,
        "ema_decay": 0.7,
        "log_every": 2,
        "max_grad_norm": 0.5,
        "weight_decay": 0.1,
        "keep": "best",
    },
    "sgd, last": {
        "optimizer": "sgd",
        "keep": "last",
        "gradient_accumulation_steps": 1,
        "batch_size": 8,
    },
    "patience": {"patience": 1, "epochs": 6, "ema_decay": 0.5, "keep": "last"},
}


def bits(subject):
    state = {
        f"{name}.{key}": value.clone()
        for name, module in subject.modules_to_save().items()
        for key, value in module.state_dict().items()
    }
    return state | {"random": torch.get_rng_state()}


def log(folder):
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def same(one, other):
    assert one.keys() == other.keys()
    return [key for key in one if not torch.equal(one[key], other[key])] == []


def go(tiny, folder, accelerator, *, hint=False, **settings):
    subject = tiny.scheme(hint=hint)
    _, history = tiny.train(folder, subject=subject, accelerator=accelerator, **settings)
    return bits(subject), log(folder), history


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_killed_at_every_step_it_comes_to_the_same_bits(tiny, tmp_path, accelerator, name):
    settings = CONFIGURATIONS[name]
    expected, rows, history = go(tiny, tmp_path / "whole", accelerator, **settings)
    again, _, _ = go(tiny, tmp_path / "again", accelerator, **settings)
    assert same(expected, again)
    assert history.steps >= 6
    for step in range(1, history.steps + 1):
        folder = tmp_path / str(step)
        with pytest.raises(tiny.Killed):
            go(tiny, folder, accelerator, progress_bar=tiny.KillAt(step), **settings)
        got, got_rows, got_history = go(tiny, folder, accelerator, **settings)
        assert same(got, expected), step
        assert got_rows == rows
        assert got_history.best_step == history.best_step
        assert got_history.stopped_early == history.stopped_early


def test_killed_while_validating_or_logging_it_comes_to_the_same_bits(
    tiny, tmp_path, accelerator, monkeypatch
):
    expected, rows, _ = go(tiny, tmp_path / "whole", accelerator)
    calls = []

    def killed(model):
        calls.append(model)
        if len(calls) == 2:
            raise tiny.Killed
        return tiny.score(model)

    with pytest.raises(tiny.Killed):
        go(tiny, tmp_path / "a", accelerator, validate=killed)
    got, got_rows, _ = go(tiny, tmp_path / "a", accelerator)
    assert same(got, expected)
    assert got_rows == rows

    from limbeck.training.log import Log

    plain = Log.write

    def half(self, row):
        if row["epoch"] == 2:
            with self._path.open("a") as file:
                file.write('{"epoch": 2, "st')
            raise tiny.Killed
        plain(self, row)

    with monkeypatch.context() as patch:
        patch.setattr(Log, "write", half)
        with pytest.raises(tiny.Killed):
            go(tiny, tmp_path / "b", accelerator)
    got, got_rows, _ = go(tiny, tmp_path / "b", accelerator)
    assert same(got, expected)
    assert got_rows == rows


def test_a_finished_training_is_not_trained_again(tiny, tmp_path, accelerator):
    expected, rows, history = go(tiny, tmp_path, accelerator)
    got, got_rows, again = go(tiny, tmp_path, accelerator, progress_bar=tiny.KillAt(1))
    assert same(got, expected)
    assert got_rows == rows
    assert again == history


def test_begun_anew_it_forgets_older_checkpoints(tiny, tmp_path, accelerator):
    go(tiny, tmp_path, accelerator, epochs=3)
    with pytest.raises(tiny.Killed):
        go(tiny, tmp_path, accelerator, resume=False, progress_bar=tiny.KillAt(3))
    kept = sorted(path.name for path in (tmp_path / "checkpoint").iterdir())
    assert kept == ["000000001.safetensors", "000000002.safetensors"]
    assert log(tmp_path) == []
    expected, rows, _ = go(tiny, tmp_path / "whole", accelerator)
    got, got_rows, _ = go(tiny, tmp_path, accelerator)
    assert same(got, expected)
    assert got_rows == rows


def test_data_workers_change_nothing(tiny, tmp_path, accelerator):
    expected, _, _ = go(tiny, tmp_path / "none", accelerator)
    with pytest.raises(tiny.Killed):
        go(tiny, tmp_path / "one", accelerator, num_workers=1, progress_bar=tiny.KillAt(2))
    got, _, _ = go(tiny, tmp_path / "one", accelerator, num_workers=1)
    assert same(got, expected)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"learning_rate": 0.02}, "learning_rate was 0.01, now it is 0.02"),
        ({"seed": 4}, "seed was 3, now it is 4"),
        ({"epochs": 4}, "epochs was 3, now it is 4"),
        ({"hint": True}, r"connectors's fitnet_hint.* was of shape None, now it is \(6, 4, 1, 1\)"),
    ],
)
def test_another_trainings_checkpoint_is_refused(tiny, tmp_path, accelerator, changed, message):
    from limbeck.training import CheckpointError

    go(tiny, tmp_path, accelerator)
    with pytest.raises(CheckpointError, match=f"another training.*{message}.*begin anew"):
        go(tiny, tmp_path, accelerator, **changed)


def test_another_models_checkpoint_is_refused(tiny, tmp_path, accelerator):
    from limbeck.training import CheckpointError

    go(tiny, tmp_path, accelerator)
    subject = tiny.scheme(width=5)
    before = bits(subject)
    with pytest.raises(CheckpointError, match=r"student's 0.weight was of shape \(4, 1, 3, 3\)"):
        tiny.train(tmp_path, subject=subject, accelerator=accelerator)
    assert same(bits(subject), before)


def test_what_decides_nothing_may_change(tiny, tmp_path, accelerator):
    expected, _, _ = go(tiny, tmp_path / "whole", accelerator)
    with pytest.raises(tiny.Killed):
        go(tiny, tmp_path / "a", accelerator, progress_bar=tiny.KillAt(3))
    got, _, _ = go(tiny, tmp_path / "a", accelerator, checkpoint_every=100, log_every=1)
    assert same(got, expected)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_saves_a_checkpoint_first(tiny, tmp_path, accelerator, number, request):
    # Tests under nohup have SIGHUP ignored, and a run leaves an ignored signal alone.
    request.addfinalizer(partial(signal.signal, number, signal.getsignal(number)))
    signal.signal(number, signal.default_int_handler)
    expected, rows, _ = go(tiny, tmp_path / "whole", accelerator)
    before = signal.getsignal(number)
    progress_bar = tiny.KillAt(4, number=number)
    with pytest.raises(KeyboardInterrupt):
        go(tiny, tmp_path / "a", accelerator, progress_bar=progress_bar, checkpoint_every=1000)
    assert signal.getsignal(number) is before
    assert [path.name for path in (tmp_path / "a" / "checkpoint").iterdir()] == [
        "000000004.safetensors"
    ]
    got, got_rows, _ = go(tiny, tmp_path / "a", accelerator)
    assert same(got, expected)
    assert got_rows == rows


def test_an_interrupt_in_the_last_validation_is_not_lost(tiny, tmp_path, accelerator):
    expected, rows, _ = go(tiny, tmp_path / "whole", accelerator)
    calls = []

    def validate(model):
        calls.append(model)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return tiny.score(model)

    with pytest.raises(KeyboardInterrupt):
        go(tiny, tmp_path / "a", accelerator, validate=validate, checkpoint_every=1000)
    got, got_rows, _ = go(tiny, tmp_path / "a", accelerator)
    assert len(calls) == 3
    assert same(got, expected)
    assert got_rows == rows


def test_a_second_interrupt_does_not_wait(tiny):
    from limbeck.core.process import TOGETHER, SignalGuard

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), SignalGuard() as signals:  # noqa: PT012
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.received
        os.kill(os.getpid(), signal.SIGTERM)  # as `timeout` sends it: to the process and its group
        time.sleep(TOGETHER)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the second signal was swallowed")
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(KeyboardInterrupt), SignalGuard():
        os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(scope="module")
def killed_with_9(tiny):
    """Run a function of tiny.py in a process of its own, and see it end by SIGKILL."""
    sys.path.insert(0, str(Path(tiny.__file__).parent))  # where that process looks for tiny.py
    # A server that has run no gradient forks it: a process that has cannot fork one that will.
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["torch", "accelerate"])

    def run(function, *arguments):
        child = server.Process(target=function, args=arguments)
        child.start()
        child.join()
        assert child.exitcode == -signal.SIGKILL

    yield run
    sys.path.remove(str(Path(tiny.__file__).parent))


@pytest.mark.slow
def test_killed_with_9_it_comes_to_the_same_bits(tiny, tmp_path, accelerator, killed_with_9):
    expected, rows, _ = go(tiny, tmp_path / "whole", accelerator)
    for step in (2, 4, 7, 9):
        killed_with_9(tiny.train_until_killed, tmp_path / "a", step)
    got, got_rows, _ = go(tiny, tmp_path / "a", accelerator)
    assert same(got, expected)
    assert got_rows == rows
    names = sorted(path.name for path in (tmp_path / "a" / "checkpoint").iterdir())
    assert names == ["000000008.safetensors", "000000009.safetensors"]


def test_killed_with_9_while_it_saves_it_comes_to_the_same_bits(
    tiny, tmp_path, accelerator, killed_with_9
):
    expected, rows, _ = go(tiny, tmp_path / "whole", accelerator)
    killed_with_9(tiny.train_until_killed_saving, tmp_path / "a", 3)
    assert len(list((tmp_path / "a" / "checkpoint").glob(".*.partial"))) == 1
    got, got_rows, _ = go(tiny, tmp_path / "a", accelerator)
    assert same(got, expected)
    assert got_rows == rows
    assert not list((tmp_path / "a" / "checkpoint").glob(".*.partial"))
