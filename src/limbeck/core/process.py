"""Untrusted work in a child process with limits on time and memory, and signal handling."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from limbeck.errors import InputError, Problem

CPU_SECONDS = 3
WALL_SECONDS = 60.0
"""A child that computes ends by its CPU limit; this one ends a child that waits."""

MEMORY = 3 * 2**29
"""Bytes beyond those that the process already uses: 1.5 GiB."""


Json = TypeVar("Json")


class LimitError(Exception):
    """A failure in a child process: a limit was exceeded, or an exception was raised.

    Attributes:
        exceeded: Whether a limit was exceeded, rather than an exception raised.
    """

    def __init__(self, message: str, *, exceeded: bool = True) -> None:
        super().__init__(message)
        self.exceeded = exceeded


def call_limited(
    work: Callable[[], Json], *, seconds: int | None = None, memory: int = MEMORY
) -> Json:
    """Run a function in a forked child process, and return its result, which must be JSON.

    Without fork (Windows), it runs in this process without limits.

    Args:
        work: The function. It must not use an accelerator.
        seconds: The limit on CPU time; `CPU_SECONDS` if not given.
        memory: The limit on additional address space, in bytes.

    Raises:
        LimitError: The function raised, or the limit on time or memory was exceeded.
        InputError: The function raised it.

    Example:
        >>> call_limited(lambda: 6 * 7)
        42
    """
    seconds = CPU_SECONDS if seconds is None else seconds
    if not hasattr(os, "fork"):
        return json.loads(json.dumps(_result(work)))["value"]
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 warns about a fork in a process with threads; torch's are idle here.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        _be_child(work, writing, seconds, memory)
    os.close(writing)
    try:
        text = _received(reading, child)
    finally:
        os.close(reading)
        _, status = os.waitpid(child, 0)
    if text is None:
        raise LimitError(f"more than {WALL_SECONDS:.0f} s")
    try:
        result = json.loads(text)
    except ValueError:
        raise LimitError(_ended(status, seconds, memory)) from None
    if "problems" in result:
        raise InputError(*(Problem(*one) for one in result["problems"]))
    if "error" in result:
        raise LimitError(result["error"], exceeded=result["exceeded"])
    return result["value"]


def _received(reading: int, child: int) -> bytes | None:
    """Read until the child ends; return None on a timeout."""
    parts: list[bytes] = []
    end = time.monotonic() + WALL_SECONDS
    while True:
        ready, _, _ = select.select([reading], [], [], max(0.0, end - time.monotonic()))
        if not ready:
            os.kill(child, signal.SIGKILL)
            return None
        part = os.read(reading, 65536)
        if not part:
            return b"".join(parts)
        parts.append(part)


def _ended(status: int, seconds: int, memory: int) -> str:
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if number in {signal.SIGXCPU, signal.SIGKILL}:
        return f"more than {seconds} s of computing"
    if number in {signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS}:
        return f"more than {memory / 2**30:.1f} GiB of memory, or a crash of the library"
    return "the library ended the process"


def _be_child(work: Callable[[], object], writing: int, seconds: int, memory: int) -> None:
    """Run the work within the limits, write its result, and exit without clean-up."""
    import faulthandler
    import resource

    try:
        faulthandler.disable()  # the parent reports why this process ended
        null = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
        used = resource.getrusage(resource.RUSAGE_SELF)
        spent = int(used.ru_utime + used.ru_stime)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (spent + seconds, spent + seconds + 1))
        if sys.platform.startswith("linux"):
            with open("/proc/self/statm") as statm:
                limit = memory + int(statm.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        content = json.dumps(_result(work, memory)).encode()
        while content:
            content = content[os.write(writing, content) :]
    finally:
        os._exit(0)


def _result(work: Callable[[], object], memory: int = MEMORY) -> dict[str, object]:
    try:
        return {"value": work()}
    except InputError as error:
        return {"problems": [[p.where, str(p.given), p.allowed, p.fix] for p in error.problems]}
    except MemoryError:
        return {"error": f"more than {memory / 2**30:.1f} GiB of memory", "exceeded": True}
    # A panic of a Rust library is not an Exception.
    except BaseException as error:
        if sys.platform == "win32":
            raise
        first = (str(error).strip().splitlines() or [""])[0]
        large = "memory" in first or "allocate" in first
        return {"error": f"{type(error).__name__}: {first[:300]}", "exceeded": large}


NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
TOGETHER = 0.1
"""Seconds within which signals are one: `timeout` sends each to the process and to its group."""


def interrupting_signals() -> list[signal.Signals]:
    """Return the signals that end a run on this system; `nohup` excludes SIGHUP."""
    numbers = [signal.Signals[name] for name in NAMES if hasattr(signal, name)]
    ignored = signal.SIG_IGN
    return [n for n in numbers if n == signal.SIGINT or signal.getsignal(n) is not ignored]


def raise_on_signals() -> None:
    """Raise `KeyboardInterrupt` in the main thread at every interrupting signal.

    Simultaneous signals count once.
    """
    last = -TOGETHER

    def interrupt(number: int, frame: object) -> None:
        nonlocal last
        since, last = time.monotonic() - last, time.monotonic()
        if since >= TOGETHER:
            raise KeyboardInterrupt

    for number in interrupting_signals():
        signal.signal(number, interrupt)


def ignore_signals() -> None:
    """Ignore interrupting signals from now on, since the process is about to end."""
    for number in interrupting_signals():
        signal.signal(number, signal.SIG_IGN)


class SignalGuard:
    """A context manager that records interrupting signals, for a block that stops at a safe point.

    A second signal raises `KeyboardInterrupt` at once. A signal that the block did not handle is
    raised when the block ends. Python handles signals in the main thread only; in other threads
    none is recorded.

    Attributes:
        received: Whether a signal was received.

    Example:
        >>> with SignalGuard() as signals:
        ...     signals.received
        False
    """

    def __init__(self) -> None:
        self.received = False
        self._at = 0.0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> SignalGuard:
        if threading.current_thread() is threading.main_thread():
            for number in interrupting_signals():
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        for number, handler in self._before.items():
            # None: a handler that was not installed from Python, which cannot restore it.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if self.received and error is None:
            raise KeyboardInterrupt

    def _receive(self, number: int, frame: object) -> None:
        if not self.received:
            self.received, self._at = True, time.monotonic()
        elif time.monotonic() - self._at >= TOGETHER:
            raise KeyboardInterrupt
