"""Cached teacher outputs, looked up by sample and view."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from limbeck.errors import InputError, Problem
from limbeck.targets import Answer, Targets, expanded
from limbeck.tasks import Batch, Task


class Record(Protocol):
    """A cache of targets, one record per sample and view (`limbeck.data.cache`)."""

    @property
    def packed(self) -> bool:
        """Return whether only elements with weight are stored."""
        ...

    def lookup(self, index: Tensor, view: Tensor) -> Mapping[str, Targets]:
        """Return the targets of samples `index [n]` in views `view [n]`, by output."""
        ...


class CachedTeacher(nn.Module):
    """The cached outputs of a frozen teacher, without the teacher.

    Outputs are keyed by sample and view, never by position in an epoch: shuffled or augmented
    batches get the outputs for exactly the student's inputs.

    Args:
        record: The cache of the outputs.
        fingerprint: The fingerprint of the cached teacher.
        task: The task, for sequences whose length varies by batch: records have the elements with
            weight, or are as long as the longest sequence; answers are as long as the batch.
    """

    def __init__(self, record: Record, *, fingerprint: str, task: Task | None = None) -> None:
        super().__init__()
        self._task = task
        self._record = record
        self._fingerprint = fingerprint

    @property
    def record(self) -> Record:
        """Return the cache."""
        return self._record

    @property
    def fingerprint(self) -> str:
        """Return the fingerprint of the cached teacher."""
        return self._fingerprint

    def add_taps(self, paths: Iterable[str]) -> None:
        """Raise an error: only targets are cached, no features.

        Raises:
            InputError: A path is given.
        """
        if paths := list(paths):
            fix = "Use the teacher itself: a FrozenTeacher, or `cache_teacher: false` in a recipe."
            raise InputError(Problem("teacher", paths, "terms on recorded answers only", fix))

    def answer(self, batch: Batch) -> Answer:
        """Look up the outputs for a batch.

        Raises:
            InputError: The batch has no sample indices or views.
        """
        missing = [name for name in ("index", "view") if name not in batch]
        if missing:
            fix = "Take batches from a limbeck.data split, or let the teacher itself answer."
            allowed = f"{' and '.join(missing)}, int64 [n], beside the inputs"
            raise InputError(Problem("batch", list(batch), allowed, fix))
        index = batch["index"]
        targets = self._record.lookup(index.cpu(), batch["view"].cpu())
        if self._task is not None:
            weights = self._task.weights(batch)
            targets = {
                name: expanded(one, weights[name].cpu() > 0)
                if self._record.packed
                else _shortened(one, len(index), len(weights[name]))
                for name, one in targets.items()
            }
        return Answer({name: one.to(index.device) for name, one in targets.items()})

    def forward(self, batch: Batch) -> Answer:
        """Run `answer`, for wrappers that call a module."""
        return self.answer(batch)


def _shortened(targets: Targets, samples: int, elements: int) -> Targets:
    """Return the first elements of each sample, as many as the batch has."""
    stored, needed = targets.elements // samples, elements // samples
    if needed >= stored:
        return targets
    rows = torch.arange(samples)[:, None] * stored + torch.arange(needed)
    return targets.take(rows.flatten())
