"""Recorded answers: the right ones, whole or not at all, never another teacher's."""

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
from limbeck.data.spec import AugmentSpec
from limbeck.data.split import Batch, Split
from limbeck.errors import InputError, LimbeckError

KEY = {"teacher": "abc", "data": "def", "augmentation": {"shift": 1}}


def _answer(batch: Batch) -> torch.Tensor:
    """Answer with pixels, so that each row and view has an answer of its own."""
    return batch["image"].flatten(1)[:, 20:30]


@pytest.fixture
def split(digits: Data) -> Split:
    split = digits.test.for_evaluation()
    split.augment = AugmentSpec(shift=1, views=3)
    return split


def _store(folder: Path, key: dict[str, Any] = KEY, **settings: Any) -> TeacherCache:
    return TeacherCache(folder, key=key, **{"rows": 359, "views": 3, "classes": 10, **settings})


def test_every_row_of_every_view_is_looked_up(tmp_path: Path, split: Split) -> None:
    store = _store(tmp_path / "store")
    assert not store.complete
    split.set_epoch(7)
    calls: list[tuple[int, int]] = []
    store.record(_answer, split, batch_size=100, progress=lambda *done: calls.append(done))
    assert calls[-1] == (3 * 359, 3 * 359)
    assert split.epoch == 7
    for found in (store, _store(tmp_path / "store")):
        assert found.complete
        for epoch in (0, 1, 2, 5):
            split.set_epoch(epoch)
            batch = split.__getitems__(torch.randperm(359)[:50])
            assert torch.equal(found.lookup(batch["index"], batch["view"]), _answer(batch))


def test_what_another_process_recorded_is_found(tmp_path: Path, split: Split) -> None:
    waiting = _store(tmp_path)
    _store(tmp_path).record(_answer, split, batch_size=100)
    batch = split.__getitems__([1, 2])
    assert torch.equal(waiting.lookup(batch["index"], batch["view"]), _answer(batch))


def test_a_complete_store_does_not_ask_again(tmp_path: Path, split: Split) -> None:
    _store(tmp_path).record(_answer, split, batch_size=100)
    _store(tmp_path).record(_refuse, split, batch_size=100)


def _refuse(batch: Batch) -> torch.Tensor:
    raise RuntimeError("asked again")


def test_half_precision_halves_the_file(tmp_path: Path, split: Split) -> None:
    store = _store(tmp_path, dtype="float16")
    store.record(_answer, split, batch_size=100)
    assert (tmp_path / "logits.bin").stat().st_size == 359 * 3 * 10 * 2
    batch = split.__getitems__([4, 5])
    found = store.lookup(batch["index"], batch["view"])
    assert found.dtype == torch.float32
    assert torch.equal(found, _answer(batch).half().float())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"key": {**KEY, "teacher": "xyz"}}, r"\(teacher\): got 'xyz'; allowed: 'abc'"),
        ({"key": {**KEY, "augmentation": None}}, r"\(augmentation\): got None"),
        ({"key": {**KEY, "more": 1}}, r"\(more\): got 1; allowed: None"),
        ({"views": 2}, r"\(views\): got 2; allowed: 3"),
        ({"dtype": "float16"}, r"\(dtype\)"),
    ],
)
def test_another_key_is_refused_with_what_differs(
    tmp_path: Path, split: Split, changed: dict[str, Any], said: str
) -> None:
    _store(tmp_path).record(_answer, split, batch_size=100)
    with pytest.raises(InputError, match=said):
        _store(tmp_path, **changed)


@pytest.mark.parametrize("harm", ["cut", "changed", "gone"])
def test_a_harmed_file_is_found_out(tmp_path: Path, split: Split, harm: str) -> None:
    _store(tmp_path).record(_answer, split, batch_size=100)
    file = tmp_path / "logits.bin"
    content = file.read_bytes()
    if harm == "gone":
        file.unlink()
    else:
        file.write_bytes(content[:-40] if harm == "cut" else content[:-1] + b"\1")
    with pytest.raises(InputError, match="to have the teacher asked again"):
        _store(tmp_path)


class Killed(BaseException):
    """Ends a recording where no `except Exception` sees it."""


