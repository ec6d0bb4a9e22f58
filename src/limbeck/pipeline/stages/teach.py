"""Train the teacher: the model that is too big."""

from __future__ import annotations

from typing import ClassVar

from limbeck import methods
from limbeck.objective import Objective
from limbeck.pipeline.candidate import Candidate, Record, hashes
from limbeck.pipeline.context import Context
from limbeck.pipeline.stage import Stage
from limbeck.pipeline.teachers import publish_teacher
from limbeck.pipeline.train import train, training_of
from limbeck.training import Training


class Teach(Training, Stage):
    """Train the teacher on the labels; an ensemble's members one after another, each from a seed of its own."""

    makes: ClassVar[tuple[str, ...]] = ("teacher",)

    def run(self, candidate: Candidate, context: Context) -> Candidate:
        """Train every member, and publish what they say together."""
        specs = context.recipe.teachers
        weights, curves = [], []
        for number, spec in enumerate(specs):
            name = "model.safetensors" if len(specs) == 1 else f"member-{number}/model.safetensors"
            label = "teacher" if len(specs) == 1 else f"teacher {number + 1} of {len(specs)}"
            # Far apart, so that no member of one seed is a member of the next.
            model = context.build(spec, seed=context.seed + 1_000_003 * number)
            objective = Objective(methods.label_only())
            curves.append(
                train(
                    context,
                    model,
                    objective=objective,
                    settings=training_of(self),
                    label=label,
                    weights=name,
                )
            )
            weights.append(name)
        artefact = publish_teacher(context, [context.folder / name for name in weights])
        record = Record(
            stage="teach",
            key=context.key,
            seed=context.seed,
            settings=self.model_dump(mode="json"),
            what="trained on the labels" + (f", {len(specs)} members" if len(specs) > 1 else ""),
            artefacts=(artefact.model_copy(update={"weights": tuple(weights)}),),
            files=hashes(context.folder, [artefact.file, *weights]),
            curves=tuple(curves),
        )
        return candidate.then(context.folder, record)
