"""Execution of a sweep: worker processes, then the conclusion."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from types import FrameType

from limbeck.errors import LimbeckError
from limbeck.pipeline.watch import Unwatched, Watch
from limbeck.report.sweep_result import SweepResult
from limbeck.sweep.budget import Limits
from limbeck.sweep.conclude import conclude
from limbeck.sweep.plan import Plan
from limbeck.sweep.study import Study
from limbeck.sweep.work import work

INTERRUPTED = 130


def sweep(
    plan: Plan, *, workers: int = 1, limits: Limits | None = None, watch: Watch | None = None
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
    with _helped(plan, workers - 1):
        work(plan, watch or Unwatched())
    return conclude(plan, Study(plan).trials(), limits)


@contextmanager
def _helped(plan: Plan, count: int) -> Iterator[None]:
    """Run trials in other processes during the block; then wait for them."""
    spawn = multiprocessing.get_context("spawn")
    helpers = [spawn.Process(target=_help, args=(plan,)) for _ in range(count)]
    if helpers:
        _start(helpers)
    try:
        yield
        for helper in helpers:
            helper.join()
    except BaseException:
        _stop(helpers)
        raise
    failed = [helper.exitcode for helper in helpers if helper.exitcode]
    if failed:
        raise LimbeckError(f"{len(failed)} of {count} helpers ended with exit code {failed[0]}.")


def _start(helpers: Sequence[BaseProcess]) -> None:
    """Start processes that ignore interrupts until they have their own handler."""
    heard = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for helper in helpers:
            helper.start()
    finally:
        signal.signal(signal.SIGINT, heard)


def _stop(helpers: Sequence[BaseProcess]) -> None:
    """Interrupt processes until they end."""
    for helper in helpers:
        while helper.is_alive() and helper.pid is not None:
            os.kill(helper.pid, signal.SIGINT)
            helper.join(timeout=1)


def _help(plan: Plan) -> None:
    """Run as a worker process: without output, and ended by the first interrupt of several."""
    signal.signal(signal.SIGINT, _once)
    try:
        work(plan, Unwatched())
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except LimbeckError as error:
        print(error, file=sys.stderr)  # noqa: T201 - a process of its own has no other output
        sys.exit(error.exit_code)


def _once(number: int, frame: FrameType | None) -> None:
    # At a terminal every process is interrupted, and the first one forwards the signal again.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt
