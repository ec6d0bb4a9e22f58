"""Signals that end a run: Ctrl-C, SIGTERM and SIGHUP."""

from __future__ import annotations

import signal
import threading
import time
from types import TracebackType
from typing import Any

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
TOGETHER = 0.1
"""Seconds within which signals are one: `timeout` sends each to the process and to its group."""


def interrupting_signals() -> list[signal.Signals]:
    """Return the signals that end a run on this system; `nohup` excludes SIGHUP."""
    numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
    return [
        number
        for number in numbers
        if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN
    ]


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


class Interrupts:
    """A context manager that records interrupting signals, for a block that stops at a safe point.

    A second signal raises `KeyboardInterrupt` at once. A signal that the block did not handle is
    raised when the block ends. Python handles signals in the main thread only; in other threads
    none is recorded.

    Attributes:
        heard: Whether a signal was received.

    Example:
        >>> with Interrupts() as interrupts:
        ...     interrupts.heard
        False
    """

    def __init__(self) -> None:
        self.heard = False
        self._at = 0.0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in interrupting_signals():
                self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            # None: a handler that was not installed from Python, which cannot restore it.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if self.heard and error is None:
            raise KeyboardInterrupt

    def _hear(self, number: int, frame: object) -> None:
        if not self.heard:
            self.heard, self._at = True, time.monotonic()
        elif time.monotonic() - self._at >= TOGETHER:
            raise KeyboardInterrupt
