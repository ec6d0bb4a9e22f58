"""Teacher training stage."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from limbeck.objective import Objective, methods
from limbeck.pipeline.candidate import Candidate, State
from limbeck.pipeline.context import Context
from limbeck.pipeline.dry_run import DryRun
from limbeck.pipeline.stage import Stage
from limbeck.pipeline.teachers import member_files, publish_teacher
from limbeck.pipeline.train import offline, train, training_of, try_training
from limbeck.training import Training, frozen


class TrainTeacher(Training, Stage):
    """Training of the teacher on the labels; ensemble members one by one, with distant seeds.

    By default each seed of the run trains its own teacher. With `seed`, one teacher is trained and
    serves all of them: intervals are then over students alone.
    """

    produces: ClassVar[tuple[str, ...]] = ("teacher",)

    seed: Annotated[
        int | None,
        Field(
            ge=0,
            lt=2**31,
            description="The seed of one teacher that all seeds of the run share; by default each "
            "seed trains its own.",
        ),
    ] = None

    def shared_seed(self) -> int | None:
        """Return the seed of the teacher that all seeds share, or None."""
        return self.seed

    def dry_run(self, trial: DryRun, *, where: str) -> None:
        """Build every member, and try one training step."""
        context = trial.context
        for model in trial.teachers:
            with frozen(model, self.freeze, where=f"{where}.freeze"):
                scheme = offline(context, model, Objective(methods.label_only()))
                try_training(context, scheme, training_of(self), where=where)

    def run(self, candidate: Candidate, context: Context) -> Candidate:
        """Train every member, and publish their ensemble."""
        specs = context.recipe.teachers
        names = member_files(len(specs))
        begun = candidate.state("teacher")
        before: list[Path | None] = [*begun.weights] or [None] * len(specs)
        curves = []
        for number, (spec, name, weights) in enumerate(zip(specs, names, before, strict=True)):
            label = "teacher" if len(specs) == 1 else f"teacher {number + 1} of {len(specs)}"
            seed = context.seed_of(number)
            model = context.build(spec, seed=seed, weights=weights, changes=begun.changes)
            with frozen(model, self.freeze):
                scheme = offline(context, model, Objective(methods.label_only()))
                settings = training_of(self)
                curves.append(
                    train(
                        context,
                        scheme,
                        settings=settings,
                        label=label,
                        role="teacher",
                        weights=name,
                    )
                )
        state = State(tuple(context.folder / name for name in names), begun.changes)
        artefact = publish_teacher(context, state)
        record = self.record(
            context,
            what="trained on the labels" + (f", {len(specs)} members" if len(specs) > 1 else ""),
            artefacts=[artefact.model_copy(update={"weights": names})],
            curves=curves,
        )
        return candidate.append(context.folder, record)
