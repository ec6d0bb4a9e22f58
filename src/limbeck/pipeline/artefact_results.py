"""Test results of a seed: metrics and costs of every artefact, class similarity, disagreements."""

from __future__ import annotations

import base64
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from scipy.special import softmax

from limbeck.core import fingerprint
from limbeck.core.files import read_json, write_json
from limbeck.core.measurement import Result, ScoreValue
from limbeck.errors import InputError
from limbeck.evaluate.calibration.metrics import calibration
from limbeck.evaluate.costs import Cost
from limbeck.evaluate.detail_results import TaskDetails
from limbeck.evaluate.details import Pair, Source, task_details
from limbeck.evaluate.flops import flops, parameters
from limbeck.evaluate.measure import THROUGHPUT_BATCH, measure
from limbeck.evaluate.measure import Artefact as Costed
from limbeck.evaluate.metrics import confusion_matrix, fidelity, pack_right
from limbeck.export.predictor import OnnxPredictor, Predictions
from limbeck.pipeline.artefacts import (
    arrays,
    evaluation_batch,
    predict_split,
    predict_validation,
)
from limbeck.pipeline.candidate import Artefact, Candidate
from limbeck.pipeline.generated_texts import generated_texts
from limbeck.report.result import Disagreement, Measured
from limbeck.tasks import details_of, is_classifier

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from limbeck.data.split import Split
    from limbeck.pipeline.context import Context
    from limbeck.tasks import Batch


SHOWN = 12
TIMED = 100
"""The number of samples that are timed in turn where the time depends on the sample."""

SIMILARITY_TEMPERATURE = 4.0


def similarity(predictions: Predictions, classes: int) -> tuple[tuple[float, ...], ...]:
    """Compute the mean softened teacher probabilities per class, one class per row."""
    soft = _softmax(predictions.logits, SIMILARITY_TEMPERATURE)
    rows = [soft[predictions.labels == number] for number in range(classes)]
    none = (0.0,) * classes
    return tuple(tuple(row.mean(axis=0).tolist()) if len(row) else none for row in rows)


def disagreements(teacher: Predictions, student: Predictions) -> list[int]:
    """Return the samples with different top classes, by descending student confidence."""
    rows = np.flatnonzero(teacher.logits.argmax(1) != student.logits.argmax(1))
    confidence = _softmax(student.logits)[rows].max(axis=1)
    return [int(row) for row in rows[np.argsort(-confidence, kind="stable")]]


def disagreement(
    index: int, split: Split, teacher: Predictions, student: Predictions
) -> Disagreement:
    """Build the record of one sample with both predictions."""
    raw = split.raw(index)
    png = None
    if "image" in raw:
        buffer = io.BytesIO()
        raw["image"].save(buffer, format="PNG")
        png = base64.b64encode(buffer.getvalue()).decode()
    return Disagreement(
        index=index,
        label=int(teacher.labels[index]),
        teacher=tuple(_softmax(teacher.logits[index : index + 1])[0].tolist()),
        student=tuple(_softmax(student.logits[index : index + 1])[0].tolist()),
        image=png,
        text=raw.get("text"),
    )


def _softmax(logits: NDArray[np.float32], temperature: float = 1.0) -> NDArray[np.float64]:
    probabilities: NDArray[np.float64] = softmax(logits.astype(np.float64) / temperature, axis=1)
    return probabilities


class ArtefactId(Result):
    """Identifier of an artefact: the index of its stage in the lineage, and its role."""

    stage: int
    role: str


class ArtefactResults(Result):
    """The test results of one seed.

    Attributes:
        key: The hash of all inputs.
        places: The artefact of each entry of `measured`.
        measured: The metrics of each artefact.
        class_similarity: The teacher's mean soft prediction per class, on validation.
        disagreements: Test samples on which teacher and shipped student disagree.
        disagreement_count: The total number of disagreements.
        details: Scores by class or step, agreement and samples, if the task has such details; of
            the first seed only.
    """

    key: str
    places: tuple[ArtefactId, ...]
    measured: tuple[Measured, ...]
    class_similarity: tuple[tuple[float, ...], ...] | None
    disagreements: tuple[Disagreement, ...]
    disagreement_count: int
    details: TaskDetails | None = None

    def find(self, stage: int, role: str) -> Measured:
        """Return the metrics of one artefact."""
        return self.measured[self.places.index(ArtefactId(stage=stage, role=role))]


