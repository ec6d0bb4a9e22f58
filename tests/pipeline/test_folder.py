"""The lock of a run folder admits one process at a time."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import pytest

from limbeck.pipeline import run_folder as folders

PROCESSES, ROUNDS = 4, 60


def enter(start: Any, place: Path, rank: int, found: Any) -> None:
    """Enter a new folder in each round, at the same time as the others; report each overlap."""
    problems, entered = [], 0
    for number in range(ROUNDS):
        # Two missing levels, created and removed by the process that holds the lock.
        run, inside = place / f"{number}" / "deep" / "run", place / f"inside-{number}"
        start.wait(timeout=60)
        try:
            with folders.lock(run):
                entered += 1
                try:
                    os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    problems.append(f"round {number}: two processes inside")
                time.sleep(0.001)
                if rank == 0:  # the others act as refused runs, which remove their folders
                    (run / folders.MARK).write_text("")
                inside.unlink(missing_ok=True)
        except folders.BusyError:
            pass
        except BaseException as error:
            problems.append(f"round {number}: {type(error).__name__}: {error}")
    found.put((entered, problems))


@pytest.mark.slow
def test_no_two_processes_are_inside_a_new_folder(tmp_path):
    forks = multiprocessing.get_context("fork")
    start, found = forks.Barrier(PROCESSES), forks.SimpleQueue()
    workers = [
        forks.Process(target=enter, args=(start, tmp_path, rank, found))
        for rank in range(PROCESSES)
    ]
    for worker in workers:
        worker.start()
    reports = [found.get() for _ in workers]
    for worker in workers:
        worker.join()
    assert [problem for _, problems in reports for problem in problems] == []
    assert sum(entered for entered, _ in reports) > ROUNDS


def test_a_folder_in_use_names_the_process_and_ends_with_exit_code_1(tmp_path):
    with (
        folders.lock(tmp_path / "run"),
        pytest.raises(folders.BusyError, match=rf"locked by process {os.getpid()} on .*--out") as e,
        folders.lock(tmp_path / "run"),
    ):
        pass
    assert e.value.exit_code == 1
    assert not (tmp_path / "run").exists()


def test_the_lock_of_a_killed_process_is_released(tmp_path):
    number = os.fork()
    if number == 0:
        with folders.lock(tmp_path / "run"):
            os._exit(0)
    os.waitpid(number, 0)
    assert (tmp_path / "run" / folders.HOLDER).exists()
    folders.check(tmp_path / "run")
    with folders.lock(tmp_path / "run"):
        pass
