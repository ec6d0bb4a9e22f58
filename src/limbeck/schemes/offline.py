"""A student learns from a teacher that no longer changes, or from labels alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from limbeck.errors import InputError, Problem
from limbeck.objective import Losses, Objective, TermLoss, TrainingSet
from limbeck.progressive import Penalizing, Progressive
from limbeck.taps import Taps
from limbeck.tasks import Batch, Response, Task
from limbeck.teachers import Teacher


class Offline:
    """Train a student with an objective over its answers and a frozen teacher's.

    Without a teacher this is ordinary training, provided that the objective asks for none. A
    teacher that no term asks is never run.

    Args:
        student: The model that trains.
        task: What a batch means.
        objective: The weighted terms.
        teacher: Who answers beside the student, if any term asks.
        probe: One batch, from which connectors between student and teacher features are built.
        training_set: What is trained on, for terms that want to know.

    Raises:
        InputError: A term asks for a teacher and there is none, the teacher answers over other
            classes than the student, or a tap is no path of a module.

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
        training_set: TrainingSet | None = None,
    ) -> None:
        if objective.needs_teacher and teacher is None:
            fix = "Give a teacher, or use terms on labels alone."
            raise InputError(Problem("teacher", None, "a teacher, since a term asks for one", fix))
        self.student = student
        self._task = task
        self._objective = objective
        self._teacher = teacher if objective.needs_teacher else None
        self._progressive = [part for part in student.modules() if isinstance(part, Progressive)]
        self._penalizing = [part for part in student.modules() if isinstance(part, Penalizing)]
        self._parameters = [one for one in student.parameters() if one.requires_grad]
        self._connect(probe, training_set)

    def _connect(self, probe: Batch, training_set: TrainingSet | None) -> None:
        """Look once at both answers: are their classes the same, and what joins their features?"""
        with _evaluating(self.student), torch.no_grad():
            response = self._respond(probe)
        answer = None if self._teacher is None else self._teacher.answer(probe)
        ours = response.outputs["logits"].shape[-1]
        theirs = ours if answer is None else answer.targets.classes
        if ours != theirs:
            raise InputError(
                Problem(
                    "teacher",
                    given=f"{theirs} classes",
                    allowed=f"{ours} classes, as the student has",
                    fix="Teach or load a teacher for the same classes.",
                )
            )
        self._objective.connect(response, answer, training_set)

    def _respond(self, batch: Batch) -> Response:
        with Taps(self.student, self._objective.student_taps) as taps:
            return self._task.respond(self.student, batch, taps)

    def trainable(self) -> Iterator[nn.Parameter]:
        """Give the student's parameters and those of the connectors."""
        for module in self.modules().values():
            yield from (parameter for parameter in module.parameters() if parameter.requires_grad)

    def modules(self) -> Mapping[str, nn.Module]:
        """Name the student and what the objective learns beside it."""
        return {"student": self.student, **self._objective.modules()}

    def mass(self, batch: Batch) -> Tensor:
        """Sum the weights of the batch's units."""
        return self._task.weights(batch).sum()

    def step(self, batch: Batch, progress: float) -> Losses:
        """Let both answer, and compare."""
        for part in self._progressive:
            part.advance(progress)
        # The teacher first: what it leaves in the caches would push out what the student's backward
        # pass is about to read.
        answer = None if self._teacher is None else self._teacher.answer(batch)
        response = self._respond(batch)
        losses = self._objective(
            response,
            answer,
            task_loss=self._task.loss,
            progress=progress,
            parameters=self._parameters,
        )
        return self._penalized(losses) if self._penalizing else losses

    def _penalized(self, losses: Losses) -> Losses:
        penalty = torch.stack([part.penalty() for part in self._penalizing]).sum()
        said = TermLoss(penalty.detach(), penalty.detach())
        terms = {**losses.terms, "penalty": said}
        return Losses(losses.total + penalty, terms, losses.gradient_norms)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode for a while: a look must not move batch statistics."""
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
