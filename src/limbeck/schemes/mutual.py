"""Deep mutual learning: several students teach each other, without a teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Annotated, Any, ClassVar, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from limbeck.core.modules import evaluating, fixed_statistics
from limbeck.errors import InputError, Problem, RefusedError
from limbeck.models.spec import ModelSpec
from limbeck.objective import Losses, Objective, TermGradient, TermLoss, TrainingSet
from limbeck.schemes._regularizer import Regularizer
from limbeck.schemes._settings import SchemeInputs, SchemeSettings
from limbeck.schemes.offline import Offline, on_labels
from limbeck.schemes.scheme import Phase
from limbeck.targets import Answer
from limbeck.tasks import Batch, Response, Task, total_weights
from limbeck.teachers import TargetForm


class Mutual(nn.Module):
    r"""Deep mutual learning (DML): each student learns from the labels and from the other students.

    $$L_i = CE_i + \frac{1}{K-1} \sum_{l \neq i} KL(p_l \| p_i)$$

    for K students; in general the mean over the other students of the objective against each.

    Updates are sequential, as in algorithm 1 of the paper: each student is a phase with an
    optimiser of its own, and later students of a step learn from its updated predictions. So a step
    takes K² forward passes, K of them with a gradient. The others' predictions are those of
    training mode, without gradient; they do not update running statistics, which would otherwise
    count a batch K times.

    Args:
        students: The students by name, at least two; the first is validated, and ships.
        task: The task.
        objective: A function that builds the weighted terms, once per student.
        probe: An example batch.
        training_set: The training set, for terms that depend on it.

    Raises:
        InputError: There are fewer than two students, two of them are equal or differ in classes,
            no term compares with the other students, or a term compares layers.

    Source: Zhang, Xiang, Hospedales and Lu 2018 (arXiv 1706.00384).
    """

    def __init__(
        self,
        students: Mapping[str, nn.Module],
        task: Task,
        objective: Callable[[], Objective],
        *,
        probe: Batch,
        training_set: TrainingSet | None = None,
    ) -> None:
        super().__init__()
        _check_students(students)
        for name, student in students.items():
            self.add_module(name, student)
        self._task = task
        self._objectives = {name: objective() for name in students}
        self._regularizers = {name: Regularizer(one) for name, one in students.items()}
        self._form = TargetForm()
        for one in self._objectives.values():
            _check_objective(one)
            one.check_outputs(task.kinds)
        with evaluating(self), torch.no_grad():
            responses = {name: self._respond(name, probe) for name in students}
        _check_classes(responses)
        for name, one in self._objectives.items():
            [peer, *_] = self._peers(name)
            answer = self._form.answer(responses[peer], task.kinds, probe)
            one.connect(responses[name], answer, training_set)

    @property
    def students(self) -> dict[str, nn.Module]:
        """Return the students; the first is validated, and ships."""
        return {name: cast("nn.Module", getattr(self, name)) for name in self._objectives}

    @property
    def phases(self) -> dict[str, Phase]:
        """Return one phase per student, in order."""
        return {name: Phase(tuple(self._trained(name))) for name in self._objectives}

    def _trained(self, name: str) -> list[nn.Parameter]:
        """Return a student's parameters; not kept, since another may take its place."""
        return [one for one in self.students[name].parameters() if one.requires_grad]

    def modules_to_save(self) -> dict[str, nn.Module]:
        """Return the students and the trained modules of their objectives, by name."""
        of_objectives = {
            f"{name}.{key}": module
            for name, objective in self._objectives.items()
            for key, module in objective.modules().items()
        }
        return {**self.students, **of_objectives}

    def total_weights(self, batch: Batch) -> dict[str, Tensor]:
        """Sum the weights of the batch's elements by output, and of those with a label."""
        return total_weights(self._task, batch)

    def begin_epoch(self, epoch: int) -> None:
        """Do nothing: every epoch is the same."""

    def after_step(self, step: int) -> None:
        """Do nothing: nothing follows the weights."""

    def _peers(self, name: str) -> list[str]:
        return [other for other in self._objectives if other != name]

    def _respond(self, name: str, batch: Batch) -> Response:
        return self._task.respond(getattr(self, name), batch)

    def _answer(self, name: str, batch: Batch) -> Answer:
        with torch.no_grad(), fixed_statistics(getattr(self, name)):
            return self._form.answer(self._respond(name, batch), self._task.kinds, batch)

    def step(
        self,
        batch: Batch,
        progress: float,
        total_weights: Mapping[str, Tensor] | None = None,
        phase: str = "",
    ) -> Losses:
        """Run all students on a micro-batch and compute the losses of one, named by the phase."""
        name = phase or next(iter(self._objectives))
        self._regularizers[name].advance(progress)
        answers = [self._answer(peer, batch) for peer in self._peers(name)]
        response = self._respond(name, batch)
        objective = self._objectives[name]
        losses = [
            objective(
                response,
                answer,
                task_loss=self._task.loss,
                progress=progress,
                parameters=self._trained(name) if objective.balance.measures else (),
                total_weights=total_weights,
            )
            for answer in answers
        ]
        return self._regularizers[name].add(_mean(losses), response, total_weights)

    def check_terms(self, batch: Batch) -> dict[str, TermGradient]:
        """Check on one batch, before training, that every term has a gradient for every student.

        Raises:
            InputError: The problems of all terms and students, as for `Objective.check`.
        """
        found: dict[str, TermGradient] = {}
        problems: list[Problem] = []
        with evaluating(self), torch.random.fork_rng(devices=[]), torch.enable_grad():
            for name, objective in self._objectives.items():
                try:
                    gradients = objective.check(
                        self._respond(name, batch),
                        self._answer(self._peers(name)[0], batch),
                        task_loss=self._task.loss,
                        parameters=self._trained(name),
                    )
                except InputError as error:
                    problems += [replace(p, where=f"{name}.{p.where}") for p in error.problems]
                else:
                    found |= {f"{name}/{term}": one for term, one in gradients.items()}
        if problems:
            raise InputError(*problems)
        return found


