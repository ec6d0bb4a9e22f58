"""A teacher's answers, saved once and looked up ever after."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from torch import Tensor, nn

from limbeck.errors import InputError, Problem
from limbeck.targets import DenseTargets
from limbeck.tasks import Batch
from limbeck.teachers.teacher import Answer


class Record(Protocol):
    """Where answers lie, one row for each sample and view (`limbeck.data.knowledge`)."""

    def lookup(self, index: Tensor, view: Tensor) -> Tensor:
        """Give the logits of samples `index [n]` as seen in views `view [n]`."""
        ...


class RecordedTeacher(nn.Module):
    """What a frozen teacher said about each sample, without the teacher.

    Answers are keyed by sample and view, never by position in an epoch: a shuffled batch, or one
    whose pictures were augmented, gets the answer to exactly what the student sees.

    Args:
        record: Where the answers lie.
        fingerprint: The fingerprint of the teacher who gave them.
    """

    def __init__(self, record: Record, *, fingerprint: str) -> None:
        super().__init__()
        self._record = record
        self._fingerprint = fingerprint

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the teacher who answered."""
        return self._fingerprint

    def add_taps(self, paths: Iterable[str]) -> None:
        """Refuse features: only answers are recorded.

        Raises:
            InputError: A path is given.
        """
        if paths := list(paths):
            fix = "Use the teacher itself: a FrozenTeacher, or `recorded: false` in a recipe."
            raise InputError(Problem("teacher", paths, "terms on recorded answers only", fix))

    def answer(self, batch: Batch) -> Answer:
        """Look the answers up; the teacher costs nothing here.

        Raises:
            InputError: The batch does not say which samples it holds, in which views.
        """
        missing = [name for name in ("index", "view") if name not in batch]
        if missing:
            fix = "Take batches from a limbeck.data split, or let the teacher itself answer."
            allowed = f"{' and '.join(missing)}, int64 [n], beside the inputs"
            raise InputError(Problem("batch", list(batch), allowed, fix))
        index = batch["index"]
        logits = self._record.lookup(index.cpu(), batch["view"].cpu())
        return Answer(DenseTargets(logits.to(index.device)))

    def forward(self, batch: Batch) -> Answer:
        """Run `answer`, for wrappers that call a module."""
        return self.answer(batch)
