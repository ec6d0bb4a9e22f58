"""Distil: train the student on what the teacher says."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator

from limbeck import methods
from limbeck.objective import Objective
from limbeck.pipeline.candidate import Artefact, Candidate, Record, hashes
from limbeck.pipeline.context import Context
from limbeck.pipeline.stage import Stage
from limbeck.pipeline.teachers import teacher_of
from limbeck.pipeline.train import train, training_of
from limbeck.report.result import Curve
from limbeck.training import Training

HINTON: list[dict[str, Any]] = [
    {"task": {"weight": 0.1}},
    {"soft_target_kl": {"temperature": 4.0, "weight": 0.9}},
]


class Distill(Training, Stage):
    """Train the student with an objective over the labels, the teacher's answers and its features.

    Beside it the same student is trained on labels alone, from the same initial weights, over the same samples in the
    same order for as many epochs: what distillation brought is the difference.
    """

    makes: ClassVar[tuple[str, ...]] = ("student",)

    objective: Annotated[
        list[dict[str, Any]],
        Field(min_length=1, description="Terms: `- name: {weight: 0.9, ...}`."),
    ] = HINTON
    recorded: Annotated[
        bool,
        Field(
            description="Save the teacher's answers once, and look them up for every student after."
        ),
    ] = False
    baseline: Annotated[
        bool, Field(description="Train the same student on labels alone beside it.")
    ] = True

    @field_validator("objective")
    @classmethod
    def _terms_fit(cls, objective: list[dict[str, Any]]) -> list[dict[str, Any]]:
        Objective.from_recipe(objective)
        return objective

    def needed(self) -> tuple[str, ...]:
        """Need a teacher, unless the labels are all that is asked for."""
        return ("teacher",) if self._asks_teacher() else ()

    def _asks_teacher(self) -> bool:
        return any(name != "task" for term in self.objective for name in term)

    def run(self, candidate: Candidate, context: Context) -> Candidate:
        """Train the student and its label-only twin."""
        distilled, curve = self._distil(candidate, context)
        artefacts, curves = [distilled], [curve]
        if self.baseline and self._asks_teacher():
            twin, twin_curve = self._label_only(context.within("baseline"))
            artefacts.append(twin)
            curves.append(twin_curve)
        files = [name for one in artefacts for name in (one.file, *one.weights)]
        record = Record(
            stage="distill",
            key=context.key,
            seed=context.seed,
            settings=self.model_dump(mode="json"),
            what=" + ".join(name for term in self.objective for name in term),
            artefacts=tuple(artefacts),
            files=hashes(context.folder, files),
            curves=tuple(curves),
        )
        return candidate.then(context.folder, record)

    def _distil(self, candidate: Candidate, context: Context) -> tuple[Artefact, Curve]:
        objective = Objective.from_recipe(self.objective)
        teacher = None
        if self._asks_teacher():
            teacher = teacher_of(
                context,
                candidate.weights("teacher"),
                taps=list(objective.teacher_taps),
                recorded=self.recorded,
            )
        return self._train(context, objective, label="distilled student", teacher=teacher)

    def _label_only(self, context: Context) -> tuple[Artefact, Curve]:
        objective = Objective(methods.label_only())
        artefact, curve = self._train(
            context, objective, label="label-only student", role="baseline"
        )
        inside = {"file": f"baseline/{artefact.file}", "weights": ("baseline/model.safetensors",)}
        return artefact.model_copy(update=inside), curve

    def _train(
        self, context: Context, objective: Objective, *, label: str, **more: Any
    ) -> tuple[Artefact, Curve]:
        role = more.pop("role", "student")
        if context.recipe.student is None:  # the recipe's own check has seen to it
            raise ValueError("a distill stage without a student")
        model = context.build(context.recipe.student, seed=context.seed)
        curve = train(
            context, model, objective=objective, settings=training_of(self), label=label, **more
        )
        artefact = context.publish(model, role=role, label=label, weights=("model.safetensors",))
        return artefact, curve
