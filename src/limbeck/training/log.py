"""The training log: one JSON object per line, and the same values to any Accelerate tracker."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from limbeck.core.files import WriteError

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

    def flush(self) -> int:
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


@dataclass(frozen=True)
class History:
    """The history of a training.

    Attributes:
        rows: One row per validation: losses by term, raw and weighted, and validation metrics.
            Non-finite metrics are omitted.
        best_step: The optimiser step, from 1, after which the kept weights were validated.
        steps: The number of optimiser steps.
        stopped_early: Whether early stopping ended the training.
        student: The name of the student that ships.
    """

    rows: tuple[dict[str, float], ...]
    best_step: int
    steps: int
    stopped_early: bool
    student: str = "student"


@dataclass
class Progress:
    """The position of a training.

    Attributes:
        step: The number of finished optimiser steps.
        validated: The step of the last validation.
        best_score: The best validation score so far.
        best_step: The step with the best score; the last one in a tie.
        best_student: The name of the student with the best score.
        since_better: The number of validations without improvement.
        rows: One row per validation.
    """

    step: int = 0
    validated: int = 0
    best_score: float = -math.inf
    best_step: int = 0
    best_student: str = ""
    since_better: int = 0
    rows: list[dict[str, float]] = field(default_factory=list)

    def choose(self, score: float, student: str = "") -> bool:
        """Record the score of a validation; return whether its weights are the best so far.

        In a tie the later one wins, since its learning rate is smaller. Patience counts strict
        improvements only. NaN is worse than any score.

        Example:
            >>> progress = Progress(step=1)
            >>> [progress.choose(score) for score in (float("nan"), 0.9, 0.8, 0.9)]
            [True, True, False, True]
            >>> progress.since_better
            2
        """
        score = -math.inf if math.isnan(score) else score
        self.since_better = 0 if score > self.best_score else self.since_better + 1
        if score < self.best_score:
            return False
        self.best_score, self.best_step, self.best_student = score, self.step, student
        return True

    def as_dict(self) -> dict[str, Any]:
        """Return the progress as plain data."""
        return dataclasses.asdict(self)


class RunningMean:
    """Running sums of the losses by term, for this process's part of each step.

    Python floats, added in the order of the steps, so that a resumed training is bit-identical.

    Example:
        >>> from types import SimpleNamespace
        >>> tally = RunningMean()
        >>> tally.add({"train/loss": 1.0})
        >>> tally.add({"train/loss": 2.0})
        >>> tally.pop(SimpleNamespace(num_processes=1))
        {'train/loss': 1.5}
    """

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._steps: dict[str, int] = {}

    def add(self, losses: Mapping[str, float]) -> None:
        """Add an optimiser step; losses measured in some steps only are averaged over those."""
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._steps[name] = self._steps.get(name, 0) + 1

    def pop(self, accelerator: Accelerator) -> dict[str, float]:
        """Return the means over the steps since the last call, over all processes."""
        names, sums, steps = list(self._sums), list(self._sums.values()), self._steps
        self._sums, self._steps = {}, {}
        if accelerator.num_processes > 1 and names:
            on_device = torch.tensor(sums, dtype=torch.float64, device=accelerator.device)
            sums = accelerator.reduce(on_device, reduction="sum").tolist()
        return {name: value / steps[name] for name, value in zip(names, sums, strict=True)}

    def state(self) -> dict[str, Any]:
        """Return the sums as plain data."""
        return {"sums": dict(self._sums), "steps": dict(self._steps)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore saved sums."""
        self._sums, self._steps = dict(state["sums"]), dict(state["steps"])
