"""A student learns from a teacher that no longer changes, or from labels alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from limbeck.errors import InputError, Problem
from limbeck.objective import Losses, Objective, TermGradient, TermLoss, TrainingSet
from limbeck.progressive import Penalizing, Progressive
from limbeck.taps import Taps
from limbeck.tasks import Batch, Response, Task
from limbeck.teachers import Answer, Teacher


class Offline(nn.Module):
    """Train a student with an objective over its outputs and those of a frozen teacher.

    Without a teacher this is ordinary training, provided that no term asks for one. A teacher that
    no term asks for is never run.

    It is a module: `parameters()` and `state_dict()` hold the student and what the objective learns
    beside it, `to(device)` moves the teacher too, and `train()` leaves the teacher in evaluation
    mode. The teacher is in no state dict and among no parameters.

    Args:
        student: The model that trains.
        task: What a batch means.
        objective: The weighted terms.
        teacher: The frozen teacher; the layers that terms compare are captured by themselves.
        probe: One batch, from which connectors between student and teacher features are built.
        training_set: What is trained on, for terms that need to know.

    Attributes:
        student: The student.
        connectors: What joins features of different shapes, by the name of the term.
        balance: What finds the weights of terms with `weight="auto"`.

    Raises:
        InputError: A term asks for a teacher and there is none, the teacher has other classes than
            the student, or a path is no module.

    Source: Hinton, Vinyals and Dean 2015.
    """

    student: nn.Module
    connectors: nn.ModuleDict
    balance: nn.Module

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
        super().__init__()
        if objective.needs_teacher and teacher is None:
            fix = "Give a teacher, or use terms on labels alone."
            raise InputError(Problem("teacher", None, "a teacher, since a term asks for one", fix))
        self.student = student
        self.connectors, self.balance = objective.connectors, objective.balance
        self._task = task
        self._objective = objective
        # In a tuple, since a module that is an attribute would be registered: its parameters would
        # be trained, and saved with the student.
        self._teachers = (teacher,) if teacher is not None and objective.needs_teacher else ()
        self._progressive = [part for part in student.modules() if isinstance(part, Progressive)]
        self._penalizing = [part for part in student.modules() if isinstance(part, Penalizing)]
        self._of_student = [one for one in student.parameters() if one.requires_grad]
        self._connect(probe, training_set)

    @property
    def teacher(self) -> Teacher | None:
        """The teacher, if a term asks for one."""
        return self._teachers[0] if self._teachers else None

    def _connect(self, probe: Batch, training_set: TrainingSet | None) -> None:
        """Compare the classes of both sides, and build what joins their features."""
        # A teacher of the user's own may return its features without being asked to.
        add_taps = getattr(self.teacher, "add_taps", None)
        if self._objective.teacher_taps and add_taps is not None:
            add_taps(self._objective.teacher_taps)
        with _evaluating(self.student), torch.no_grad():
            response = self._respond(probe)
        answer = self._answer(probe)
        ours = response.outputs["logits"].shape[-1]
        theirs = (answer and answer.targets.classes) or ours
        padded = self._objective.compares_common_classes
        if ours != theirs and not (padded and min(ours, theirs) >= len(self._task.classes) > 0):
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

    def _answer(self, batch: Batch) -> Answer | None:
        return None if self.teacher is None else self.teacher.answer(batch)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Offline:
        """Move or convert the teacher, too."""
        super()._apply(fn, recurse)
        if isinstance(self.teacher, nn.Module):
            self.teacher._apply(fn)
        return self

    def trainable(self) -> Iterator[nn.Parameter]:
        """Return the student's parameters that train and those of the connectors."""
        return (parameter for parameter in self.parameters() if parameter.requires_grad)

    def modules_to_save(self) -> Mapping[str, nn.Module]:
        """Name the student and what the objective learns beside it."""
        return {"student": self.student, **self._objective.modules()}

    def mass(self, batch: Batch) -> Tensor:
        """Sum the weights of the batch's elements."""
        return self._task.weights(batch).sum()

    def check_terms(self, batch: Batch) -> dict[str, TermGradient]:
        """Check on one batch, before training, that every term works and moves the student.

        Nothing changes: modules are in evaluation mode meanwhile, and the random numbers that are
        drawn are drawn again afterwards.

        Args:
            batch: Any batch; at least 8 samples, since losses that compare samples with each other
                may be constant over fewer.

        Returns:
            Each term's gradient, by its name: the norm, or why it is 0 where that is no fault.

        Raises:
            InputError: All that is wrong with any term, as for `Objective.check`.
        """
        with _evaluating(self), torch.random.fork_rng(devices=[]), torch.enable_grad():
            return self._objective.check(
                self._respond(batch),
                self._answer(batch),
                task_loss=self._task.loss,
                parameters=self._of_student,
            )

    def forward(self, batch: Batch, progress: float = 0.0) -> Losses:
        """Run `step`, for wrappers that call a module."""
        return self.step(batch, progress)

    def step(self, batch: Batch, progress: float) -> Losses:
        """Run teacher and student on a micro-batch and compare their outputs."""
        for part in self._progressive:
            part.advance(progress)
        # The teacher first: what it leaves in the caches would push out what the student's backward
        # pass is about to read.
        answer = self._answer(batch)
        response = self._respond(batch)
        losses = self._objective(
            response,
            answer,
            task_loss=self._task.loss,
            progress=progress,
            parameters=self._of_student,
        )
        return self._penalized(losses) if self._penalizing else losses

    def _penalized(self, losses: Losses) -> Losses:
        penalty = torch.stack([part.penalty() for part in self._penalizing]).sum()
        logged = TermLoss(penalty.detach(), penalty.detach())
        terms = {**losses.terms, "penalty": logged}
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
