"""Offline distillation from a frozen teacher, or training on labels alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from limbeck.core.modules import evaluating
from limbeck.errors import InputError, Problem
from limbeck.objective import Losses, Objective, TermGradient, TrainingSet, methods
from limbeck.schemes._regularizer import Regularizer
from limbeck.schemes._settings import SchemeInputs, SchemeSettings
from limbeck.schemes.scheme import Phase
from limbeck.taps import Taps
from limbeck.targets import Answer
from limbeck.tasks import Batch, Response, Task, common_classes, total_weights
from limbeck.teachers import Teacher


class Offline(nn.Module):
    """Offline distillation: an objective over the outputs of a student and a frozen teacher.

    Without a teacher this is ordinary training, if no term requires one. A teacher that no term
    requires is never run.

    It is a module: `parameters()` and `state_dict()` include the student and the objective's
    connectors but not the teacher, `to(device)` moves the teacher too, and `train()` keeps the
    teacher in evaluation mode.

    Args:
        student: The model to train.
        task: The task.
        objective: The weighted terms.
        teacher: The frozen teacher; the layers that terms compare are captured automatically.
        probe: An example batch, from which connectors between student and teacher features are
            built.
        training_set: The training set, for terms that depend on it.

    Attributes:
        student: The student.
        connectors: The connectors between features of different shapes, by term name.
        balance: The gradient balancing of terms with `weight="auto"`.

    Raises:
        InputError: A term requires a teacher and there is none, the classes of teacher and student
            differ, or a path is not a module.

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
            raise InputError(Problem("teacher", None, "a teacher, which a term requires", fix))
        if teacher is not None and not callable(getattr(teacher, "answer", None)):
            given, fix = type(teacher).__name__, "Wrap a module: FrozenTeacher(model, task)."
            raise InputError(Problem("teacher", given, "a teacher with answer(batch)", fix))
        objective.check_outputs(task.kinds)
        self.student = student
        self.connectors, self.balance = objective.connectors, objective.balance
        self._task = task
        self._objective = objective
        # In a tuple, since a module attribute would be registered: its parameters would be trained,
        # and saved with the student.
        self._teachers = (teacher,) if teacher is not None and objective.needs_teacher else ()
        self._regularizer = Regularizer(student)
        self._connect(probe, training_set)

    @property
    def _of_student(self) -> list[nn.Parameter]:
        """Return the student's parameters; not kept, since another may take its place."""
        return [one for one in self.student.parameters() if one.requires_grad]

    @property
    def teacher(self) -> Teacher | None:
        """Return the teacher, if a term requires one."""
        return self._teachers[0] if self._teachers else None

    @property
    def needs_labels_only(self) -> bool:
        """Return whether every term is against labels, so that rows without one add nothing."""
        return self._objective.needs_labels_only

    def _connect(self, probe: Batch, training_set: TrainingSet | None) -> None:
        """Check that the classes of both sides match, and build connectors of their features."""
        # A user's own teacher may return its features without `add_taps`.
        add_taps = getattr(self.teacher, "add_taps", None)
        if self._objective.teacher_taps and add_taps is not None:
            add_taps(self._objective.teacher_taps)
        with evaluating(self.student), torch.no_grad():
            response = self._respond(probe)
        answer = self._answer(probe)
        if answer is not None:
            self._objective.check_classes(response, answer, least=common_classes(self._task))
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

    @property
    def students(self) -> dict[str, nn.Module]:
        """Return the student."""
        return {"student": self.student}

    @property
    def phases(self) -> dict[str, Phase]:
        """Return the only phase: student and connectors train together."""
        return {"student": Phase(tuple(self.trainable()))}

    def trainable(self) -> Iterator[nn.Parameter]:
        """Yield the trainable parameters of the student and of the connectors."""
        return (parameter for parameter in self.parameters() if parameter.requires_grad)

    def begin_epoch(self, epoch: int) -> None:
        """Do nothing: every epoch is the same."""

    def after_step(self, step: int) -> None:
        """Do nothing: nothing follows the weights."""

    def modules_to_save(self) -> Mapping[str, nn.Module]:
        """Return the student and the trained modules of the objective, by name."""
        return {"student": self.student, **self._objective.modules()}

    def total_weights(self, batch: Batch) -> dict[str, Tensor]:
        """Sum the weights of the batch's elements by output, and of those with a label."""
        return total_weights(self._task, batch)

    def check_terms(self, batch: Batch) -> dict[str, TermGradient]:
        """Check on one batch, before training, that every term works and has a gradient.

        Nothing changes: modules are in evaluation mode during the check, and random states are
        restored.

        Args:
            batch: Any batch; at least 8 samples, since losses that compare samples with each other
                may be constant over fewer.

        Returns:
            Each term's gradient, by name: the norm, or the reason why it may be 0.

        Raises:
            InputError: The problems of all terms, as for `Objective.check`.
        """
        with evaluating(self), torch.random.fork_rng(devices=[]), torch.enable_grad():
            return self._objective.check(
                self._respond(batch),
                self._answer(batch),
                task_loss=self._task.loss,
                parameters=self._of_student,
            )

    def forward(
        self,
        batch: Batch,
        progress: float = 0.0,
        total_weights: Mapping[str, Tensor] | None = None,
    ) -> Losses:
        """Run `step`, for wrappers that call a module."""
        return self.step(batch, progress, total_weights)

    def step(
        self,
        batch: Batch,
        progress: float,
        total_weights: Mapping[str, Tensor] | None = None,
        phase: str = "student",
    ) -> Losses:
        """Run teacher and student on a micro-batch and compute the losses."""
        self._regularizer.advance(progress)
        # The teacher first: its data in the caches would evict what the student's backward pass is
        # about to read.
        answer = self._answer(batch)
        response = self._respond(batch)
        losses = self._objective(
            response,
            answer,
            task_loss=self._task.loss,
            progress=progress,
            parameters=self._of_student if self._objective.balance.measures else (),
            total_weights=total_weights,
        )
        return self._add(losses, response, total_weights)

    def _add(
        self, losses: Losses, response: Response, total_weights: Mapping[str, Tensor] | None
    ) -> Losses:
        """Add the losses of the student alone: the penalties of its parts."""
        return self._regularizer.add(losses, response, total_weights)


class OfflineSettings(SchemeSettings):
    """Offline distillation from a frozen teacher, or training on labels alone."""

    def build_scheme(self, student: nn.Module, inputs: SchemeInputs) -> Offline:
        """Build the scheme."""
        return Offline(
            student,
            inputs.task,
            inputs.objective(),
            teacher=inputs.teacher,
            probe=inputs.probe,
            training_set=inputs.training_set,
        )

    def build_control(self, student: nn.Module, inputs: SchemeInputs) -> Offline:
        """Build the training on labels alone."""
        return on_labels(student, inputs)


def on_labels(student: nn.Module, inputs: SchemeInputs) -> Offline:
    """Build the training of a student on labels alone."""
    objective = Objective(methods.label_only())
    return Offline(student, inputs.task, objective, probe=inputs.probe)
