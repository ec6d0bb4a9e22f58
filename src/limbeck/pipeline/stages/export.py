"""Write the student folder: what ships, and all that is needed to use it without limbeck."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from limbeck.atomic import replacing, write_text
from limbeck.errors import InputError, Problem
from limbeck.models.build import architecture
from limbeck.pipeline.candidate import Candidate, Record, hashes
from limbeck.pipeline.context import Context
from limbeck.pipeline.stage import Stage

Format = Literal["onnx", "safetensors", "huggingface"]


class Export(Stage):
    """Write `student/`: the newest artefact as `model.onnx`, the float weights, the architecture, the preprocessing.

    `onnx` is what is measured and what the verdict is about; `safetensors` adds the float weights with a file that
    builds the network for them; `huggingface` adds a folder that transformers loads.
    """

    needs: ClassVar[tuple[str, ...]] = ("student",)

    format: Annotated[
        Format | list[Format],
        Field(description="What to write beside the ONNX file, which is always written."),
    ] = ["onnx", "safetensors"]

    @field_validator("format")
    @classmethod
    def _once_each(cls, formats: Format | list[Format]) -> Format | list[Format]:
        if isinstance(formats, list) and (not formats or len(set(formats)) < len(formats)):
            raise InputError(Problem("format", formats, "one to three different formats"))
        return formats

    def run(self, candidate: Candidate, context: Context) -> Candidate:
        """Copy the artefact, and write what it needs beside it."""
        return candidate.then(
            context.folder, context.once(lambda: self._export(candidate, context))
        )

    def _export(self, candidate: Candidate, context: Context) -> Record:
        found = candidate.newest("student")
        spec = context.recipe.student
        if found is None or spec is None:  # the chain was checked before anything ran
            raise ValueError("an export stage without a student")
        folder, artefact = found
        student = context.run / "student"
        if student.exists():
            shutil.rmtree(student)  # nothing of an older export may ship with this one
        _copy(folder / artefact.file, context.folder / "model.onnx")
        _copy(folder / artefact.file, student / "model.onnx")
        _copy(_weights(candidate), student / "model.safetensors")
        write_text(student / "architecture.py", architecture(spec, **context.fit))
        context.data.preprocess.save(student)
        formats = [self.format] if isinstance(self.format, str) else self.format
        if "huggingface" in formats:
            self._hugging_face(candidate, context, student / "huggingface")
        return Record(
            stage="export",
            key=context.key,
            seed=context.seed,
            settings=self.model_dump(mode="json"),
            what="ONNX, with weights, architecture and preprocessing beside it",
            artefacts=(
                artefact.model_copy(
                    update={"file": "model.onnx", "weights": (), "label": "shipped student"}
                ),
            ),
            files=hashes(context.folder, ["model.onnx"]),
        )

    def _hugging_face(self, candidate: Candidate, context: Context, folder: Path) -> None:
        from limbeck.export.huggingface import to_folder

        spec = context.recipe.student
        if spec is None or spec.source != "transformers":
            raise InputError(
                Problem(
                    "export.format",
                    "huggingface",
                    "onnx or safetensors, for a model that is not of transformers",
                )
            )
        to_folder(context.build(spec, seed=context.seed, weights=_weights(candidate)), folder)
        context.data.preprocess.save(folder)


def _weights(candidate: Candidate) -> Path:
    """Find the newest float weights of the student; a quantised file has none of its own."""
    for link in reversed(candidate.lineage):
        artefact = link.artefact("student")
        if artefact is not None and artefact.weights:
            return link.folder / artefact.weights[0]
    raise ValueError("a student without weights")


def _copy(source: Path, target: Path) -> None:
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)
