"""Worker processes run trials, and end when they are interrupted."""

import multiprocessing
import signal
import sys
import time

import pytest

from limbeck.pipeline.load_recipe import resolve
from limbeck.sweep.plan import plan
from limbeck.sweep.space import space_of

pytest.importorskip("optuna", reason="the extra `sweep` is not installed: no optuna")

from limbeck.sweep.run import _interrupt_once, _start, _stop, _work_in_process, _workers
from limbeck.sweep.study import Study

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="interrupts are sent by signals")


@pytest.fixture
def used_up(tmp_path):
    """A plan of which every trial is done."""
    given = {"costs": ("size", "latency"), "out": tmp_path / "sweep"}
    planned = plan(resolve("digits"), space_of(["student.width=2,3"], None), **given)
    study = Study(planned)
    with study.registered():
        while (taken := study.take()) is not None:
            study.fail(taken, "made up", 0.0)
    return planned


@pytest.mark.slow
def test_a_worker_without_trials_ends_with_success(used_up):
    with _workers(used_up, 1):
        pass
    assert len(Study(used_up).trials()) == 2


def busy(ready) -> None:
    signal.signal(signal.SIGINT, _interrupt_once)
    try:
        ready.set()
        time.sleep(60)
    except KeyboardInterrupt:
        time.sleep(1.5)  # a checkpoint is saved, and must not be interrupted in turn
        sys.exit(7)


def test_a_worker_is_interrupted_once_by_repeated_signals():
    fork = multiprocessing.get_context("fork")
    ready = fork.Event()
    before = signal.getsignal(signal.SIGINT)
    worker = fork.Process(target=busy, args=(ready,))
    _start([worker])
    assert signal.getsignal(signal.SIGINT) is before
    ready.wait(timeout=20)
    _stop([worker])
    assert worker.exitcode == 7


def test_a_worker_reports_its_problems_on_standard_error(used_up, capsys):
    from dataclasses import replace

    with pytest.raises(SystemExit) as ended:
        _work_in_process(replace(used_up, costs=("flops",)))
    assert ended.value.code == 2
    assert "--minimize" in capsys.readouterr().err
    signal.signal(signal.SIGINT, signal.default_int_handler)
