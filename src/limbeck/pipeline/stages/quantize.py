"""Quantise the student's exported file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from limbeck.compress.quantizers import QUANTIZERS
from limbeck.errors import InputError, Problem
from limbeck.pipeline.candidate import Candidate, Record, hashes
from limbeck.pipeline.context import Context
from limbeck.pipeline.problems import RefusedError
from limbeck.pipeline.stage import Stage

if TYPE_CHECKING:
    from limbeck.compress.quantize_record import QuantizeRecord

STATIC = "int8_static"


class Quantize(Stage):
    """Turn the student's weights, and with `int8_static` its activations, into eight bits."""

    needs: ClassVar[tuple[str, ...]] = ("student", "float student")
    spends: ClassVar[tuple[str, ...]] = ("float student",)

    method: str = STATIC
    calibration: Annotated[
        int, Field(ge=1, description="Training samples from which activations' ranges are taken.")
    ] = 512
    ranges: Annotated[
        Literal["minmax", "entropy", "percentile"],
        Field(description="How a range is taken from what was seen; for int8_static."),
    ] = "minmax"

    @field_validator("method")
    @classmethod
    def _known(cls, method: str) -> str:
        try:
            QUANTIZERS.load(method, where="method")
        except InputError as error:
            raise RefusedError(*error.problems) from error
        return method

    @model_validator(mode="after")
    def _nothing_ignored(self) -> Quantize:
        ignored = self.model_fields_set & {"calibration", "ranges"}
        if self.method != STATIC and ignored:
            allowed = f"nothing, with {self.method}: it takes no ranges beforehand"
            raise RefusedError(
                *(Problem(name, getattr(self, name), allowed) for name in sorted(ignored))
            )
        return self

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
        settings = {"ranges": self.ranges} if self.method == STATIC else {}
        done: QuantizeRecord = QUANTIZERS.load(self.method)(
            folder / student.file, target, calibration=self._samples(context), **settings
        )
        artefact = context.artefact(
            role="student",
            label=f"{self.method.split('_')[0]} student",
            exported=context.answers(target),
            parity=None,
            weights=(),
        )
        return Record(
            stage="quantize",
            key=context.key,
            seed=context.seed,
            settings=self.model_dump(mode="json"),
            what=f"{self.method}, {done.bytes_before:,} to {done.bytes_after:,} bytes",
            artefacts=(artefact,),
            files=hashes(context.folder, [artefact.file]),
            notes=tuple(_notes(done)),
        )

    def _samples(self, context: Context) -> Iterator[dict[str, Any]]:
        """Take the first training samples as they are, without augmentation."""
        left = self.calibration
        for batch in context.batches(context.data.train):
            yield {name: tensor[:left].numpy() for name, tensor in batch.items()}
            left -= len(batch["label"])
            if left <= 0:
                return


def _notes(done: QuantizeRecord) -> Iterator[str]:
    for skipped in done.skipped:
        what = ", ".join(f"{count} {operator}" for operator, count in skipped.operators.items())
        yield f"{what} left in float32: {skipped.reason}"
    if done.note:
        yield done.note
