"""Quantise the student's exported file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator

from limbeck.compress.quantizers import QUANTIZERS
from limbeck.pipeline.candidate import Candidate, Record, hashes
from limbeck.pipeline.context import Context
from limbeck.pipeline.stage import Stage


class Quantize(Stage):
    """Turn the student's weights, and with `int8_static` its activations, into eight bits."""

    needs: ClassVar[tuple[str, ...]] = ("student",)

    method: str = "int8_static"
    calibration: Annotated[
        int,
        Field(ge=1, description="Training samples from which the ranges of activations are taken."),
    ] = 512
    ranges: Annotated[
        str, Field(description="How a range is taken: minmax, entropy or percentile.")
    ] = "minmax"

    @field_validator("method")
    @classmethod
    def _known(cls, method: str) -> str:
        QUANTIZERS.load(method, where="method")
        return method

    def run(self, candidate: Candidate, context: Context) -> Candidate:
        """Quantise, and measure what came out on the validation samples."""
        return candidate.then(
            context.folder, context.once(lambda: self._quantize(candidate, context))
        )

    def _quantize(self, candidate: Candidate, context: Context) -> Record:
        found = candidate.newest("student")
        if found is None:  # the chain was checked before anything ran
            raise ValueError("a quantize stage without a student")
        folder, student = found
        target = context.folder / "model.onnx"
        settings = {"ranges": self.ranges} if self.method == "int8_static" else {}
        done = QUANTIZERS.load(self.method)(
            folder / student.file, target, calibration=self._samples(context), **settings
        )
        label = f"{self.method.split('_')[0]} student"
        exported = context.answers(target)
        artefact = context.artefact(
            role="student",
            label=label,
            exported=exported,
            parity=None,
            weights=(),
        )
        notes = [
            ", ".join(f"{count} {operator}" for operator, count in skipped.operators.items())
            + f" left in float32: {skipped.reason}"
            for skipped in done.skipped
        ]
        return Record(
            stage="quantize",
            key=context.key,
            seed=context.seed,
            settings=self.model_dump(mode="json"),
            what=f"{self.method}, {done.bytes_before:,} to {done.bytes_after:,} bytes",
            artefacts=(artefact,),
            files=hashes(context.folder, [artefact.file]),
            notes=tuple(notes) + ((done.note,) if done.note else ()),
        )

    def _samples(self, context: Context) -> Iterator[dict[str, Any]]:
        """Take the first training samples as they are, without augmentation."""
        left = self.calibration
        for batch in context.batches(context.data.train):
            yield {name: tensor[:left].numpy() for name, tensor in batch.items()}
            left -= len(batch["label"])
            if left <= 0:
                return
