"""Export stage: the shipped files, usable without limbeck."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from limbeck.compress.materialize import materialize, structural
from limbeck.core.files import replacing
from limbeck.errors import Problem, RefusedError
from limbeck.export.onnx import embed_classes
from limbeck.pipeline.candidate import Candidate, Record
from limbeck.pipeline.context import Context
from limbeck.pipeline.stage import Stage
from limbeck.pipeline.student_files import (
    check_code,
    try_code,
    try_folder,
    write_code,
    write_folder,
)

if TYPE_CHECKING:
    from limbeck.pipeline.dry_run import DryRun
    from limbeck.pipeline.recipe import Recipe

Format = Literal["onnx", "safetensors", "huggingface"]


class Export(Stage):
    """The contents of `student/`: the newest file, the float weights, the preprocessing.

    `model.onnx`, which is measured and judged, is always written, with the float weights and a file
    that builds their network. `huggingface` adds a folder for transformers.
    """

    requires: ClassVar[tuple[str, ...]] = ("student",)

    format: Annotated[
        Format | list[Format],
        Field(description="ONNX and safetensors are always written; huggingface adds a folder."),
    ] = "onnx"

    @field_validator("format")
    @classmethod
    def _once_each(cls, formats: Format | list[Format]) -> Format | list[Format]:
        if isinstance(formats, list) and (not formats or len(set(formats)) < len(formats)):
            raise RefusedError(Problem("format", formats, "one to three different formats"))
        return formats

    @property
    def formats(self) -> list[Format]:
        """Return the formats as a list."""
        return self.format if isinstance(self.format, list) else [self.format]

    def validate_in(self, recipe: Recipe) -> list[Problem]:
        """Return problems: a Hugging Face folder of a model that is not from transformers."""
        if "huggingface" not in self.formats or recipe.student_spec is None:
            return []
        if recipe.student_spec.source == "transformers":
            return []
        allowed = "onnx or safetensors, for a model that is not of transformers"
        return [Problem("format", "huggingface", allowed)]

    def dry_run(self, trial: DryRun, *, where: str) -> None:
        """Check that transformers loads its folder, and that the user's code is self-contained.

        Raises:
            InputError: The structure was changed, or the code reads or imports files that do not
                ship.
        """
        context = trial.context
        if context.recipe.student_spec is None:
            return
        student = trial.student  # its problems are reported once, for every source
        if "huggingface" in self.formats:
            model = copy.deepcopy(student)
            materialize(model)
            try_folder(model, context, where=where)
        if context.recipe.student_spec.source == "python":
            context.progress.log(f"{where}: trying the student's code alone")
            try_code(context)

    def run(self, candidate: Candidate, context: Context) -> Candidate:
        """Copy the artefact, and write the files that its use requires."""
        return candidate.append(
            context.folder, context.on_main_process(lambda: self._export(candidate, context))
        )

    def _export(self, candidate: Candidate, context: Context) -> Record:
        from limbeck.export.weights import save_weights
        from limbeck.passport import embed_metadata
        from limbeck.pipeline.passport_inputs import stamp_facts

        found, spec = candidate.newest("student"), context.student_spec
        if found is None:  # ensured by the chain check
            raise ValueError("an export stage without a student")
        source, artefact = found
        _copy(source / artefact.file, context.folder / "model.onnx")
        embed_classes(context.folder / "model.onnx", context.data.outputs)
        state = candidate.state("student")
        model, changes = context.restore(spec, state), structural(state.changes)
        materialize(model)
        save_weights(model, context.folder / "model.safetensors")
        context.data.preprocess.save(context.folder)
        write_code(spec, context, changes, context.folder)
        check_code(model, context, context.folder, where="student/architecture.py")
        if "huggingface" in self.formats:
            write_folder(model, context, context.folder / "huggingface")
        # Before any measurement, so that the shipped file is the measured one.
        embed_metadata(stamp_facts(candidate, context))
        shipped = {"file": "model.onnx", "weights": (), "label": "shipped student"}
        return self.record(
            context,
            what="ONNX, with weights, architecture and preprocessing beside it",
            artefacts=[artefact.model_copy(update=shipped)],
            files=_listed(context.folder),
        )


def _listed(folder: Path) -> list[str]:
    """Return the shipped files: all but the record of started work."""
    files = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return [name for name in files if name != "started"]


def _copy(source: Path, target: Path) -> None:
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)