@pytest.mark.parametrize("after", [0, 1, 4, 9])
def test_broken_off_anywhere_it_goes_on_to_the_same_bytes(
    tmp_path: Path, split: Split, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    monkeypatch.setattr(cache, "NOTED_EVERY", 150)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    _store(whole).record(_answer, split, batch_size=100)
    asked = 0

    def dies(batch: Batch) -> torch.Tensor:
        nonlocal asked
        if asked == after:
            raise Killed
        asked += 1
        return _answer(batch)

    with pytest.raises(Killed):
        _store(broken).record(dies, split, batch_size=100)
    assert not _store(broken).complete
    again = 0

    def counts(batch: Batch) -> torch.Tensor:
        nonlocal again
        again += 1
        return _answer(batch)

    _store(broken).record(counts, split, batch_size=100)
    assert (broken / "logits.bin").read_bytes() == (whole / "logits.bin").read_bytes()
    # Twelve batches in all; at most the two since the last note are asked again.
    assert 12 - after <= again <= 12 - after + 2


class _Rows:
    def __len__(self) -> int:
        return 300

    def batch(self, index: torch.Tensor) -> Batch:
        return {"image": index.float()[:, None]}

    def raw(self, row: int) -> dict[str, Any]:
        return {}


def test_killed_by_the_system_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "NOTED_EVERY", 50)
    rows = Split(_Rows(), torch.zeros(300, dtype=torch.int64))
    starts: list[int] = []

    def answer(batch: Batch) -> torch.Tensor:
        starts.append(int(batch["index"][0]))
        if child == 0 and starts[-1] == 200:
            os.kill(os.getpid(), signal.SIGKILL)
        return batch["image"].repeat(1, 2)

    child = os.fork()
    store = TeacherCache(tmp_path, key={}, rows=300, views=1, classes=2)
    if child == 0:
        store.record(answer, rows, batch_size=50)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert json.loads((tmp_path / "progress.json").read_text())["done"] == 200
    assert not store.complete
    store.record(answer, rows, batch_size=50)
    assert starts == [200, 250]
    zero = torch.zeros(300, dtype=torch.int64)
    assert store.lookup(torch.arange(300), zero)[:, 1].tolist() == list(range(300))


def _writer(folder: Path, number: int, *, stop: int | None = None, pause: float = 0.0) -> int:
    """Fork a process that records answers of its own: the row, and the process's number.

    Args:
        folder: The store.
        number: The second column of its answers.
        stop: The row at which it stops itself by SIGSTOP.
        pause: Seconds per batch.
    """

    def answer(batch: Batch) -> torch.Tensor:
        if stop is not None and int(batch["index"][0]) >= stop and not stopped:
            stopped.append(True)
            os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(pause)
        rows = batch["image"]
        return torch.cat([rows, torch.full_like(rows, number)], dim=1)

    stopped: list[bool] = []
    child = os.fork()
    if child:
        return child
    try:
        rows = Split(_Rows(), torch.zeros(300, dtype=torch.int64))
        _shared(folder).record(answer, rows, batch_size=20)
    except BaseException:
        os._exit(1)
    os._exit(0)


def _shared(folder: Path) -> TeacherCache:
    return TeacherCache(folder, key={}, rows=300, views=1, classes=2)


def _authors(folder: Path) -> set[int]:
    """Check that every row has its own answer; return whose they are."""
    zero = torch.zeros(300, dtype=torch.int64)
    found = _shared(folder).lookup(torch.arange(300), zero)
    assert found[:, 0].tolist() == list(range(300))
    return set(map(int, found[:, 1].tolist()))


@pytest.mark.parametrize("stop", [0, 160, 280])
def test_a_paused_writer_holds_no_other_up_and_spoils_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    monkeypatch.setattr(cache, "NOTED_EVERY", 40)
    paused = _writer(tmp_path / "store", 1, stop=stop)
    assert os.WIFSTOPPED(os.waitpid(paused, os.WUNTRACED)[1])
    other = _writer(tmp_path / "store", 2)
    assert os.waitstatus_to_exitcode(os.waitpid(other, 0)[1]) == 0
    reader = _shared(tmp_path / "store")
    assert _authors(tmp_path / "store") == {2}
    os.kill(paused, signal.SIGCONT)
    assert os.waitstatus_to_exitcode(os.waitpid(paused, 0)[1]) == 0
    assert _authors(tmp_path / "store") == {2}
    assert reader.complete
    names = sorted(path.name for path in (tmp_path / "store").iterdir())
    assert names == ["logits.1.bin", "manifest.json"]


def test_a_writer_whose_folder_was_removed_does_not_publish_what_another_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "NOTED_EVERY", 1000)
    store = tmp_path / "store"
    old = _writer(store, 1, stop=280)
    assert os.WIFSTOPPED(os.waitpid(old, os.WUNTRACED)[1])
    shutil.rmtree(store)
    new = _writer(store, 2, stop=100)
    assert os.WIFSTOPPED(os.waitpid(new, os.WUNTRACED)[1])
    os.kill(old, signal.SIGCONT)
    assert os.waitstatus_to_exitcode(os.waitpid(old, 0)[1]) == 1
    assert not _shared(store).complete
    os.kill(new, signal.SIGCONT)
    assert os.waitstatus_to_exitcode(os.waitpid(new, 0)[1]) == 0
    assert _authors(store) == {2}


