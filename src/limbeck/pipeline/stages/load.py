"""Take a teacher that was taught elsewhere."""

from __future__ import annotations

from typing import ClassVar

from limbeck.pipeline.candidate import Candidate, Record, hashes
from limbeck.pipeline.context import Context
from limbeck.pipeline.stage import Stage
from limbeck.pipeline.teachers import publish_teacher


class Load(Stage):
    """Load the teacher's weights from where the recipe says; put before the others when the recipe teaches none."""

    makes: ClassVar[tuple[str, ...]] = ("teacher",)

    def run(self, candidate: Candidate, context: Context) -> Candidate:
        """Copy the weights into the run, so that it holds all that it was made from, and publish them."""
        from limbeck.export.weights import save_weights

        names = []
        for number, spec in enumerate(context.recipe.teachers):
            name = (
                "model.safetensors"
                if len(context.recipe.teachers) == 1
                else f"member-{number}/model.safetensors"
            )
            save_weights(context.build(spec, seed=context.seed), context.folder / name)
            names.append(name)
        artefact = publish_teacher(context, [context.folder / name for name in names])
        record = Record(
            stage="load",
            key=context.key,
            seed=context.seed,
            settings={},
            what="taught elsewhere: "
            + ", ".join(str(spec.weights) for spec in context.recipe.teachers),
            artefacts=(artefact.model_copy(update={"weights": tuple(names)}),),
            files=hashes(context.folder, [artefact.file, *names]),
        )
        return candidate.then(context.folder, record)
