"""The log of a training: one JSON object a line, and the same numbers to any tracker that Accelerate knows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.atomic import WriteError

if TYPE_CHECKING:
    from accelerate import Accelerator


class Log:
    """Appends rows to `log.jsonl`; cut back to where a checkpoint stood, it has no row twice."""

    def __init__(self, path: Path, accelerator: Accelerator) -> None:
        self._path = path
        self._accelerator = accelerator
        self.lines = 0

    def truncate(self, lines: int) -> None:
        """Keep the first lines only."""
        self.lines = lines
        if not self._accelerator.is_main_process:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        kept = self._path.read_text().splitlines(keepends=True)[:lines] if self._path.exists() else []
        self._path.write_text("".join(kept))

    def write(self, row: Mapping[str, float]) -> None:
        """Append a row.

        Raises:
            WriteError: The disk is full or the file cannot be written to.
        """
        self.lines += 1
        self._accelerator.log(dict(row), step=int(row["step"]))
        if self._accelerator.is_main_process:
            try:
                with self._path.open("a") as file:
                    file.write(json.dumps(row) + "\n")
            except OSError as error:
                raise WriteError(f"{self._path}: could not be written ({error.strerror}).") from error
