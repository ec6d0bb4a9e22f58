"""Quantisation stage: of the exported file, or of the model before export."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import model_validator

from limbeck.compress.method import FileMethod
from limbeck.compress.quantizers import QUANTIZERS
from limbeck.core.exits import HasExits
from limbeck.core.registry import Registry
from limbeck.errors import InputError, LimbeckError, Problem, RefusedError
from limbeck.evaluate.flops import parameters
from limbeck.export.compact.onnx import pack
from limbeck.export.predictor import OnnxPredictor
from limbeck.pipeline.artefacts import artefact_of, export, predict_validation, training_batches
from limbeck.pipeline.candidate import Candidate, Record, hashes
from limbeck.pipeline.compression import DRY_RUN_PARAMETERS, Compression
from limbeck.pipeline.context import Context
from limbeck.pipeline.dry_run import DryRun
from limbeck.pipeline.parity import check_file
from limbeck.pipeline.validate import inside

if TYPE_CHECKING:
    from limbeck.compress.onnx_weights import QuantizeRecord
    from limbeck.pipeline.recipe import Recipe


class Quantize(Compression):
    """Quantisation of weights and, with most methods, activations.

    `int8_static`, `int8_dynamic` and the half precisions change the exported file. The others
    change the model: with `finetune` it is trained with fake quantisation (QAT), and under a
    teacher (QAD); without, it is only calibrated on training samples (PTQ).
    """

    registry: ClassVar[Registry] = QUANTIZERS
    verb: ClassVar[str] = "quantised"

    method: str = "int8_static"

    @model_validator(mode="after")
    def _nothing_ignored(self) -> Quantize:
        compressor = self.compressor
        if not isinstance(compressor, FileMethod):
            return self
        ignored = [] if compressor.takes_samples else ["calibration"]
        given = self.model_fields_set & {*ignored, "finetune", "role"}
        allowed = f"nothing, with {self.method}: it changes the file of the student"
        problems = [Problem(name, getattr(self, name), allowed) for name in sorted(given)]
        if problems:
            raise RefusedError(*problems)
        return self

    @property
    def of_file(self) -> bool:
        """Return whether the method changes the exported file instead of the model."""
        return isinstance(self.compressor, FileMethod)

    def needed(self, recipe: Recipe) -> tuple[str, ...]:
        """Return the required artefacts: a student, since a file cannot start from the teacher."""
        return ("student", "float student") if self.of_file else super().needed(recipe)

    def made(self) -> tuple[str, ...]:
        """Return the produced artefacts: the model, unless the method changes the file."""
        return () if self.of_file else super().made()

    def spent(self) -> tuple[str, ...]:
        """Return the consumed artefacts: a quantised file has no float weights to continue from."""
        return ("float student",) if self.of_file else ()

    def validate_in(self, recipe: Recipe) -> list[Problem]:
        """Return problems: settings that the method does not support."""
        return [] if self.of_file else super().validate_in(recipe)

    def dry_run(self, trial: DryRun, *, where: str) -> None:
        """Try the method on the untrained model, or on its exported file."""
        if self.of_file:
            self.check_calibration(trial, where=where)
            self._dry_run_file(trial, where=where)
        else:
            super().dry_run(trial, where=where)

    def _dry_run_file(self, trial: DryRun, *, where: str) -> None:
        """Export the untrained student, and check that its compressed file runs.

        Raises:
            InputError: There is nothing to compress, or ONNX Runtime cannot run the result.
        """
        compressor, context, model = self.compressor, trial.context, trial.student
        if not isinstance(compressor, FileMethod) or parameters(model) >= DRY_RUN_PARAMETERS:
            return
        spec, known = context.recipe.student, compressor.layers
        layers = any(isinstance(part, known) for part in model.modules())
        if spec and spec.source == "limbeck" and layers and not isinstance(model, HasExits):
            return  # limbeck's own nets export, and have what the method compresses
        context.progress.log(f"{where}: trying the method on the untrained student's file")
        batch = {name: tensor.cpu() for name, tensor in trial.batch.items()}
        arrays = {name: tensor.numpy() for name, tensor in batch.items()}
        with tempfile.TemporaryDirectory() as folder:
            plain, small = Path(folder) / "plain.onnx", Path(folder) / "small.onnx"
            trial.export_student(plain)
            try:
                compressor.write(plain, small, calibration=[arrays])
                OnnxPredictor(small).predict(batch)
            except InputError as error:
                raise InputError(*inside(error, where)) from error
            except LimbeckError as error:
                allowed = "a method that fits the model"
                raise InputError(Problem(where, self.method, allowed, str(error))) from error

    def run(self, candidate: Candidate, context: Context) -> Candidate:
        """Quantise, and evaluate the result on the validation samples."""
        if not self.of_file:
            return super().run(candidate, context)
        return candidate.append(
            context.folder, context.on_main_process(lambda: self._file(candidate, context))
        )

    def _file(self, candidate: Candidate, context: Context) -> Record:
        compressor, found = self.compressor, candidate.newest("student")
        if found is None or not isinstance(compressor, FileMethod):  # ensured by the chain check
            raise ValueError("a quantize stage without a student")
        target = context.folder / "model.onnx"
        model = context.restore(context.student_spec, candidate.state("student"))
        with tempfile.TemporaryDirectory() as folder:
            plain = Path(folder) / "model.onnx"
            export(context, model, plain)
            done: QuantizeRecord = compressor.write(
                plain, target, calibration=self._arrays(context)
            )
            size = pack(target).bytes_after
            compared = check_file(
                OnnxPredictor(plain),
                OnnxPredictor(target),
                context.task,
                context.data.validation,
                where=context.where,
                method=self.method,
                tolerance=compressor.tolerance,
            )
        exported = predict_validation(context, target)
        artefact = artefact_of(
            context,
            exported,
            role="student",
            label=f"{self.method.split('_')[0]} student",
            changes=found[1].changes,
            parity=None,
            weights=(),
        )
        return Record(
            stage="quantize",
            key=context.key,
            seed=context.seed,
            settings=self.model_dump(mode="json"),
            what=f"{self.method}, {done.bytes_before:,} to {size:,} bytes",
            artefacts=(artefact,),
            files=hashes(context.folder, [artefact.file]),
            notes=(*_notes(done), f"the file {compared}"),
        )

    def _arrays(self, context: Context) -> Iterator[dict[str, Any]]:
        for batch in training_batches(context, self.calibration):
            yield {name: tensor.numpy() for name, tensor in batch.items()}


def _notes(done: QuantizeRecord) -> Iterator[str]:
    for skipped in done.skipped:
        what = ", ".join(f"{count} {operator}" for operator, count in skipped.operators.items())
        yield f"{what} left in float32: {skipped.reason}"
    if done.note:
        yield done.note
