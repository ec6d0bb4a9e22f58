"""A student learns from a teacher that no longer changes, or from labels alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from limbeck.errors import InputError, Problem
from limbeck.objective import Losses, Objective
from limbeck.taps import Taps
from limbeck.tasks import Batch, Task
from limbeck.teachers import Teacher


class Offline:
    """Train a student with an objective over its answers and a frozen teacher's.

    Without a teacher this is ordinary training, provided that the objective asks for none.

    Args:
        student: The model that trains.
        task: What a batch means.
        objective: The weighted terms.
        teacher: Who answers beside the student, if any term asks.
        probe: One batch, from which connectors between student and teacher features are built.

    Raises:
        InputError: The teacher answers over other classes than the student.

    Source: Hinton, Vinyals and Dean 2015; ledger C1.
    """

    def __init__(
        self,
        student: nn.Module,
        task: Task,
        objective: Objective,
        *,
        teacher: Teacher | None = None,
        probe: Batch,
    ) -> None:
        self.student = student
        self._task = task
        self._objective = objective
        self._teacher = teacher
        self._connect(probe)

    def _connect(self, probe: Batch) -> None:
        """Look once at both answers: do they speak of the same classes, and what joins their features?"""
        training = self.student.training
        self.student.eval()  # a probe must not move the statistics of batch normalisation
        with torch.no_grad(), Taps(self.student, self._objective.student_taps) as taps:
            response = self._task.respond(self.student, probe, taps)
        self.student.train(training)
        if self._teacher is None:
            return
        answer = self._teacher.answer(probe)
        ours, theirs = response.outputs["logits"].shape[-1], answer.targets.logits.shape[-1]
        if ours != theirs:
            raise InputError(
                Problem(
                    "teacher",
                    given=f"{theirs} classes",
                    allowed=f"{ours} classes, as the student has",
                    fix="Teach or load a teacher for the same classes.",
                )
            )
        self._objective.connect(response, answer)

    def trainable(self) -> Iterator[nn.Parameter]:
        """Give the student's parameters and those of the connectors."""
        for module in self.modules().values():
            yield from (parameter for parameter in module.parameters() if parameter.requires_grad)

    def modules(self) -> Mapping[str, nn.Module]:
        """Name the student and what the objective learns beside it."""
        return {"student": self.student, "connectors": self._objective.connectors}

    def mass(self, batch: Batch) -> Tensor:
        """Sum the weights of the batch's units."""
        return self._task.weights(batch).sum()

    def step(self, batch: Batch, progress: float) -> Losses:
        """Let both answer, and compare."""
        with Taps(self.student, self._objective.student_taps) as taps:
            response = self._task.respond(self.student, batch, taps)
        answer = None if self._teacher is None else self._teacher.answer(batch)
        return self._objective(response, answer, task_loss=self._task.loss, progress=progress)