def test_writers_that_are_paused_and_killed_leave_whole_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "NOTED_EVERY", 40)
    random = np.random.default_rng(0)
    for number in range(6):
        store = tmp_path / str(number)
        children = [_writer(store, writer, pause=0.002) for writer in (1, 2, 3)]
        for _ in range(6):
            child = children[random.integers(3)]
            os.kill(child, signal.SIGSTOP)
            time.sleep(random.uniform(0, 0.01))
            if (store / "manifest.json").exists():
                assert len(_authors(store)) <= 2
            os.kill(child, signal.SIGCONT)
        os.kill(children[0], signal.SIGKILL)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        assert codes[1:] == [0, 0]
        assert len(_authors(store)) <= 2  # two, if one went on where another was killed
        # What a process leaves that is killed after the store is complete does no harm.
        assert len(list(store.glob("logits*.bin"))) <= 2


@pytest.mark.parametrize("name", ["progress.json", "manifest.json"])
@pytest.mark.parametrize("content", ["", "[1, 2]", "{", "{}"])
def test_a_damaged_note_is_found_out(tmp_path: Path, split: Split, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    (tmp_path / "logits.bin").write_bytes(b"half")
    if name == "manifest.json":
        with pytest.raises(InputError, match=r"Delete .* to have the teacher asked again"):
            _store(tmp_path)
        return
    _store(tmp_path).record(_answer, split, batch_size=100)
    batch = split.__getitems__([0, 358])
    assert torch.equal(_store(tmp_path).lookup(batch["index"], batch["view"]), _answer(batch))


@pytest.mark.parametrize("change", ["batch_size", "key", "file"])
def test_what_was_begun_otherwise_is_begun_anew(
    tmp_path: Path, split: Split, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    monkeypatch.setattr(cache, "NOTED_EVERY", 1)
    with pytest.raises(RuntimeError):
        _store(tmp_path).record(_second_refused(), split, batch_size=100)
    if change == "file":
        (tmp_path / "logits.bin").write_bytes(b"short")
    key = {**KEY, "teacher": "new"} if change == "key" else KEY
    store = _store(tmp_path, key)
    store.record(_answer, split, batch_size=60 if change == "batch_size" else 100)
    batch = split.__getitems__(list(range(359)))
    assert torch.equal(store.lookup(batch["index"], batch["view"]), _answer(batch))


def _second_refused() -> Callable[[Batch], torch.Tensor]:
    answers = iter([_answer, _refuse])
    return lambda batch: next(answers)(batch)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda batch: torch.zeros(len(batch["labels"]), 9), r"shape \(100, 9\)"),
        (lambda batch: torch.full((len(batch["labels"]), 10), torch.nan), "NaN or infinity"),
        (lambda batch: torch.full((len(batch["labels"]), 10), 1e6), "numbers that float16 holds"),
    ],
)
def test_wrong_answers_are_refused(
    tmp_path: Path, split: Split, wrong: Callable[[Batch], torch.Tensor], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        _store(tmp_path, dtype="float16").record(wrong, split, batch_size=100)


def test_rows_and_views_must_be_those_recorded(tmp_path: Path, split: Split) -> None:
    store = _store(tmp_path)
    one = torch.ones(1, dtype=torch.int64)
    with pytest.raises(LimbeckError, match="no answers are recorded"):
        store.lookup(one, one)
    with pytest.raises(InputError, match="359 rows in 1 views"):
        store.record(_answer, split.for_evaluation(), batch_size=100)
    store.record(_answer, split, batch_size=100)
    with pytest.raises(LimbeckError, match="row 1 in view 3"):
        store.lookup(one, 3 * one)
    with pytest.raises(LimbeckError, match="row 359 in view 0"):
        store.lookup(359 * one, 0 * one)


def test_an_unwritable_place_is_said(tmp_path: Path, split: Split) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LimbeckError, match="could not be written"):
        _store(tmp_path / "file" / "store").record(_answer, split, batch_size=100)


def test_the_key_names_all_that_answers_depend_on(digits: Data, tmp_path: Path) -> None:
    key = key_of(digits, teacher="abc")
    assert key["teacher"] == "abc"
    assert key["data"] == digits.facts.fingerprint
    assert key["augmentation"] is None
    assert json.loads(json.dumps(key)) == key


def test_endless_views_cannot_be_recorded(digits: Data) -> None:
    from dataclasses import replace

    endless = digits.train.for_evaluation()
    endless.augment = AugmentSpec(shift=1)
    with pytest.raises(InputError, match=r"Set data\.augment\.views"):
        key_of(replace(digits, train=endless), teacher="abc")


def test_nothing_is_pickled(tmp_path: Path, split: Split) -> None:
    _store(tmp_path).record(_answer, split, batch_size=100)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["logits.bin", "manifest.json"]
    numbers = np.fromfile(tmp_path / "logits.bin", dtype=np.float32).reshape(3, 359, 10)
    assert np.isfinite(numbers).all()
