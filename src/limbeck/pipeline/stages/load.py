"""Loading stage: a teacher that was trained elsewhere."""

from __future__ import annotations

from typing import ClassVar

from limbeck.pipeline.candidate import Candidate, State
from limbeck.pipeline.context import Context
from limbeck.pipeline.dry_run import DryRun
from limbeck.pipeline.stage import Stage
from limbeck.pipeline.teacher_checks import check_loaded
from limbeck.pipeline.teachers import member_files, publish_teacher


class Load(Stage):
    """Loading of the teacher's weights; added as the first stage if the teacher has weights.

    As an explicit stage, it uses the teacher as built by its source, with the source's weights.
    """

    produces: ClassVar[tuple[str, ...]] = ("teacher",)

    def dry_run(self, trial: DryRun, *, where: str) -> None:
        """Load every member, and run it once."""
        check_loaded(trial.teachers, trial.context)

    def run(self, candidate: Candidate, context: Context) -> Candidate:
        """Copy the weights into the run, so that it is self-contained, and publish them."""
        specs = context.recipe.teachers
        names = member_files(len(specs))
        notes = context.on_main_process(lambda: self._copy(context, names))
        artefact = publish_teacher(context, State(tuple(context.folder / name for name in names)))
        record = self.record(
            context,
            what="trained elsewhere: " + ", ".join(spec.checkpoint or spec.name for spec in specs),
            artefacts=[artefact.model_copy(update={"weights": names})],
            notes=notes,
        )
        return candidate.append(context.folder, record)

    def _copy(self, context: Context, names: tuple[str, ...]) -> list[str]:
        from limbeck.export.weights import save_weights

        notes: list[str] = []
        for spec, name in zip(context.recipe.teachers, names, strict=True):
            model = context.build(spec, seed=context.seed, notes=notes)
            save_weights(model, context.folder / name)
        return notes
