"""Damaged checkpoints, full disks and folders that cannot be written to."""

from __future__ import annotations

import errno
import json
import random
import resource
from contextlib import contextmanager

import pytest
import torch
from safetensors import SafetensorError

from limbeck.core.files import WriteError
from limbeck.training import CheckpointError, checkpoint
from limbeck.training.checkpoint import Content


def content():
    tensors = {"module/student/w": torch.arange(12.0).view(3, 4), "empty": torch.zeros(0)}
    return Content(tensors, {"progress": {"step": 7, "score": 0.1}, "text": "ä"})


def files(folder):
    return sorted((folder / "checkpoint").glob("*.safetensors"))


def weights(subject):
    return torch.cat([value.flatten().double() for value in subject.student.state_dict().values()])


def test_what_is_saved_is_loaded(tmp_path):
    tied = torch.ones(2)
    saved = Content({**content().tensors, "a": tied, "b": tied.t()}, content().plain)
    for step in range(4):
        checkpoint.save(tmp_path, saved, step=step)
    assert len(list(tmp_path.iterdir())) == checkpoint.KEPT
    loaded = checkpoint.latest(tmp_path)
    assert loaded.plain == saved.plain
    assert loaded.tensors.keys() == saved.tensors.keys()
    assert all(torch.equal(loaded.tensors[name], saved.tensors[name]) for name in saved.tensors)
    checkpoint.clear(tmp_path)
    assert checkpoint.latest(tmp_path) is None


def test_every_damage_is_found(tmp_path):
    checkpoint.save(tmp_path, content(), step=1)
    [path] = tmp_path.iterdir()
    whole = path.read_bytes()
    draw = random.Random(0)
    for position in range(len(whole)):
        harmed = bytearray(whole)
        harmed[position] ^= 1 << draw.randrange(8)
        path.write_bytes(harmed)
        with pytest.raises(CheckpointError, match="damaged"):
            checkpoint.load(path)
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="damaged"):
            checkpoint.load(path)


def test_what_killed_processes_left_behind_is_removed(tmp_path):
    (tmp_path / ".000000001.safetensors.abc.partial").write_bytes(b"half")
    checkpoint.save(tmp_path, content(), step=2)
    assert [path.name for path in tmp_path.iterdir()] == ["000000002.safetensors"]


@pytest.mark.parametrize("harm", ["cut", "flipped"])
def test_the_checkpoint_before_a_damaged_one_resumes_to_the_same_bits(
    tiny, tmp_path, accelerator, harm
):
    expected, _ = tiny.train(tmp_path / "whole", accelerator=accelerator)
    folder = tmp_path / "a"
    with pytest.raises(tiny.Killed):
        tiny.train(folder, accelerator=accelerator, progress_bar=tiny.KillAt(5))
    older, newest = files(folder)
    whole = newest.read_bytes()
    half = len(whole) // 2
    flipped = whole[:half] + bytes([whole[half] ^ 4]) + whole[half + 1 :]
    newest.write_bytes(whole[:half] if harm == "cut" else flipped)
    with pytest.warns(UserWarning, match=f"{newest.name}.*\n.*{older.name}"):
        got, _ = tiny.train(folder, accelerator=accelerator)
    assert torch.equal(weights(got), weights(expected))


def test_without_a_sound_checkpoint_the_error_has_a_fix(tiny, tmp_path, accelerator):
    with pytest.raises(tiny.Killed):
        tiny.train(tmp_path, accelerator=accelerator, progress_bar=tiny.KillAt(5))
    for path in files(tmp_path):
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=f"Delete {tmp_path / 'checkpoint'} to train from"):
        tiny.train(tmp_path, accelerator=accelerator)
    tiny.train(tmp_path, accelerator=accelerator, resume=False)


def test_a_lost_log_does_not_stop_a_resume(tiny, tmp_path, accelerator):
    with pytest.raises(tiny.Killed):
        tiny.train(tmp_path, accelerator=accelerator, progress_bar=tiny.KillAt(5))
    (tmp_path / "log.jsonl").unlink()
    with pytest.warns(UserWarning, match="rows from before the checkpoint are gone"):
        _, history = tiny.train(tmp_path, accelerator=accelerator)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert len(history.rows) == 3
    assert rows == list(history.rows)[1:]


@contextmanager
def full_disk():
    """No file may grow beyond 200 bytes: enough for neither a checkpoint nor the log."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def broken(error):
    def save_file(*arguments, **more):
        raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save_file", save_file)
        yield


FAULTS = {
    "full disk": full_disk,
    "an error of the library": lambda: broken(SafetensorError("I/O error: No space left")),
    "an error of the system": lambda: broken(OSError(errno.ENOSPC, "No space left on device")),
}


class Then:
    """Does something at a step."""

    def __init__(self, step, what):
        self.step, self.what = step, what

    def update(self, done, total, note, *, milestone=False):
        if done == self.step:
            self.what()


@pytest.mark.parametrize("fault", FAULTS)
def test_after_a_full_disk_the_last_good_state_resumes(tiny, tmp_path, accelerator, fault):
    expected, _ = tiny.train(tmp_path / "whole", accelerator=accelerator)
    folder, harm = tmp_path / "a", FAULTS[fault]()
    try:
        with pytest.raises(WriteError, match="could not be written"):
            tiny.train(folder, accelerator=accelerator, progress_bar=Then(5, harm.__enter__))
    finally:
        harm.__exit__(None, None, None)
    assert [path.name for path in files(folder)] == [
        "000000003.safetensors",
        "000000004.safetensors",
    ]
    got, _ = tiny.train(folder, accelerator=accelerator)
    assert torch.equal(weights(got), weights(expected))


def test_a_log_that_cannot_be_written_is_a_clear_error(tiny, tmp_path, accelerator):
    expected, _ = tiny.train(tmp_path / "whole", accelerator=accelerator)
    limit = full_disk()
    progress_bar = Then(6, limit.__enter__)
    try:
        with pytest.raises(WriteError, match=r"log\.jsonl: could not be written"):
            tiny.train(
                tmp_path / "a",
                accelerator=accelerator,
                progress_bar=progress_bar,
                checkpoint_every=1e9,
            )
    finally:
        limit.__exit__(None, None, None)
    got, _ = tiny.train(tmp_path / "a", accelerator=accelerator, checkpoint_every=1e9)
    assert torch.equal(weights(got), weights(expected))


def test_an_unwritable_folder_is_a_clear_error(tiny, tmp_path, accelerator):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "checkpoint").write_text("a file where the folder should be")
    with pytest.raises(WriteError, match="could not be written"):
        tiny.train(tmp_path / "a", accelerator=accelerator)
    (tmp_path / "b").write_text("a file where the folder should be")
    with pytest.raises(WriteError, match=r"log\.jsonl: could not be written"):
        tiny.train(tmp_path / "b", accelerator=accelerator)
