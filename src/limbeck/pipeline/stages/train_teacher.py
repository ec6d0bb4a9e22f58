"""Teacher training stage."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import Field
from threadpoolctl import threadpool_limits

from limbeck.data.label import UNLABELLED
from limbeck.errors import Problem
from limbeck.models.build import is_fitted
from limbeck.models.trees import TreeEnsemble
from limbeck.objective import Objective, methods
from limbeck.pipeline.artefacts import EVALUATION_BATCH, save
from limbeck.pipeline.candidate import Candidate, State
from limbeck.pipeline.context import Context
from limbeck.pipeline.dry_run import DryRun
from limbeck.pipeline.stage import Stage
from limbeck.pipeline.teachers import member_files, publish_teacher
from limbeck.pipeline.train import offline, train, training_of, try_training
from limbeck.training import Training, frozen

if TYPE_CHECKING:
    from limbeck.pipeline.recipe import Recipe


class TrainTeacher(Training, Stage):
    """Training of the teacher on the labels; ensemble members one by one, with distant seeds.

    By default each seed of the run trains its own teacher. With `seed`, one teacher is trained and
    serves all of them: intervals are then over students alone.
    """

    produces: ClassVar[tuple[str, ...]] = ("teacher",)
    needs_length: ClassVar[bool] = False  # teachers that scikit-learn fits have none

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

    def validate_in(self, recipe: Recipe) -> list[Problem]:
        """Return problems: settings of a training that the teachers lack, or a missing length."""
        fitted = [bool(is_fitted(spec)) for spec in recipe.teachers]
        if not all(fitted) and self.epochs is None and self.steps is None:
            return [Problem.missing("epochs", "Or `steps`, the number of optimiser steps.")]
        given = self.model_dump(exclude_unset=True, exclude={"seed"}) if all(fitted) else {}
        allowed = "`seed` alone: scikit-learn fits the teachers, by the arguments in `teacher`"
        return [Problem(name, value, allowed) for name, value in given.items()] if fitted else []

    def dry_run(self, trial: DryRun, *, where: str) -> None:
        """Build every member, and try one training step."""
        context = trial.context
        for model in trial.teachers:
            if isinstance(model, TreeEnsemble):
                continue
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
            if isinstance(model, TreeEnsemble):
                _fit(context, model, seed=seed, label=label, weights=name)
                continue
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


def _fit(context: Context, model: TreeEnsemble, *, seed: int, label: str, weights: str) -> None:
    """Fit trees to the training rows with a label, in the first process, and save them."""
    if context.main:
        clock, split = time.monotonic(), context.data.train
        batches = list(split.batches(EVALUATION_BATCH))
        features, targets = (
            np.concatenate([batch[name].numpy() for batch in batches])
            for name in ("features", "labels")
        )
        if scale := context.data.targets:  # models predict standardised targets
            targets = (targets - [one.mean for one in scale]) / [one.std for one in scale]
        known = (split.strata != UNLABELLED).numpy()
        given = None if split.weights is None else split.weights.numpy()[known]
        with threadpool_limits(context.recipe.threads):
            model.fit(features[known], targets[known], given, seed=seed)
        trees, leaves, seconds = len(model.roots), model.leaves, time.monotonic() - clock
        context.progress.log(f"{label}: fitted {trees:,} trees, {leaves:,} leaves, {seconds:.1f} s")
    save(context, model, weights)
