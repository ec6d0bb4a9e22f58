"""The teacher cache: correct logits, complete or absent, and of the same teacher only."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from limbeck.data import cache
from limbeck.data.cache import TeacherCache, key_of
from limbeck.data.load import Data
from limbeck.data.modalities.image import AugmentSpec, ImagePreprocess
from limbeck.data.modalities.image._augment import ImageAugmentation
from limbeck.data.rows import Batch, DenseLabels
from limbeck.data.split import Split
from limbeck.errors import InputError, LimbeckError
from limbeck.targets import DenseTargets, Layout, Precision, Targets

GREY = ImagePreprocess((8, 8), 1, 1.0, (0.0,), (1.0,))
KEY = {"teacher": "abc", "data": "def", "augmentation": {"shift": 1}}


def _pixels(batch: Batch) -> torch.Tensor:
    """Return pixels as logits, so that each row and view has its own."""
    return batch["image"].flatten(1)[:, 20:30]


def _logits(batch: Batch) -> dict[str, Targets]:
    return {"logits": DenseTargets(_pixels(batch))}


def _layout(classes: int, precision: Precision = "float32") -> Layout:
    targets = {"logits": DenseTargets(torch.zeros(1, classes))}
    return Layout.of(targets, samples=1, precision=precision)


def _found(cached: TeacherCache, index: torch.Tensor, view: torch.Tensor) -> torch.Tensor:
    targets = cached.lookup(index, view)["logits"]
    assert isinstance(targets, DenseTargets)
    return targets.logits


@pytest.fixture
def split(digits: Data) -> Split:
    split = digits.test.for_evaluation()
    split.augmentation = ImageAugmentation(AugmentSpec(shift=1, views=3), GREY)
    return split


def _cache(
    folder: Path,
    key: dict[str, Any] = KEY,
    *,
    views: int = 3,
    classes: int = 10,
    dtype: Precision = "float32",
) -> TeacherCache:
    layout = _layout(classes, dtype)
    return TeacherCache(folder, key=key, rows=359, views=views, layout=layout)


def test_every_row_of_every_view_is_looked_up(tmp_path: Path, split: Split) -> None:
    cached = _cache(tmp_path / "cache")
    assert not cached.complete
    split.set_epoch(7)
    calls: list[tuple[int, int]] = []
    cached.record(_logits, split, batch_size=100, progress=lambda *done: calls.append(done))
    assert calls[-1] == (3 * 359, 3 * 359)
    assert split.epoch == 7
    for found in (cached, _cache(tmp_path / "cache")):
        assert found.complete
        for epoch in (0, 1, 2, 5):
            split.set_epoch(epoch)
            batch = split.__getitems__(torch.randperm(359)[:50])
            assert torch.equal(_found(found, batch["index"], batch["view"]), _pixels(batch))


def test_logits_of_another_process_are_found(tmp_path: Path, split: Split) -> None:
    waiting = _cache(tmp_path)
    _cache(tmp_path).record(_logits, split, batch_size=100)
    batch = split.__getitems__([1, 2])
    assert torch.equal(_found(waiting, batch["index"], batch["view"]), _pixels(batch))


def test_a_complete_cache_does_not_run_the_teacher(tmp_path: Path, split: Split) -> None:
    _cache(tmp_path).record(_logits, split, batch_size=100)
    _cache(tmp_path).record(_refuse, split, batch_size=100)


def _refuse(batch: Batch) -> dict[str, Targets]:
    raise RuntimeError("run again")


def test_half_precision_halves_the_file(tmp_path: Path, split: Split) -> None:
    cached = _cache(tmp_path, dtype="float16")
    cached.record(_logits, split, batch_size=100)
    assert (tmp_path / "targets.bin").stat().st_size == 359 * 3 * 10 * 2
    batch = split.__getitems__([4, 5])
    found = _found(cached, batch["index"], batch["view"])
    assert found.dtype == torch.float32
    assert torch.equal(found, _pixels(batch).half().float())


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"key": {**KEY, "teacher": "xyz"}}, r"\(teacher\): got 'xyz'; allowed: 'abc'"),
        ({"key": {**KEY, "augmentation": None}}, r"\(augmentation\): got None"),
        ({"key": {**KEY, "more": 1}}, r"\(more\): got 1; allowed: None"),
        ({"views": 2}, r"\(views\): got 2; allowed: 3"),
        ({"dtype": "float16"}, r"\(dtype\)"),
    ],
)
def test_another_key_is_refused_with_what_differs(
    tmp_path: Path, split: Split, changed: dict[str, Any], message: str
) -> None:
    _cache(tmp_path).record(_logits, split, batch_size=100)
    with pytest.raises(InputError, match=message):
        _cache(tmp_path, **changed)


@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_damaged_file_is_refused(tmp_path: Path, split: Split, damage: str) -> None:
    _cache(tmp_path).record(_logits, split, batch_size=100)
    file = tmp_path / "targets.bin"
    content = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(content[:-40] if damage == "cut" else content[:-1] + b"\1")
    with pytest.raises(InputError, match="to compute the teacher's targets again"):
        _cache(tmp_path)


class Killed(BaseException):
    """An exception that no `except Exception` catches."""


@pytest.mark.parametrize("after", [0, 1, 4, 9])
def test_interrupted_recording_resumes_to_the_same_bytes(
    tmp_path: Path, split: Split, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    monkeypatch.setattr(cache, "PROGRESS_EVERY", 150)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    _cache(whole).record(_logits, split, batch_size=100)
    calls = 0

    def interrupted(batch: Batch) -> dict[str, Targets]:
        nonlocal calls
        if calls == after:
            raise Killed
        calls += 1
        return _logits(batch)

    with pytest.raises(Killed):
        _cache(broken).record(interrupted, split, batch_size=100)
    assert not _cache(broken).complete
    again = 0

    def counts(batch: Batch) -> dict[str, Targets]:
        nonlocal again
        again += 1
        return _logits(batch)

    _cache(broken).record(counts, split, batch_size=100)
    assert (broken / "targets.bin").read_bytes() == (whole / "targets.bin").read_bytes()
    # Twelve batches in all; at most the two since the last progress file are computed again.
    assert 12 - after <= again <= 12 - after + 2


class _Rows:
    def __len__(self) -> int:
        return 300

    def batch(self, index: torch.Tensor) -> Batch:
        return {"image": index.float()[:, None]}

    def raw(self, row: int) -> dict[str, Any]:
        return {}


def test_sequences_are_recorded_in_batches_of_similar_length(tmp_path: Path) -> None:
    class Sequences:
        lengths = torch.randint(1, 30, (500,), generator=torch.Generator().manual_seed(0))

        def __len__(self) -> int:
            return 500

        def batch(self, index: torch.Tensor) -> Batch:
            return {"input_ids": torch.zeros(len(index), int(self.lengths[index].max()))}

    computed: list[int] = []

    def teacher(batch: Batch) -> dict[str, Targets]:
        computed.append(batch["input_ids"].numel())
        return {"logits": DenseTargets(batch["index"].float()[:, None].repeat(1, 2))}

    split = Split(Sequences(), DenseLabels(torch.zeros(500, dtype=torch.int64)))
    cached = TeacherCache(tmp_path, key={}, rows=500, views=1, layout=_layout(2))
    cached.record(teacher, split, batch_size=10)
    index = torch.arange(500)
    assert torch.equal(_found(cached, index, torch.zeros_like(index))[:, 0], index.float())
    assert len(computed) == 50
    assert sum(computed) < 1.2 * int(Sequences.lengths.sum())  # 1.8 times in the order of rows


def test_a_killed_recording_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "PROGRESS_EVERY", 50)
    rows = Split(_Rows(), DenseLabels(torch.zeros(300, dtype=torch.int64)))
    starts: list[int] = []

    def teacher(batch: Batch) -> dict[str, Targets]:
        starts.append(int(batch["index"][0]))
        if child == 0 and starts[-1] == 200:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"logits": DenseTargets(batch["image"].repeat(1, 2))}

    child = os.fork()
    cached = TeacherCache(tmp_path, key={}, rows=300, views=1, layout=_layout(2))
    if child == 0:
        cached.record(teacher, rows, batch_size=50)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert json.loads((tmp_path / "progress.json").read_text())["done"] == 200
    assert not cached.complete
    cached.record(teacher, rows, batch_size=50)
    assert starts == [200, 250]
    zero = torch.zeros(300, dtype=torch.int64)
    assert _found(cached, torch.arange(300), zero)[:, 1].tolist() == list(range(300))


def _writer(folder: Path, number: int, *, stop: int | None = None, pause: float = 0.0) -> int:
    """Fork a process that records its own logits: the row, and the process's number.

    Args:
        folder: The folder of the cache.
        number: The second column of its logits.
        stop: The row at which it stops itself by SIGSTOP.
        pause: Seconds per batch.
    """

    def teacher(batch: Batch) -> dict[str, Targets]:
        if stop is not None and int(batch["index"][0]) >= stop and not stopped:
            stopped.append(True)
            os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(pause)
        rows = batch["image"]
        return {"logits": DenseTargets(torch.cat([rows, torch.full_like(rows, number)], dim=1))}

    stopped: list[bool] = []
    child = os.fork()
    if child:
        return child
    try:
        rows = Split(_Rows(), DenseLabels(torch.zeros(300, dtype=torch.int64)))
        _shared(folder).record(teacher, rows, batch_size=20)
    except BaseException:
        os._exit(1)
    os._exit(0)


def _shared(folder: Path) -> TeacherCache:
    return TeacherCache(folder, key={}, rows=300, views=1, layout=_layout(2))


def _writers(folder: Path) -> set[int]:
    """Check that every row has its own logits; return the numbers of their writers."""
    zero = torch.zeros(300, dtype=torch.int64)
    found = _found(_shared(folder), torch.arange(300), zero)
    assert found[:, 0].tolist() == list(range(300))
    return set(map(int, found[:, 1].tolist()))


@pytest.mark.parametrize("stop", [0, 160, 280])
def test_a_paused_writer_blocks_no_other_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    monkeypatch.setattr(cache, "PROGRESS_EVERY", 40)
    paused = _writer(tmp_path / "cache", 1, stop=stop)
    assert os.WIFSTOPPED(os.waitpid(paused, os.WUNTRACED)[1])
    other = _writer(tmp_path / "cache", 2)
    assert os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]) == 0
    reader = _shared(tmp_path / "cache")
    assert _writers(tmp_path / "cache") == {2}
    os.kill(paused, signal.SIGCONT)
    assert os.waitstatus_to_exitcode(os.waitpid(paused, 0)[1]) == 0
    assert _writers(tmp_path / "cache") == {2}
    assert reader.complete
    names = sorted(path.name for path in (tmp_path / "cache").iterdir())
    assert names == ["manifest.json", "targets.1.bin"]


def test_a_writer_without_its_folder_does_not_publish_the_files_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "PROGRESS_EVERY", 1000)
    cached = tmp_path / "cache"
    old = _writer(cached, 1, stop=280)
    assert os.WIFSTOPPED(os.waitpid(old, os.WUNTRACED)[1])
    shutil.rmtree(cached)
    new = _writer(cached, 2, stop=100)
    assert os.WIFSTOPPED(os.waitpid(new, os.WUNTRACED)[1])
    os.kill(old, signal.SIGCONT)
    assert os.waitstatus_to_exitcode(os.waitpid(old, 0)[1]) == 1
    assert not _shared(cached).complete
    os.kill(new, signal.SIGCONT)
    assert os.waitstatus_to_exitcode(os.waitpid(new, 0)[1]) == 0
    assert _writers(cached) == {2}


def test_paused_and_killed_writers_leave_complete_logits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "PROGRESS_EVERY", 40)
    random = np.random.default_rng(0)
    for number in range(6):
        cached = tmp_path / str(number)
        children = [_writer(cached, writer, pause=0.002) for writer in (1, 2, 3)]
        for _ in range(6):
            child = children[random.integers(3)]
            os.kill(child, signal.SIGSTOP)
            time.sleep(random.uniform(0, 0.01))
            if (cached / "manifest.json").exists():
                assert len(_writers(cached)) <= 2
            os.kill(child, signal.SIGCONT)
        os.kill(children[0], signal.SIGKILL)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        assert codes[1:] == [0, 0]
        assert len(_writers(cached)) <= 2  # two, if one went on where another was killed
        # Files of a process killed after the cache was complete are ignored.
        assert len(list(cached.glob("logits*.bin"))) <= 2


@pytest.mark.parametrize("name", ["progress.json", "manifest.json"])
@pytest.mark.parametrize("content", ["", "[1, 2]", "{", "{}"])
def test_a_damaged_json_file_is_detected(
    tmp_path: Path, split: Split, name: str, content: str
) -> None:
    (tmp_path / name).write_text(content)
    (tmp_path / "targets.bin").write_bytes(b"half")
    if name == "manifest.json":
        with pytest.raises(InputError, match=r"Delete .* to compute the teacher's targets again"):
            _cache(tmp_path)
        return
    _cache(tmp_path).record(_logits, split, batch_size=100)
    batch = split.__getitems__([0, 358])
    assert torch.equal(_found(_cache(tmp_path), batch["index"], batch["view"]), _pixels(batch))


@pytest.mark.parametrize("change", ["batch_size", "key", "file"])
def test_recording_with_other_settings_restarts(
    tmp_path: Path, split: Split, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    monkeypatch.setattr(cache, "PROGRESS_EVERY", 1)
    with pytest.raises(RuntimeError):
        _cache(tmp_path).record(_second_refused(), split, batch_size=100)
    if change == "file":
        (tmp_path / "targets.bin").write_bytes(b"short")
    key = {**KEY, "teacher": "new"} if change == "key" else KEY
    cached = _cache(tmp_path, key)
    cached.record(_logits, split, batch_size=60 if change == "batch_size" else 100)
    batch = split.__getitems__(list(range(359)))
    assert torch.equal(_found(cached, batch["index"], batch["view"]), _pixels(batch))


def _second_refused() -> Callable[[Batch], dict[str, Targets]]:
    teachers = iter([_logits, _refuse])
    return lambda batch: next(teachers)(batch)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            lambda batch: torch.zeros(len(batch["labels"]), 9),
            r"'logits': \[9, 'float'\].*allowed: .*\[10, 'float'\]",
        ),
        (lambda batch: torch.full((len(batch["labels"]), 10), torch.nan), "NaN or infinity"),
        (lambda batch: torch.full((len(batch["labels"]), 10), 1e6), "numbers that float16 holds"),
    ],
)
def test_wrong_logits_are_refused(
    tmp_path: Path, split: Split, wrong: Callable[[Batch], torch.Tensor], message: str
) -> None:
    cached = _cache(tmp_path, dtype="float16")
    with pytest.raises(InputError, match=message):
        cached.record(lambda batch: {"logits": DenseTargets(wrong(batch))}, split, batch_size=100)


def test_unknown_rows_and_views_are_refused(tmp_path: Path, split: Split) -> None:
    cached = _cache(tmp_path)
    one = torch.ones(1, dtype=torch.int64)
    with pytest.raises(LimbeckError, match="no targets are cached"):
        cached.lookup(one, one)
    with pytest.raises(InputError, match="359 rows in 1 views"):
        cached.record(_logits, split.for_evaluation(), batch_size=100)
    cached.record(_logits, split, batch_size=100)
    with pytest.raises(LimbeckError, match="row 1 in view 3"):
        cached.lookup(one, 3 * one)
    with pytest.raises(LimbeckError, match="row 359 in view 0"):
        cached.lookup(359 * one, 0 * one)


def test_an_unwritable_folder_is_reported(tmp_path: Path, split: Split) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LimbeckError, match="could not be written"):
        _cache(tmp_path / "file" / "cache").record(_logits, split, batch_size=100)


def test_the_key_names_all_that_logits_depend_on(digits: Data, tmp_path: Path) -> None:
    key = key_of(digits, teacher="abc")
    assert key["teacher"] == "abc"
    assert key["data"] == digits.facts.fingerprint
    assert key["augmentation"] is None
    assert json.loads(json.dumps(key)) == key


def test_unlimited_views_cannot_be_cached(digits: Data) -> None:
    from dataclasses import replace

    endless = digits.train.for_evaluation()
    endless.augmentation = ImageAugmentation(AugmentSpec(shift=1), GREY)
    with pytest.raises(InputError, match=r"Set data\.augment\.views"):
        key_of(replace(digits, train=endless), teacher="abc")


def test_nothing_is_pickled(tmp_path: Path, split: Split) -> None:
    _cache(tmp_path).record(_logits, split, batch_size=100)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", "targets.bin"]
    numbers = np.fromfile(tmp_path / "targets.bin", dtype=np.float32).reshape(3, 359, 10)
    assert np.isfinite(numbers).all()