def _check_students(students: Mapping[str, nn.Module]) -> None:
    if len(students) < 2:
        raise InputError(Problem("students", list(students), "at least two students"))
    for one, other in combinations(students, 2):
        states = [students[name].state_dict() for name in (one, other)]
        if states[0].keys() == states[1].keys() and all(
            value.shape == states[1][name].shape and torch.equal(value, states[1][name])
            for name, value in states[0].items()
        ):
            raise InputError(
                Problem(
                    "students",
                    f"{one} and {other} with the same weights",
                    "students with different initial weights",
                    "Equal students predict the same, and learn nothing from each other: "
                    "initialise them with different seeds, without a checkpoint.",
                )
            )


def _check_objective(objective: Objective) -> None:
    taps = [*objective.student_taps, *objective.teacher_taps]
    if taps:
        raise InputError(Problem("terms", taps, "terms on outputs only, in mutual learning"))
    if not objective.needs_teacher:
        given = [str(term.loss) for term in objective.terms]
        allowed = "at least one term against the other students, such as soft_target_kl"
        raise InputError(Problem("terms", given, allowed))


def _check_classes(responses: Mapping[str, Response]) -> None:
    classes = {
        name: [output.classes for output in response.outputs.values()]
        for name, response in responses.items()
    }
    [first, *others] = classes.items()
    for name, found in others:
        if found != first[1]:
            allowed = f"{first[1]}, as {first[0]} has"
            raise InputError(Problem(name, f"outputs of {found} classes", allowed))


def _mean(parts: Sequence[Losses]) -> Losses:
    """Average losses with the same terms."""
    if len(parts) == 1:
        return parts[0]

    def mean(values: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(values)).mean()

    terms = {
        name: TermLoss(
            mean([one.terms[name].raw for one in parts]),
            mean([one.terms[name].weighted for one in parts]),
        )
        for name in parts[0].terms
    }
    norms = {
        name: mean([one.gradient_norms[name] for one in parts]) for name in parts[0].gradient_norms
    }
    return Losses(mean([one.total for one in parts]), terms, norms)


class MutualSettings(SchemeSettings):
    """Deep mutual learning: two or more students teach each other, without a teacher.

    The student of the recipe is the first one, and ships. Its control is the same student alone.

    Source: Zhang, Xiang, Hospedales and Lu 2018 (arXiv 1706.00384).
    """

    uses_teacher: ClassVar[bool] = False
    default_objective: ClassVar[Sequence[Mapping[str, Any]] | None] = [
        {"task": {}},
        {"soft_target_kl": {"temperature": 1.0}},
    ]

    copies: Annotated[
        int | None,
        Field(
            ge=2,
            le=100,
            description="Number of students of the recipe's architecture, each with initial "
            "weights of its own; 2 without `peers`.",
        ),
    ] = None
    peers: Annotated[
        list[ModelSpec] | None,
        Field(
            min_length=1,
            max_length=99,
            description="In place of `copies`: the other students, as `student`.",
        ),
    ] = None

    ship: Annotated[
        str,
        Field(
            description="The student that ships: `student`, `peer_1` and so on, or the `best` on "
            "validation; only `student` with `peers`, which may be of other architectures."
        ),
    ] = "student"

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if self.copies is not None and self.peers is not None:
            allowed = "`copies` or `peers`, not both"
            raise RefusedError(Problem("copies", self.copies, allowed))
        names = ["student"]
        if self.peers is None:
            names += ["best", *(f"peer_{number}" for number in range(1, self.copies or 2))]
        if self.ship not in names:
            raise RefusedError(Problem("ship", self.ship, ", ".join(names)))
        return self

    def shipped(self) -> str:
        """Return the name of the student that ships."""
        return self.ship

    def further_models(self) -> dict[str, ModelSpec | None]:
        """Return the other students, by path; None is one like the recipe's student."""
        if self.peers is None:
            return {f"copies.{number}": None for number in range(1, self.copies or 2)}
        return {f"peers.{number}": spec for number, spec in enumerate(self.peers)}

    def build_scheme(self, student: nn.Module, inputs: SchemeInputs) -> Mutual:
        """Build the scheme of the student and its peers."""
        peers = {f"peer_{number}": model for number, model in enumerate(inputs.models, start=1)}
        return Mutual(
            {"student": student, **peers},
            inputs.task,
            inputs.objective,
            probe=inputs.probe,
            training_set=inputs.training_set,
        )

    def build_control(self, student: nn.Module, inputs: SchemeInputs) -> Offline:
        """Build the training of the same student alone, on labels."""
        return on_labels(student, inputs)