def artefact_results(candidate: Candidate, context: Context) -> ArtefactResults:
    """Compute a seed's test results, or load saved ones of the same files."""
    path = context.run / "examination.json"
    try:
        done = ArtefactResults.model_validate(read_json(path))
        if done.key == context.key:
            context.progress.log(f"examination, seed {context.seed}: unchanged, reused")
            return done
    except (InputError, ValidationError):
        pass  # missing, or of another version: compute again
    context.progress.begin(f"examination on the test samples, seed {context.seed}")
    results = _compute(candidate, context)
    write_json(path, results.model_dump(mode="json"))
    return results


@dataclass(frozen=True)
class _Tested:
    """An artefact, its file, and the file's test predictions and costs."""

    place: ArtefactId
    artefact: Artefact
    path: Path
    digest: str
    predictions: Predictions | None
    scores: tuple[ScoreValue, ...]
    cost: Cost


def _compute(candidate: Candidate, context: Context) -> ArtefactResults:
    tested = _tested(candidate, context)
    # The newest of each role.
    newest = {one.artefact.role: one for one in tested}
    teacher, student = newest.get("teacher"), newest.get("student")
    for one in (teacher, student):
        if one is not None and one.predictions is not None:
            context.tested[one.artefact.role] = one.predictions
    rows: list[int] = []
    shown: list[Disagreement] = []
    before, after = (_classified(one, context) for one in (teacher, student))
    if before and after:
        rows = disagreements(before, after)
        shown = [disagreement(row, context.data.test, before, after) for row in rows[:SHOWN]]
    return ArtefactResults(
        key=context.key,
        places=tuple(one.place for one in tested),
        measured=tuple(_measured(one, teacher, context) for one in tested),
        class_similarity=_similarity(teacher, context),
        disagreements=tuple(shown),
        disagreement_count=len(rows),
        details=_details(teacher, student, context),
    )


def _details(
    teacher: _Tested | None, student: _Tested | None, context: Context
) -> TaskDetails | None:
    """Compute the details of the task, if it has any, for the newest student of the first seed."""
    details = details_of(context.task)
    if details is None or student is None or context.seed != context.recipe.seeds[0]:
        return None
    own, split = OnnxPredictor(student.path), context.data.test
    reference = None if teacher is None else OnnxPredictor(teacher.path)

    def pair(batch: Batch) -> Pair:
        return Pair(
            batch=arrays(batch),
            weights=arrays(context.task.weights(batch)),
            student=own.predict(batch),
            teacher=None if reference is None else reference.predict(batch),
        )

    def batches() -> Iterator[Pair]:
        size = min(evaluation_batch(one, split) for one in (own, reference) if one is not None)
        return map(pair, split.batches(size))

    def rows(indices: Sequence[int]) -> Pair:
        return pair(split.for_evaluation().__getitems__(indices))

    source = Source(batches=batches, rows=rows, raw=split.raw, samples=len(split))
    try:
        found = task_details(details, source, seed=context.seed)
        return found.model_copy(update={"texts": generated_texts(own, reference, context)})
    # Functions of a user's task raise errors of many types; the trained student is kept.
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
        context.progress.log(f"details of {context.task.name}: failed: {problem}")
        return TaskDetails(problem=problem)


def _classified(one: _Tested | None, context: Context) -> Predictions | None:
    """Return the predictions of an artefact, if they are one class per sample."""
    return one.predictions if one and is_classifier(context.task) else None


def _similarity(teacher: _Tested | None, context: Context) -> tuple[tuple[float, ...], ...] | None:
    if teacher is None or not is_classifier(context.task):
        return None
    predictions = predict_validation(context, teacher.path).predictions
    return similarity(predictions, len(context.task.classes)) if predictions else None


