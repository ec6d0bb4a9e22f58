"""Gather what ships, and all that is needed to use it without limbeck."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from limbeck.atomic import replacing, write_text
from limbeck.compress.bake import bake, structural
from limbeck.compress.change import Change
from limbeck.compress.changes import CHANGES
from limbeck.errors import InputError, Problem
from limbeck.export.changed import changed_architecture
from limbeck.models.build import architecture, modules
from limbeck.pipeline.candidate import Candidate, Record, hashes
from limbeck.pipeline.context import Context
from limbeck.pipeline.problems import RefusedError
from limbeck.pipeline.stage import Stage
from limbeck.report.usage import loading_code

if TYPE_CHECKING:
    from torch import nn

    from limbeck.models.spec import ModelSpec
    from limbeck.pipeline.recipe import Recipe
    from limbeck.pipeline.rehearsal import Rehearsal

ROWS = 8
"""Validation rows that the shipped code has to predict as the model does."""

MODULES = 200
"""Modules of the user's own that are shipped beside a model at most."""

Format = Literal["onnx", "safetensors", "huggingface"]


class Export(Stage):
    """Gather what `student/` will hold: the newest file, the float weights, the preprocessing.

    `model.onnx` is what is measured and what the verdict is about, and is always there, with the
    float weights and a file that builds the network for them. `huggingface` adds a folder that
    transformers loads.
    """

    needs: ClassVar[tuple[str, ...]] = ("student",)

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
        """The formats as a list."""
        return self.format if isinstance(self.format, list) else [self.format]

    def misfits(self, recipe: Recipe) -> list[Problem]:
        """Refuse the Hugging Face folder of a model that transformers does not know."""
        if "huggingface" not in self.formats or recipe.small is None:
            return []
        if recipe.small.source == "transformers":
            return []
        allowed = "onnx or safetensors, for a model that is not of transformers"
        return [Problem("format", "huggingface", allowed)]

    def rehearse(self, rehearsal: Rehearsal, *, where: str) -> None:
        """Try whether the user's own code makes the model alone; that of libraries does.

        Raises:
            InputError: It reads or imports what is not shipped.
        """
        from limbeck.export.weights import save_weights

        context = rehearsal.context
        if context.recipe.small is None or context.recipe.small.source != "python":
            return
        context.watch.say(f"{where}: trying the student's code alone")
        spec = context.small.model_copy(update={"weights": None})
        model = context.build(spec, seed=context.seed).eval()
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            write_code(spec, context, (), folder)
            save_weights(model, folder / "model.safetensors")
            check_code(model, context, folder, where="student.name")

    def run(self, candidate: Candidate, context: Context) -> Candidate:
        """Copy the artefact, and write what it needs beside it."""
        return candidate.then(
            context.folder, context.once(lambda: self._export(candidate, context))
        )

    def _export(self, candidate: Candidate, context: Context) -> Record:
        from limbeck.export.weights import save_weights
        from limbeck.passport import stamp_folder
        from limbeck.pipeline.facts import stamp_facts

        found, spec = candidate.newest("student"), context.small
        if found is None:  # the chain was checked before anything ran
            raise ValueError("an export stage without a student")
        source, artefact = found
        _copy(source / artefact.file, context.folder / "model.onnx")
        model, changes = self._plain(candidate, context)
        save_weights(model, context.folder / "model.safetensors")
        write_code(spec, context, changes, context.folder)
        check_code(model, context, context.folder, where="student/architecture.py")
        context.data.preprocess.save(context.folder)
        if "huggingface" in self.formats:
            self._hugging_face(model, context)
        # Before anything is measured, so that what is measured is what ships.
        stamp_folder(stamp_facts(candidate, context))
        shipped = {"file": "model.onnx", "weights": (), "label": "shipped student"}
        return Record(
            stage="export",
            key=context.key,
            seed=context.seed,
            settings=self.model_dump(mode="json"),
            what="ONNX, with weights, architecture and preprocessing beside it",
            artefacts=(artefact.model_copy(update=shipped),),
            files=hashes(context.folder, _listed(context.folder)),
        )

    def _plain(self, candidate: Candidate, context: Context) -> tuple[nn.Module, list[Change]]:
        """Give the newest weights as any network holds them, and what changed its structure."""
        state = candidate.state("student")
        model = context.restore(context.small, state)
        bake(model)
        return model, structural(state.changes)

    def _hugging_face(self, model: nn.Module, context: Context) -> None:
        from limbeck.export.huggingface import to_folder

        to_folder(model, context.folder / "huggingface")
        context.data.preprocess.save(context.folder / "huggingface")


def write_code(spec: ModelSpec, context: Context, changes: Sequence[Change], folder: Path) -> None:
    """Write `architecture.py`, and the user's own modules that it imports beside it.

    Raises:
        InputError: A module cannot be shipped.
    """
    dense = architecture(spec, **context.fit)
    write_text(folder / "architecture.py", changed_architecture(dense, changes, CHANGES.package))
    needed = modules(spec)
    problems = [
        Problem("student.name", f"{dotted}, imported from {file}", allowed, fix)
        for dotted, file in needed.items()
        for allowed, fix in _why_not(dotted, file, len(needed))
    ]
    if problems:
        raise InputError(*problems)
    for dotted, file in needed.items():
        place = folder.joinpath(*dotted.split("."))
        target = place / file.name if file.name == "__init__.py" else place.with_suffix(".py")
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy(file, target)


def _why_not(dotted: str, file: Path, count: int) -> Iterator[tuple[str, str]]:
    """Give reasons why a module cannot be shipped: what is allowed, and the fix."""
    if file.suffix != ".py":
        yield "modules of Python source", "Install it as a package."
    if dotted == "architecture":
        yield "another name: the student's own file is called so", "Rename the module."
    if count > MODULES:
        fix = "Install what the model needs as a package."
        yield f"at most {MODULES} modules beside a model, not {count}", fix


def check_code(model: nn.Module, context: Context, folder: Path, *, where: str) -> None:
    """Check that the code and weights in a folder make the model in a process of its own.

    Raises:
        InputError: They do not.
    """
    from limbeck.export.predictor import TorchPredictor
    from limbeck.export.standalone import check_standalone

    rows = context.data.validation
    batch = rows.__getitems__(rows.spread(ROWS))
    inputs = {name: batch[name].numpy() for name in context.task.inputs}
    expected = TorchPredictor(model.cpu(), context.task).predict(inputs)["logits"]
    code = loading_code(context.task.name)
    check_standalone(folder, code, inputs, expected, where=where)


def _listed(folder: Path) -> list[str]:
    """List what ships: all files but the note of what was started."""
    files = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return [name for name in files if name != "started"]


def _copy(source: Path, target: Path) -> None:
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)
