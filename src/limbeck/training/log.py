"""The training log: one JSON object per line, and the same values to any Accelerate tracker."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.atomic import WriteError

if TYPE_CHECKING:
    from accelerate import Accelerator


class Log:
    """A log file that is truncated to a checkpoint's position on resume, so that no row repeats.

    Args:
        path: The file.
        accelerator: The accelerator whose trackers get the same values; its main process writes the
            file.
    """

    def __init__(self, path: Path, accelerator: Accelerator) -> None:
        self._path = path
        self._accelerator = accelerator

    def begin(self, size: int = 0) -> None:
        """Truncate the file to its first bytes, in one atomic call.

        Raises:
            WriteError: The file cannot be written to.
        """
        if not self._accelerator.is_main_process:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                there = file.tell()
                file.truncate(min(size, there))
        except OSError as error:
            raise self._not_written(error) from error
        if there < size:
            warnings.warn(f"{self._path}: rows from before the checkpoint are gone.", stacklevel=2)

    def write(self, row: Mapping[str, float]) -> None:
        """Append a row.

        Raises:
            WriteError: The disk is full or the file cannot be written to.
        """
        self._accelerator.log(dict(row), step=int(row["step"]))
        if self._accelerator.is_main_process:
            try:
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
            except OSError as error:
                raise self._not_written(error) from error

    def settle(self) -> int:
        """Flush the log to disk, and return the file's size; 0 in other processes.

        Raises:
            WriteError: The disk is full or the file cannot be written to.
        """
        if not self._accelerator.is_main_process:
            return 0
        try:
            with self._path.open("ab") as file:
                os.fsync(file.fileno())
                return file.tell()
        except OSError as error:
            raise self._not_written(error) from error

    def _not_written(self, error: OSError) -> WriteError:
        return WriteError(f"{self._path}: could not be written ({error.strerror or error}).")