def _tested(candidate: Candidate, context: Context) -> list[_Tested]:
    """Predict the test samples with every artefact; identical files are run once."""
    artefacts = [
        (ArtefactId(stage=number, role=artefact.role), artefact, link.folder / artefact.file)
        for number, link in enumerate(candidate.lineage)
        for artefact in link.record.artefacts
    ]
    digests = [fingerprint.of_file(path) for _, _, path in artefacts]
    files = {
        digest: (path, artefact)
        for digest, (_, artefact, path) in zip(digests, artefacts, strict=True)
    }
    progress_bar = context.progress.progress_bar("test samples")
    predictions = {}
    for number, (digest, (path, artefact)) in enumerate(files.items(), start=1):
        predictions[digest] = predict_split(context, OnnxPredictor(path), context.data.test)
        progress_bar.update(number, len(files), artefact.label)
    costs = _costs(files, context)
    return [
        _Tested(
            place,
            artefact,
            path,
            digest,
            predictions[digest].predictions,
            predictions[digest].values,
            costs[digest],
        )
        for digest, (place, artefact, path) in zip(digests, artefacts, strict=True)
    ]


def _costs(files: dict[str, tuple[Path, Artefact]], context: Context) -> dict[str, Cost]:
    """Measure the cost of every file, interleaved."""
    # The reported costs are those of the shipped file, the first seed's. Networks of other seeds
    # differ only in their weights, and are measured briefly as a check.
    first = context.seed == context.recipe.seeds[0]
    split, rows = context.data.validation, [0]
    if any(artefact.time_varies for _, artefact in files.values()):
        rows = split.spread(TIMED)
    return measure(
        {digest: _costed(path, artefact, context) for digest, (path, artefact) in files.items()},
        split.__getitems__(rows),
        several=split.__getitems__(range(min(THROUGHPUT_BATCH, len(split)))),
        samples=len(rows),
        seconds=2.0 if first else 0.3,
        throughput_seconds=0.5 if first else 0.1,
        energy_method="auto" if first else "off",
    )


def _costed(path: Path, artefact: Artefact, context: Context) -> Costed:
    """Return a file with the parameters and FLOPs of its network."""
    specs = context.recipe.teachers if artefact.role == "teacher" else [context.student_spec]
    example = context.data.validation.__getitems__([0])
    plain = [spec.model_copy(update={"checkpoint": None}) for spec in specs]
    # Trees take their sizes from their weights; those of a student may lie in another folder.
    own = artefact.weights if artefact.role == "teacher" else ()
    weights: list[Path | None] = [path.parent / name for name in own]
    models = [
        context.build(spec, seed=0, weights=file, changes=artefact.changes)
        for spec, file in zip(plain, weights or [None] * len(plain), strict=True)
    ]
    operations = sum(flops(model, context.task, example) for model in models)
    return Costed(path, parameters=sum(map(parameters, models)), flops=operations)


def _measured(one: _Tested, teacher: _Tested | None, context: Context) -> Measured:
    found = _classified(one, context)
    compared = None if one.artefact.role == "teacher" else _classified(teacher, context)
    return Measured(
        seed=context.seed,
        file=Path(os.path.relpath(one.path, context.run)).as_posix(),
        digest=one.digest,
        validation_score=one.artefact.validation_score,
        scores=one.scores,
        fidelity=fidelity(found, compared) if found and compared else None,
        calibration=calibration(found) if found else None,
        cost=one.cost,
        parity=one.artefact.parity,
        confusion=confusion_matrix(found) if found else (),
        right=pack_right(found) if found else "",
        majority=_majority(context.data.test) if found else None,
    )


def _majority(split: Split) -> float:
    """Compute the share of the most frequent class, by the weights of the samples."""
    weights = None if split.weights is None else split.weights.double()
    counts = split.labels.bincount(weights)
    return float(counts.max() / counts.sum())
