"""Interrupts that wait until a step is whole, so that what is saved is whole too."""

from __future__ import annotations

import signal
import threading
from types import TracebackType
from typing import Any


class Interrupts:
    """Hear SIGINT and SIGTERM while a `with` block lasts; the block looks when it is able to stop.

    A second signal does not wait: it raises `KeyboardInterrupt` at once. A signal that nobody acted
    upon is not lost: it is raised when the block ends. Signals reach the main thread only, so that
    nothing is heard elsewhere.

    Attributes:
        heard: Whether there was a signal.

    Example:
        >>> with Interrupts() as interrupts:
        ...     interrupts.heard
        False
    """

    def __init__(self) -> None:
        self.heard = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self.heard and error is None:
            raise KeyboardInterrupt

    def _hear(self, number: int, frame: object) -> None:
        if self.heard:
            raise KeyboardInterrupt
        self.heard = True
