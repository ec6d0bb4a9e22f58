"""Untrusted work in a child process with limits on time and memory, and signal handling."""

from __future__ import annotations

import builtins
import importlib
import json
import math
import os
import select
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

from limbeck.errors import InputError, Problem

CPU_SECONDS = 3
IDLE_SECONDS = 60.0
"""A child that computes ends by its CPU limit; one that hardly computes for so long is killed."""

IDLE_SHARE = 0.01
"""The share of one core below which a child counts as waiting, not as slowed by a busy machine."""

IMPORT_SECONDS = 300
"""The CPU time of imports in a child, which is not that of its work."""

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
        seconds: The limit on CPU time; `CPU_SECONDS` if not given. Imports do not count: without
            compiled bytecode a library takes several seconds.
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
        raise LimitError(f"more than {IDLE_SECONDS:.0f} s of waiting")
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
    """Read until the child ends; kill it once it waits, and return None."""
    parts: list[bytes] = []
    spent, end = 0.0, time.monotonic() + IDLE_SECONDS
    while True:
        ready, _, _ = select.select([reading], [], [], max(0.0, end - time.monotonic()))
        if not ready:
            before, spent = spent, cpu_seconds(child)
            if spent - before >= IDLE_SHARE * IDLE_SECONDS:
                end = time.monotonic() + IDLE_SECONDS
                continue
            os.kill(child, signal.SIGKILL)
            return None
        part = os.read(reading, 65536)
        if not part:
            return b"".join(parts)
        parts.append(part)


def cpu_seconds(process: int) -> float:
    """Return the CPU time of a running process in seconds; 0 where the system does not state it.

    Example:
        >>> cpu_seconds(os.getpid()) >= 0
        True
    """
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return 0.0


def run_limited(
    command: Sequence[str],
    *,
    seconds: float,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    r"""Run a command, and kill it after a CPU time, or after as much time of waiting.

    On a busy machine a command takes longer than on an idle one, but not more CPU time.

    Args:
        command: The command.
        seconds: The limit, of at least one of both.
        cwd: Its folder.
        env: Its environment.

    Raises:
        subprocess.TimeoutExpired: It was killed.

    Example:
        >>> run_limited([sys.executable, "-c", "print(6 * 7)"], seconds=60).stdout
        '42\n'
    """
    pipe = subprocess.PIPE
    spent = 0.0
    with subprocess.Popen(
        command, cwd=cwd, env=env, stdout=pipe, stderr=pipe, text=True, errors="replace"
    ) as child:
        while True:
            try:
                output, errors = child.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                before, spent = spent, cpu_seconds(child.pid)
                if spent < seconds and spent - before >= IDLE_SHARE * seconds:
                    continue
                child.kill()
                raise
            except BaseException:
                child.kill()
                raise
            return subprocess.CompletedProcess(command, child.returncode, output, errors)


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
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _limit_cpu_time(seconds)
        if sys.platform.startswith("linux"):
            with open("/proc/self/statm") as statm:
                limit = memory + int(statm.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        content = json.dumps(_result(work, memory)).encode()
        while content:
            content = content[os.write(writing, content) :]
    finally:
        os._exit(0)


def _limit_cpu_time(seconds: int) -> None:
    """Limit the CPU time of this process from now on, without that of imports."""
    import resource

    hard = int(time.process_time()) + seconds + IMPORT_SECONDS
    depth, begun, allowed = 0, 0.0, time.process_time() + seconds

    def limit(end: float) -> None:
        whole = math.ceil(end - 0.1)  # the limit counts whole seconds
        resource.setrlimit(resource.RLIMIT_CPU, (min(whole, hard), hard))

    def unlimited(imports: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(imports)
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal depth, begun, allowed
            if depth == 0:
                begun = time.process_time()
                limit(hard)
            depth += 1
            try:
                return imports(*args, **kwargs)
            finally:
                depth -= 1
                if depth == 0:
                    allowed += time.process_time() - begun
                    limit(allowed)

        return call

    limit(allowed)
    builtins.__import__ = unlimited(builtins.__import__)
    # What a module imports by name: transformers does so.
    importlib.import_module = unlimited(importlib.import_module)


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
