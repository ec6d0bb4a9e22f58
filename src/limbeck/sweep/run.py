"""Execution of a sweep: workers that run trials until none are left."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

from limbeck.core.files import WriteError
from limbeck.errors import LimbeckError
from limbeck.pipeline.progress import NullReporter, ProgressReporter
from limbeck.pipeline.runner import run
from limbeck.report.sweep import Figures, SweepResult
from limbeck.sweep.budget import Limits
from limbeck.sweep.conclude import conclude
from limbeck.sweep.plan import Plan, figures_of, with_settings
from limbeck.sweep.share import share, teacher_lock
from limbeck.sweep.study import Study, Taken

TEACHERS = ".teachers"
INTERRUPTED = 130


def sweep(
    plan: Plan,
    *,
    workers: int = 1,
    limits: Limits | None = None,
    watch: ProgressReporter | None = None,
) -> SweepResult:
    """Run the trials that are not finished yet, and return the front and the chosen trial.

    Args:
        plan: The plan.
        workers: The number of processes that run trials at once, including this one.
        limits: The budget that selects a trial, if any.
        watch: The progress reporter.

    Raises:
        InputError: Optuna is not installed, or the folder holds a sweep with another plan.
        LimbeckError: No trial finished, a file could not be written, or a worker failed.
        KeyboardInterrupt: The user interrupted; finished trials are saved.
    """
    Study(plan)  # reports its problems once, not once per worker
    with _workers(plan, workers - 1):
        work(plan, watch or NullReporter())
    return conclude(plan, Study(plan).trials(), limits)


def work(plan: Plan, watch: ProgressReporter) -> None:
    """Run trials until the plan's number or its timeout is reached.

    A failed trial is stored with its reason, and the next one begins.

    Raises:
        InputError: Optuna is not installed, or the folder holds a sweep with another plan.
        WriteError: The disk is full; the current trial is repeated next time.
        KeyboardInterrupt: The user interrupted; likewise.
    """
    end = None if plan.timeout is None else time.monotonic() + plan.timeout
    study = Study(plan)
    with study.registered():
        while end is None or time.monotonic() < end:
            taken = study.take()
            if taken is None:
                return
            watch.log(f"Trial {taken.number} (of {plan.trials}): {format_settings(taken.settings)}")
            _run_trial(plan, study, taken, watch)


def format_settings(settings: Mapping[str, Any]) -> str:
    """Format settings on one line.

    Example:
        >>> format_settings({"student.width": 4, "stages.distill.epochs": 2})
        'student.width=4, stages.distill.epochs=2'
    """
    return ", ".join(f"{path}={value}" for path, value in settings.items())


def _run_trial(plan: Plan, study: Study, taken: Taken, watch: ProgressReporter) -> None:
    clock = time.monotonic()
    try:
        figures = _figures(plan, taken, watch)
        study.finish(taken, figures, time.monotonic() - clock)
        return
    except WriteError:
        raise  # it would affect every later trial too
    except LimbeckError as error:
        reason = str(error)
    # Models and exporters are third-party code: any error type can occur.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
    study.fail(taken, reason, time.monotonic() - clock)
    watch.log(f"  failed: {reason}")


def _figures(plan: Plan, taken: Taken, watch: ProgressReporter) -> Figures:
    recipe, folder = with_settings(plan.content, taken.settings), plan.folder(taken.number)
    with teacher_lock(recipe, plan.out / TEACHERS):
        # Newest first: those were made by the newest code.
        runs = (plan.out / "trials").glob("[0-9]*")
        share(recipe, folder, sorted(runs, key=lambda path: int(path.name), reverse=True))
        # A trial that was killed resumes from its checkpoint, bit for bit.
        return figures_of(run(recipe, out=folder, resume=True, watch=watch), plan.select)


@contextmanager
def _workers(plan: Plan, count: int) -> Iterator[None]:
    """Run trials in other processes during the block; then wait for them."""
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=_work_in_process, args=(plan,)) for _ in range(count)]
    if workers:
        _start(workers)
    try:
        yield
        for worker in workers:
            worker.join()
    except BaseException:
        _stop(workers)
        raise
    failed = [worker.exitcode for worker in workers if worker.exitcode]
    if failed:
        raise LimbeckError(f"{len(failed)} of {count} workers ended with exit code {failed[0]}.")


def _start(workers: Sequence[BaseProcess]) -> None:
    """Start processes that ignore interrupts until they have their own handler."""
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for worker in workers:
            worker.start()
    finally:
        signal.signal(signal.SIGINT, handler)


def _stop(workers: Sequence[BaseProcess]) -> None:
    for worker in workers:
        while worker.is_alive() and worker.pid is not None:
            os.kill(worker.pid, signal.SIGINT)
            worker.join(timeout=1)


def _work_in_process(plan: Plan) -> None:
    """Run as a worker process: without output, and ended by the first interrupt of several."""
    signal.signal(signal.SIGINT, _interrupt_once)
    try:
        work(plan, NullReporter())
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except LimbeckError as error:
        print(error, file=sys.stderr)  # noqa: T201 - a process of its own has no other output
        sys.exit(error.exit_code)


def _interrupt_once(number: int, frame: FrameType | None) -> None:
    # At a terminal every process is interrupted, and the first one forwards the signal again.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt
